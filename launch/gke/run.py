r"""Runs a command on Google Kubernetes Engine: makes a JobSet, and gives it to kubectl.

python3 launch/gke/run.py --name NAME --image IMAGE --bucket BUCKET --tpu v5p:4x4x4 --watch \
    train configs/llama_8b.py --workdir /bucket/RUN
python3 launch/gke/run.py --name NAME --image IMAGE --bucket BUCKET --gpu h200 --nodes 4 --code \
    train configs/llama_1b.py --workdir /bucket/RUN
python3 launch/gke/run.py --name NAME --watch        follows a job that is there
python3 launch/gke/run.py --name NAME --delete       ends it, and deletes nothing else

--slices N runs on several TPU slices; --spot on spot capacity; --dry-run prints the manifest, and does nothing else.
--code puts this folder's code into the bucket (by gcloud), and the pods run that instead of the image's: a new config,
or new code, needs no new image; other packages do. --env NAME=VALUE sets a variable; --secret NAME gives the entries of
a secret of Kubernetes as variables (kubectl create secret generic NAME --from-literal=WANDB_API_KEY=…).
All pods mount BUCKET as the folder /bucket; BUILD.md says what the cluster and the bucket need for that, and
--service-account names the one of Kubernetes that may use it (if not given: default).
IMAGE is made by `docker build --file launch/Dockerfile --build-arg EXTRAS=tpu,buckets .` (or `cuda,buckets`).

The cluster needs JobSet 0.6 or newer (jobset.sigs.k8s.io) and node pools of that kind, or auto-provisioning for them;
the job makes no node pool by itself. When a host is lost or preempted, all pods are started again, and the run resumes
from its last checkpoint; after a mistake (exit code 2) they are not. kubectl has the logs for three days after the end.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from manifest import GPUS, Job, Mistake, jobset

ROOT = Path(__file__).resolve().parents[2]
POLL = 10.0  # seconds between looks for a pod


def main(arguments: list[str]) -> None:
    chosen = parse(arguments)
    if not chosen.dry_run and shutil.which("kubectl") is None:
        fail("kubectl is not in PATH")
    if chosen.delete:
        sys.exit(run("kubectl", "delete", "jobset", chosen.name))
    if chosen.command:
        create(chosen)
    if chosen.watch and not chosen.dry_run:
        sys.exit(watch(chosen.name))


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True)
    parser.add_argument("--image")
    parser.add_argument("--bucket")
    parser.add_argument("--service-account", default="default")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--tpu", metavar="CHIP:TOPOLOGY", default="")
    kind.add_argument("--gpu", choices=GPUS, default="")
    parser.add_argument("--slices", type=int, default=1)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--secret", action="append", default=[], metavar="NAME")
    for flag in ("--spot", "--code", "--watch", "--delete", "--dry-run"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    chosen = parser.parse_args(arguments)
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", chosen.name):
        fail(f"--name {chosen.name}: at most 40 small letters, digits and dashes, from a letter on")
    if chosen.delete and chosen.command:
        fail("--delete ends the job, and takes no command")
    if not chosen.command and not chosen.watch and not chosen.delete:
        fail("which command? for example: train configs/llama_8b.py --workdir /bucket/RUN")
    if chosen.command:
        if missing := [f"--{name}" for name in ("image", "bucket") if not getattr(chosen, name)]:
            fail(f"{' and '.join(missing)} must be given")
        if not chosen.tpu and not chosen.gpu:
            fail(f"--tpu, as in v5p:4x4x4, or --gpu must be given: {', '.join(GPUS)}")
        if chosen.command[0] == "train" and not re.search(r" --workdir[ =]/bucket/", " ".join(chosen.command)):
            fail("train needs --workdir /bucket/RUN: all hosts write to it, and it must outlive the pods")
    for given in chosen.env:
        if not re.fullmatch(r"[A-Za-z_]\w*=.*", given, flags=re.S):
            fail(f"--env {given}: should be NAME=VALUE")
    return chosen


def create(chosen: argparse.Namespace) -> None:
    """Prints the manifest, or makes the job; never changes one that is there."""
    stored = f"code/{chosen.name}-{time.strftime('%Y-%m-%dT%H-%M-%S')}.tar.gz" if chosen.code else ""
    job = Job(
        name=chosen.name,
        image=chosen.image,
        bucket=chosen.bucket,
        command=tuple(chosen.command),
        tpu=chosen.tpu,
        gpu=chosen.gpu,
        slices=chosen.slices,
        nodes=chosen.nodes,
        spot=chosen.spot,
        account=chosen.service_account,
        env=tuple((name, value) for name, _, value in (each.partition("=") for each in chosen.env)),
        secrets=tuple(chosen.secret),
        code=f"/bucket/{stored}" if stored else "",
    )
    try:
        manifest = json.dumps(jobset(job), indent=2)
    except Mistake as mistake:
        fail(str(mistake))
    sys.path.insert(0, str(ROOT / "research" / "runtime"))
    import xla_flags

    kind = chosen.tpu.partition(":")[0] if chosen.tpu else "gpu"
    print(f"XLA flags: {' '.join(xla_flags.FLAGS[kind])}", file=sys.stderr)
    if chosen.dry_run:
        print(manifest)
        return
    if stored:
        upload(f"gs://{chosen.bucket}/{stored}")
    code = subprocess.run(["kubectl", "create", "-f", "-"], input=manifest, text=True, check=False).returncode
    if code:
        print(f"error: if {chosen.name} is there already, --watch follows it and --delete ends it", file=sys.stderr)
        sys.exit(code)


def upload(address: str) -> None:
    """Everything that git would commit, and which commit it is, as research/runtime/code_version.py reads it there."""
    git = ["git", "-C", str(ROOT)]
    listed = subprocess.run(
        [*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "research", "configs", "pyproject.toml"],
        capture_output=True,
        check=True,
    )
    there = [name for name in listed.stdout.split(b"\0") if name and (ROOT / name.decode()).exists()]
    commit = [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "research").mkdir()
        named = subprocess.run(commit, capture_output=True, text=True, check=True).stdout
        (Path(folder) / "research" / "commit.txt").write_text(named, encoding="ascii")
        archive = str(Path(folder) / "code.tar.gz")
        packed = ["tar", "-czf", archive, "-C", str(ROOT), "--null", "--files-from", "-", "-C", folder]
        subprocess.run([*packed, "research/commit.txt"], input=b"\0".join(there), check=True)
        if code := run("gcloud", "storage", "cp", archive, address):
            sys.exit(code)


def watch(name: str) -> int:
    """Shows the log of the first host, and of the one that takes its place, until the job has ended. Returns 0 if it is
    complete, 1 if it has failed."""
    first = f"jobset.sigs.k8s.io/jobset-name={name},jobset.sigs.k8s.io/job-index=0"
    first += ",batch.kubernetes.io/job-completion-index=0"
    newest = ("get", "pods", "--selector", first, "--sort-by", ".metadata.creationTimestamp")
    seen, told = "", ""
    while True:
        pods = ask(*newest, "--output", "jsonpath={range .items[*]}{.metadata.name} {.status.phase}{'\\n'}{end}")
        pod, _, phase = (pods.strip().splitlines() or [""])[-1].partition(" ")
        if pod and pod != seen and phase != "Pending":
            seen = pod
            run("kubectl", "logs", "--follow", "--container", "research", pod)
        state = ask("get", "jobset", name, "--output", "jsonpath={.status.terminalState}").strip()
        if state:
            print(f"{name}: {state}", file=sys.stderr)
            return int(state != "Completed")
        now = f"{name}: " + (f"{pod} is {phase}" if pod else "no pod of the first host yet")
        if now != told:
            print(told := now, file=sys.stderr)
        time.sleep(POLL)


def ask(*question: str) -> str:
    """What kubectl says."""
    answer = subprocess.run(["kubectl", *question], stdout=subprocess.PIPE, text=True, check=False)
    if answer.returncode:
        sys.exit(answer.returncode)
    return answer.stdout


def run(*command: str) -> int:
    return subprocess.run(command, check=False).returncode


def fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main(sys.argv[1:])
