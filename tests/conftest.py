"""Tests run on eight fake CPU devices, so that every mesh can be tried on a laptop, and without a network. What one run
of the tests compiled, the next one finds on disk. All of it is set before JAX starts, and subprocesses inherit it.
Examples that hypothesis draws are the same in every run and may take their time.
"""

import os
from pathlib import Path

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
