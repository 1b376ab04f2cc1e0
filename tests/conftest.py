"""Tests run on eight fake CPU devices, so that every mesh can be tried on a laptop, and without a network. What one run
of the tests compiled, the next one finds on disk. All of it is set before JAX starts, and subprocesses inherit it.
Examples that hypothesis draws are the same in every run and may take their time.

A worker keeps every program that it has compiled, with its buffers, and would grow to 5 GB. After a module that leaves
it above MEMORY it forgets them, and the run ends with the peak of each worker.
"""

import ctypes
import gc
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from research.runtime import processes, xla_flags

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
os.environ.update(xla_flags.environment("cpu", os.environ))
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(processes.cache_folder() / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
hypothesis.settings.load_profile("ci")

ROOT = Path(__file__).resolve().parent.parent
MEMORY = 1.5 * 2**30  # bytes above which programs are forgotten
peaks: dict[str, float] = {}  # bytes by worker


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of texts, tokenizers and evaluation files that may stand beside the repository."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs the data folder {folder}, which is not here")
    return folder


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of seconds, with two checkpoints and two objectives."""
    from tests import tiny_run

    return tiny_run.make(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module", autouse=True)
def forget_programs() -> Iterator[None]:
    """Programs of one module are seldom used by the next one, which finds on disk those that are."""
    yield
    if "jax" in sys.modules and resident() > MEMORY:
        sys.modules["jax"].clear_caches()
        gc.collect()
        if sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)


def resident() -> int:
    """Bytes of memory that this process has now; its peak where that is not known."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * resource.getpagesize()
    except OSError:
        return peak()


def peak() -> int:
    """The most bytes of memory that this process has had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def pytest_sessionfinish(session: pytest.Session) -> None:
    output = getattr(session.config, "workeroutput", None)  # of a worker of pytest-xdist
    if output is not None:
        output["peak"] = peak()
    elif not session.config.pluginmanager.hasplugin("dsession"):
        peaks["this process"] = peak()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    peaks[node.gateway.id] = getattr(node, "workeroutput", {}).get("peak", 0)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    listed = ", ".join(f"{worker} {size / 2**30:.2f} GiB" for worker, size in sorted(peaks.items()))
    terminalreporter.write_line(f"peak memory: {listed}")
