"""The process that a command runs in: its caches and its memory."""

import importlib.util
import os
import resource
import sys
from pathlib import Path

from research import xla_flags


def cache_folder(chosen: str | None = None) -> Path:
    """Where prepared data, compiled programs and fetched models are kept: the chosen folder, else the environment's
    RESEARCH_CACHE, else ~/.cache/research."""
    return Path(chosen or os.environ.get("RESEARCH_CACHE") or "~/.cache/research").expanduser()


def start() -> None:
    """Sets the XLA flags of this machine's accelerator, and keeps compiled programs on disk, so that the same program
    compiles once on a machine."""
    import jax

    if told := xla_flags.apply():
        print(told, file=sys.stderr)
    if importlib.util.find_spec("libtpu") and xla_flags.attached() == "cpu" and not os.environ.get("JAX_PLATFORMS"):
        # the TPU compiler, which plans need, would look for a TPU for seconds, and complain
        jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def peak_memory() -> int:
    """The most bytes this process has held: on the accelerator with the most, or on the host where there is none."""
    import jax

    used = [(device.memory_stats() or {}).get("peak_bytes_in_use", 0) for device in jax.local_devices()]
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kilobytes; bytes on macOS
    return max(used) or resident * (1 if sys.platform == "darwin" else 1024)
