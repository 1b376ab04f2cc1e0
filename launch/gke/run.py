r"""Runs a command on Google Kubernetes Engine: renders a JobSet, and gives it to kubectl.

python3 launch/gke/run.py --name NAME --image IMAGE --bucket BUCKET --tpu v5p:4x4x4 \
    train configs/llama_8b.py --workdir /bucket/RUN
python3 launch/gke/run.py --name NAME --image IMAGE --bucket BUCKET --gpu h100 --nodes 4 \
    train configs/llama_1b.py --workdir /bucket/RUN

--slices N runs on several TPU slices; --spot on spot capacity; --dry-run prints the manifest instead of applying it.
All pods mount BUCKET as the folder /bucket; BUILD.md says what the cluster and the bucket need for that, and
--service-account names the one of Kubernetes that may use it (if not given: default).
IMAGE is made by `docker build --file launch/Dockerfile --build-arg EXTRAS=tpu,buckets .` (or `cuda,buckets`).

The cluster needs JobSet (jobset.sigs.k8s.io) and node pools of that kind, or auto-provisioning for them; the job makes
no node pool by itself. Its pods are gone ten minutes after its end; `kubectl delete jobset NAME` ends it before. When a
host is lost or preempted, all are started again, and the run goes on from its last checkpoint.
"""

import argparse
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from string import Template

HERE = Path(__file__).resolve().parent
TPUS = {  # chip -> its node selector, sizes of a topology, chips of a host in a slice of several hosts
    "v4": ("tpu-v4-podslice", 3, 4),
    "v5e": ("tpu-v5-lite-podslice", 2, 4),
    "v5p": ("tpu-v5p-slice", 3, 4),
    "v6e": ("tpu-v6e-slice", 2, 4),
}
GPUS = {"h100": "nvidia-h100-80gb", "h200": "nvidia-h200-141gb"}  # eight in a node


def main(arguments: list[str]) -> None:
    chosen = parse(arguments)
    manifest = render(chosen)
    sys.path.insert(0, str(HERE.parent.parent / "research" / "runtime"))
    import xla_flags

    kind = chosen.tpu.partition(":")[0] if chosen.tpu else "gpu"
    print(f"XLA flags: {' '.join(xla_flags.FLAGS[kind])}", file=sys.stderr)
    if chosen.dry_run:
        print(manifest, end="")
        return
    if shutil.which("kubectl") is None:
        fail("kubectl is not in PATH")
    sys.exit(subprocess.run(["kubectl", "apply", "-f", "-"], input=manifest, text=True, check=False).returncode)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True)
    parser.add_argument("--image", required=True)
    parser.add_argument("--bucket", required=True)
    parser.add_argument("--service-account", default="default")
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--tpu", metavar="CHIP:TOPOLOGY")
    kind.add_argument("--gpu", choices=GPUS)
    parser.add_argument("--slices", type=int, default=1)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--spot", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    chosen = parser.parse_args(arguments)
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", chosen.name):
        fail(f"--name {chosen.name}: at most 40 small letters, digits and dashes, from a letter on")
    if not chosen.command:
        fail("which command? for example: train configs/llama_8b.py --workdir /bucket/RUN")
    if chosen.command[0] == "train" and not re.search(r" --workdir[ =]/bucket/", " ".join(chosen.command)):
        fail("train needs --workdir /bucket/RUN: all hosts write to it, and it must outlive the pods")
    return chosen


def render(chosen: argparse.Namespace) -> str:
    """The manifest, from the template beside this file."""
    values = {
        "name": chosen.name,
        "image": json.dumps(chosen.image),
        "bucket": json.dumps(chosen.bucket),
        "account": json.dumps(chosen.service_account),
        "command": json.dumps([word.replace("$(", "$$(") for word in chosen.command]),  # as Kubernetes quotes
        "spot": 'cloud.google.com/gke-spot: "true"' if chosen.spot else "{}",
    }
    if chosen.gpu:
        values |= {"accelerator": GPUS[chosen.gpu], "nodes": str(chosen.nodes)}
    else:
        values |= slices(chosen.tpu, chosen.slices)
    text = Template((HERE / ("gpu.yaml" if chosen.gpu else "tpu.yaml")).read_text()).substitute(values)
    return re.sub(r"^ *\{\}\n", "", text, flags=re.M)


def slices(tpu: str, count: int) -> dict[str, str]:
    chip, _, topology = tpu.partition(":")
    if chip not in TPUS or not re.fullmatch(r"\d+(x\d+)+", topology):
        fail(f"--tpu {tpu}: should be like v5p:4x4x4 or v6e:16x16; chips are {', '.join(TPUS)}")
    selector, dimensions, hosted = TPUS[chip]
    sizes = [int(size) for size in topology.split("x")]
    if len(sizes) != dimensions:
        fail(f"--tpu {tpu}: a topology of {chip} has {dimensions} sizes")
    chips = math.prod(sizes)
    alone = chips <= hosted or topology == "2x4"  # all chips in one host
    return {
        "accelerator": selector,
        "topology": topology,
        "slices": str(count),
        "hosts": str(1 if alone else chips // hosted),
        "chips": str(chips if alone else hosted),
    }


def fail(message: str) -> None:
    sys.exit(f"error: {message}")


if __name__ == "__main__":
    main(sys.argv[1:])
