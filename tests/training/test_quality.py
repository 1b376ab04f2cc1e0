"""What the configs promise, by training them: minutes each, on two CPU cores (`./launch/test.sh -m slow`)."""

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from research.config import config_file
from research.runs.trainer import train

ROOT = Path(__file__).resolve().parents[2]
# the largest share of the unigram baseline's held-out loss
QUICKSTART = {"causal": 0.80, "masked": 0.93, "span_corruption": 0.85}

pytestmark = pytest.mark.slow


def test_the_quickstart_learns_all_three_objectives(tmp_path):
    experiment = config_file.read(ROOT / "configs" / "quickstart.py")
    result = train(experiment, tmp_path, Console())
    shares = {name: losses["loss"] / losses["unigram"] for name, losses in result["objectives"].items()}
    assert set(shares) == set(QUICKSTART)
    assert all(shares[name] <= most for name, most in QUICKSTART.items()), shares
    assert result["peak_memory_bytes"] < 4 * 2**30


def test_shakespeare_reaches_the_loss_of_nanogpt(shared, tmp_path):
    """1.908 was measured for nanoGPT with this setting."""
    experiment = config_file.read(ROOT / "configs" / "shakespeare_char.py")
    text = shared / "data" / "text" / "tinyshakespeare.txt"
    result = train(replace(experiment, data=replace(experiment.data, source=f"text:{text}")), tmp_path, Console())
    assert result["objectives"]["causal"]["loss"] <= 1.91
