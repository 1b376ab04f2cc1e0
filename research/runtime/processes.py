"""The process that a command runs in: its caches, its memory, and the other processes of its run."""

import importlib.util
import os
import resource
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from research.errors import InputError
from research.runtime import files, peers, xla_flags

HEARTBEAT = 60  # seconds after which JAX itself ends the processes of a run, if `peers` did not
MISTAKE = 2  # exit code: the user can mend it
LOST = 75  # exit code: another process of the run has ended (EX_TEMPFAIL of sysexits.h)
# what is in the errors of JAX's ways of communication when the other side is gone
BROKEN = ("Gloo", "NCCL", "coordination service", "heartbeat", "Barrier", "UNAVAILABLE")
USED = "must be called before any JAX calls"  # in JAX's error where a process has computed already
ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"


def cache_folder(chosen: str | None = None) -> Path:
    """Where prepared data, compiled programs and fetched models are kept: the chosen folder, else the environment's
    RESEARCH_CACHE, else ~/.cache/research. Raises InputError if there is no home directory."""
    folder = chosen or os.environ.get("RESEARCH_CACHE") or "~/.cache/research"
    try:
        return Path(folder).expanduser()
    except RuntimeError as error:
        raise InputError(f"{folder}: there is no home directory; set RESEARCH_CACHE to a folder for caches") from error


def configure_jax(compiled: str | None = None) -> None:
    """Sets the XLA flags of this machine's accelerator, and keeps compiled programs, so that the same program compiles
    once.

    Args:
      compiled: where, a folder or a bucket (gs://…) that several machines share; None: the environment's
        JAX_COMPILATION_CACHE_DIR, else below `cache_folder`.
    """
    import jax

    if shown := xla_flags.apply():
        print(shown, file=sys.stderr)
    if importlib.util.find_spec("libtpu") and xla_flags.attached() == "cpu" and not os.environ.get("JAX_PLATFORMS"):
        # the TPU compiler, which plans need, would look for a TPU for seconds, and complain
        jax.config.update("jax_platforms", "cpu")
    compiled = compiled or os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(cache_folder() / "jax")
    jax.config.update("jax_compilation_cache_dir", compiled)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def initialize() -> None:
    """Makes this process one of a run of several, before JAX looks for devices: as the environment's ADDRESS
    (host:port of the first one), COUNT and INDEX say, or as Slurm, Kubernetes, Open MPI or a TPU pod does. Otherwise it
    stays alone, as does one that has computed already.

    Raises:
      InputError: if the environment says only half of it, or the others do not come.
    """
    import jax

    settings: dict[str, Any] = {"heartbeat_timeout_seconds": HEARTBEAT}
    if ADDRESS in os.environ:
        settings |= {"coordinator_address": os.environ[ADDRESS]}
    try:
        for variable, name in ((COUNT, "num_processes"), (INDEX, "process_id")):
            if variable in os.environ:
                settings[name] = int(os.environ[variable])
        if {ADDRESS, COUNT, INDEX} <= os.environ.keys():
            settings["cluster_detection_method"] = "deactivate"  # nothing is left to ask Slurm or Kubernetes for
        jax.distributed.initialize(**settings)
    except (ValueError, RuntimeError) as error:
        given = {name: os.environ[name] for name in (ADDRESS, COUNT, INDEX) if name in os.environ}
        if given or (isinstance(error, RuntimeError) and USED not in str(error)):
            listed = ", ".join(f"{name}={value}" for name, value in given.items())
            raise InputError(f"this process could not join the others of its run ({listed}): {error}") from error
    if jax.distributed.is_initialized() and jax.process_count() == 1:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # which JAX has caught, to agree with others
    if is_distributed():
        peers.watch(LOST)


def is_main_process() -> bool:
    """Whether this process is the one of a run that writes what all of them know."""
    import jax

    return jax.process_index() == 0


def broadcast(content: bytes) -> bytes:
    """What the main process has, in all processes of a run, which call this together."""
    import numpy as np
    from jax.experimental import multihost_utils

    if not is_distributed():
        return content
    own = np.frombuffer(content, np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.array(len(own), np.int32)))
    return multihost_utils.broadcast_one_to_all(own if is_main_process() else np.zeros(size, np.uint8)).tobytes()


def wait_for_all(name: str) -> None:
    """Waits until all processes of the run are here."""
    from jax.experimental import multihost_utils

    if is_distributed():
        multihost_utils.sync_global_devices(name)


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Within it, an error shows itself and ends a process that is one of several at once. The usual end would wait for
    the others, which wait for it; they learn of it from `peers`, and end with LOST. A process alone ends as usual."""
    try:
        yield
    except Exception as error:
        if not is_distributed():
            raise
        code = shown(error)
        sys.stdout.flush()
        sys.stderr.flush()
        peers.stay()
        os._exit(code)


def is_distributed() -> bool:
    """Whether this process is one of several of a run."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized() and jax.process_count() > 1


def shown(error: Exception) -> int:
    """The exit code for an error, which is printed: a user's mistake and a storage that is full as one line."""
    broken = any(mark in str(error) for mark in BROKEN)
    if not broken:
        peers.leave(f"{type(error).__name__}: {error}".splitlines()[0][:300])
    if isinstance(error, InputError):
        print(f"error: {error}", file=sys.stderr)
        return MISTAKE
    if _without_backend(error):
        asked, reason = os.environ.get("JAX_PLATFORMS", ""), " ".join(str(error).split()) or "there is none"
        print(f"error: JAX_PLATFORMS={asked}: {reason}; unset it to use what this machine has", file=sys.stderr)
        return MISTAKE
    if full := files.storage_error(error):
        print(
            f"error: {full}. What was complete before is whole; make room, then rerun the same command to resume",
            file=sys.stderr,
        )
        return files.STORAGE
    traceback.print_exception(error)
    if not broken:
        return 1
    print(f"error: {peers.lost()}", file=sys.stderr)
    return LOST


def _without_backend(error: Exception) -> bool:
    """Whether JAX has not found the accelerator that it was asked for; where its plugin is not installed either, it
    fails an assertion of its own."""
    frames = traceback.extract_tb(error.__traceback__)
    failed = isinstance(error, AssertionError) and bool(frames) and frames[-1].filename.endswith("xla_bridge.py")
    return failed or (isinstance(error, RuntimeError) and "Unable to initialize backend" in str(error))


def peak_memory() -> int:
    """The most bytes this process has held: on the accelerator with the most, or on the host where there is none."""
    import jax

    used = [(device.memory_stats() or {}).get("peak_bytes_in_use", 0) for device in jax.local_devices()]
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kilobytes; bytes on macOS
    return max(used) or resident * (1 if sys.platform == "darwin" else 1024)
