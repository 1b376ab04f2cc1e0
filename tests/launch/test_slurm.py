"""launch/slurm.sbatch on a real Slurm: a job of two tasks trains, is stopped, is requeued, and goes on to its end.

Needs Debian's packages slurm-wlm and munge, and root, since the daemons are started here, on this machine alone.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from research import config
from research.config import MLP, Attention, Causal, Checkpoint, Data, Evaluation, Experiment, Logging, Model, Schedule

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scancel", "scontrol", "squeue", "srun")
STEPS = 400

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(shutil.which(program) is None for program in PROGRAMS) or os.getuid() != 0,
        reason="needs Slurm and root: apt-get install --no-install-recommends slurm-wlm munge",
    ),
]


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def wait_for(condition, seconds, told=lambda: ""):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s\n{told()}"
        time.sleep(1)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A cluster of this machine; the environment in which its commands find it."""
    folder = tmp_path_factory.mktemp("slurm")
    folder.chmod(0o755)
    host = socket.gethostname().split(".")[0]
    (folder / "key").write_bytes(os.urandom(128))
    (folder / "key").chmod(0o400)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "slurm.conf").write_text(
        f"""ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={free_port()}
SlurmdPort={free_port()}
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""
    )
    munged = ["munged", "--foreground", "--force", f"--key-file={folder}/key", f"--socket={folder}/munge.socket"]
    munged += [f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log", f"--seed-file={folder}/seed"]
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    daemons = []
    try:
        for command in (munged, ["slurmctld", "-c", "-D"], ["slurmd", "-D", "-N", host]):
            with open(folder / f"{command[0]}.out", "w", encoding="utf-8") as out:
                daemons.append(subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT))
            time.sleep(2)

        def idle() -> bool:
            shown = subprocess.run(["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True)
            return shown.stdout.strip() == "idle"

        def logs() -> str:
            return "\n".join(path.read_text()[-2000:] for path in folder.glob("*.out"))

        wait_for(idle, 60, logs)
        yield environment
    finally:
        for daemon in reversed(daemons):
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()


@pytest.fixture
def clone(tmp_path):
    """The repository, whose installation does nothing: what it would install runs this test."""
    folder = tmp_path / "clone"
    for name in ("research", "launch"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "launch" / "install.py").write_text("")
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (folder / ".venv" / "bin" / "python").chmod(0o755)
    return folder


def test_a_job_of_two_tasks_is_stopped_requeued_and_ends(slurm, clone, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"{n} and {n * n} are a number and its square." for n in range(400)))
    experiment = Experiment(
        model=Model(width=16, depth=1, attention=Attention(heads=2), mlp=MLP(width=32)),
        objectives=(Causal(),),
        data=Data(
            source=f"text:{text}", tokenizer="bytes", length=32, batch=8, held_out=0.2, cache=str(tmp_path / "c")
        ),
        schedule=Schedule(steps=STEPS, warmup=2),
        checkpoint=Checkpoint(every=20),
        evaluation=Evaluation(every=0, batches=1, samples=False),
        logging=Logging(every=10, tensorboard=False),
    )
    config.save(experiment, tmp_path / "experiment.json")
    run, log = tmp_path / "run", tmp_path / "log.txt"
    environment = {**slurm, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(clone)}

    def command(*words: str) -> str:
        done = subprocess.run(words, env=environment, cwd=clone, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def told() -> str:
        return log.read_text() if log.exists() else "no log"

    options = ("--parsable", "--ntasks-per-node=2", "--gpus-per-node=0", "--cpus-per-task=1", f"--output={log}")
    training = ("train", str(tmp_path / "experiment.json"), "--workdir", str(run))
    job = command("sbatch", *options, "launch/slurm.sbatch", *training).strip()
    wait_for(lambda: any((run / "checkpoints").glob("[0-9]*")), 900, told)
    command("scancel", "--batch", "--signal=TERM", job)
    wait_for(lambda: "requeued, and goes on" in told(), 300, told)
    assert "SIGTERM: saved at step" in told() and not (run / "result.json").exists()

    def again() -> bool:
        subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], env=environment, capture_output=True)
        return (run / "result.json").exists()

    wait_for(again, 900, told)
    wait_for(lambda: not command("squeue", "--noheader", "--states=R,CG", f"--jobs={job}").strip(), 60, told)
    assert json.loads((run / "result.json").read_text())["steps"] == STEPS
    assert json.loads((run / "experiment.json").read_text())["hardware"]["processes"] == 2
