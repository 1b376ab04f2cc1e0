"""Runs of several processes on this machine, for tests: how they are started, and how they end."""

import os
import platform
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from research import config
from research.config import (
    MLP,
    Attention,
    Causal,
    Checkpoint,
    Data,
    Evaluation,
    Experiment,
    Logging,
    Masked,
    Model,
    Optimizer,
    Probes,
    Schedule,
)
from research.runs.records import FILE, read
from research.runtime import processes
from research.training import checkpoint

ENDLESS = 100_000
PATIENCE = 600  # seconds that a busy machine may take
DEVICES = 2  # of each process
started: list[subprocess.Popen] = []


def endless(folder: Path) -> Experiment:
    """Its text and its cache are in a folder. Its course does not depend on the number of steps, so that a shorter run
    is the beginning of a longer one."""
    text = folder / "text.txt"
    text.write_text("\n".join(f"{n} and {n * n} are a number and its square." for n in range(400)))
    return Experiment(
        model=Model(
            width=16, depth=1, dropout=0.1, attention=Attention(heads=4, kv_heads=2, dropout=0.1), mlp=MLP(width=32)
        ),
        objectives=(Causal(), Masked()),
        data=Data(source=f"text:{text}", tokenizer="bytes", length=32, batch=8, held_out=0.2, cache=str(folder / "c")),
        optimizer=Optimizer(learning_rate=1e-3),
        schedule=Schedule(steps=ENDLESS, warmup=2, name="inverse_square_root"),
        checkpoint=Checkpoint(every=2, keep_last=100),
        evaluation=Evaluation(every=0, final_batches=2, samples=False, probes=Probes(continuations=(("1 and", " 1"),))),
        logging=Logging(every=1, tensorboard=False),
    )


def until(experiment: Experiment, steps: int, **evaluation) -> Experiment:
    schedule = replace(experiment.schedule, steps=steps)
    return replace(experiment, schedule=schedule, evaluation=replace(experiment.evaluation, **evaluation))


def start(experiment: Experiment, folder: Path, count: int, *options: str, **how):
    """Processes that train, as `launch` gives them."""
    path = folder.with_suffix(".json")
    config.save(experiment, path)
    return launch(folder, count, "train", str(path), "--workdir", str(folder), *options, **how)


def launch(folder: Path, count: int, *arguments: str, program=("-P", "-m", "research"), host="127.0.0.1", prefix=((),)):
    """Processes with two devices each, and the files, beside a folder, of what they say.

    Args:
      program: for Python, before the arguments.
      host: the address of process 0.
      prefix: for each process, the command that runs it; one for all, or one for each.
    """
    with socket.socket() as free:
        free.bind(("", 0))
        address = f"{host}:{free.getsockname()[1]}"
    command = [sys.executable, *program, *arguments]
    launched, said = [], []
    for index in range(count):
        place = {processes.ADDRESS: address, processes.COUNT: str(count), processes.INDEX: str(index)}
        said.append(folder.with_suffix(f".{time.monotonic()}.{index}"))
        with said[-1].open("w") as file:
            devices = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES}"}
            environment = os.environ | place | devices
            before = prefix[index % len(prefix)]
            launched.append(
                subprocess.Popen([*before, *command], stdout=file, stderr=subprocess.STDOUT, env=environment)
            )
    started.extend(launched)
    return launched, said


def end(processes, said):
    """Exit codes and what was said."""
    codes = [process.wait(timeout=PATIENCE) for process in processes]
    return codes, [path.read_text() for path in said]


def wait_for(condition, processes) -> None:
    """Until a condition holds, while all processes run."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline and all(process.poll() is None for process in processes)
        time.sleep(0.05)


def wait_for_a_checkpoint_after(step, folder, processes):
    wait_for(lambda: any(saved > step for saved in checkpoint.steps(folder)), processes)


def losses(folder: Path, kind: str = "train"):
    return {record["step"]: record["losses"] for record in read(folder / FILE) if record["kind"] == kind}


def name(index, processes, host=None):
    """As the other processes name it."""
    return f"process {index} on {host or platform.node()}, process id {processes[index].pid}"
