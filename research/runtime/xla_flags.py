"""The XLA flags that a platform wants: the one place that has them. Needs no packages: launch scripts ask it.

./launch/local.sh xla_flags v6e
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

# TPU, all from MaxText's benchmarks/xla_flags_library.py: gradients summed between slices are pipelined
# (DATA_PARALLEL_OVERLAP); gathers run beside the computation before their use (CF_FOR_ALL_GATHER: over a part of a 3-D
# torus they are synchronous without it)
# v6e: more on-chip memory for a fusion (DENSE_VMEM_LIMIT_FLAG there)
# GPU: collectives run beside what does not need them (NVIDIA's JAX images set this, JAX-Toolbox)
_TPU = (
    "--xla_tpu_enable_data_parallel_all_reduce_opt=true",
    "--xla_tpu_data_parallel_opt_different_sized_ops=true",
    "--xla_tpu_enable_async_collective_fusion=true",
    "--xla_tpu_enable_async_collective_fusion_fuse_all_gather=true",
    "--xla_tpu_enable_async_collective_fusion_multiple_steps=true",
    "--xla_tpu_overlap_compute_collective_tc=true",
    "--xla_enable_async_all_gather=true",
)
_GPU = ("--xla_gpu_enable_latency_hiding_scheduler=true",)
FLAGS = {
    "v4": _TPU,
    "v5e": _TPU,
    "v5p": _TPU,
    "v6e": (*_TPU, "--xla_tpu_scoped_vmem_limit_kib=98304"),
    "gpu": _GPU,
    "cpu": (),
}
THREADS = 8  # for each of several CPU devices of a process
_PCI = {"0x005e": "v4", "0x0062": "v5p", "0x0063": "v5e", "0x006f": "v6e"}  # as in jax/_src/hardware_utils.py
_GOOGLE = "0x1ae0"
DEVICES = "--xla_force_host_platform_device_count="


def attached(pci: Path = Path("/sys/bus/pci/devices"), devices: Path = Path("/dev")) -> str:
    """The kind of accelerator of this machine, a key of FLAGS."""
    for vendor in pci.glob("*/vendor"):
        kind = _PCI.get((vendor.parent / "device").read_text(encoding="ascii").strip())
        if kind and vendor.read_text(encoding="ascii").strip() == _GOOGLE:
            return kind
    return "gpu" if any((devices / name).exists() for name in ("nvidia0", "nvidiactl", "dxg")) else "cpu"


def environment(kind: str, given: Mapping[str, str]) -> dict[str, str]:
    """The variable that carries the flags of a kind, with what is `given` there behind them, so that it wins.

    Several CPU devices of a process wait for each other in collectives, each wait in a thread of one pool, which has as
    many threads as there are devices. Of two independent collectives each may then hold a part of the threads and wait
    for ever for the rest, until XLA aborts (jaxlib 0.10.2). `PJRT_NPROC` makes the pool large enough for several.
    """
    name = "LIBTPU_INIT_ARGS" if kind.startswith("v") else "XLA_FLAGS"
    theirs = given.get(name, "").split()
    flags = " ".join([*(flag for flag in FLAGS[kind] if flag not in theirs), *theirs])
    chosen = {name: flags} if flags else {}
    devices = [int(flag.rpartition("=")[2]) for flag in theirs if flag.startswith(DEVICES)]
    if kind == "cpu" and devices and devices[-1] > 1 and "PJRT_NPROC" not in given:
        chosen["PJRT_NPROC"] = str(THREADS * devices[-1])
    return chosen


def main(arguments: list[str]) -> None:
    if len(arguments) != 1 or arguments[0] not in FLAGS:
        print(f"error: xla_flags takes one of {', '.join(FLAGS)}", file=sys.stderr)
        sys.exit(2)
    print(*FLAGS[arguments[0]])


def apply() -> str:
    """Sets what this machine wants, before JAX looks for devices. Returns a line to show for an accelerator."""
    kind = attached()
    chosen = environment(kind, os.environ)
    os.environ.update(chosen)
    return "" if kind == "cpu" else "".join(f"{name} for {kind}: {flags}" for name, flags in chosen.items())


if __name__ == "__main__":
    main(sys.argv[1:])
