"""Checkpoints are read tensor by tensor, each straight to where it belongs."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from research import config, interop, models, sharding
from research.config import Head, Mesh, Model, replace_fields
from research.data import tokenizers

ROOT = Path(__file__).resolve().parents[2]


def written(folder: Path, limit: int, **sizes) -> Path:
    """A checkpoint of several files, in bfloat16."""
    model = config.resolve(replace_fields(Model(head=Head(tied=False)), sizes), 258, 64)
    shapes = jax.eval_shape(lambda: models.init(model, jax.random.key(0)))
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: np.resize(random.normal(size=leaf.shape[-1]).astype(np.float32), leaf.shape), shapes
    )
    interop.write(folder, model, params, tokenizers.load("bytes"), "bfloat16", limit)
    return folder


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux forgets its peak")
def test_memory_is_that_of_the_largest_file_at_most(tmp_path):
    folder = written(
        tmp_path / "model",
        40_000_000,
        width=512,
        depth=12,
        vocabulary=16384,
        **{"attention.heads": 8, "mlp.width": 2048},
    )
    assert len(list(folder.glob("*.safetensors"))) == 4
    command = [sys.executable, "-m", "tests.interop.streaming", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["beyond_parameters"] <= 1.3 * found["largest_shard"] < 0.2 * found["parameters"]


def test_parameters_are_split_as_the_mesh_says(tmp_path):
    folder = written(
        tmp_path / "model", 20_000, width=32, depth=3, vocabulary=272, **{"attention.heads": 4, "attention.kv_heads": 2}
    )
    opened = interop.open_checkpoint(str(folder))
    layout = sharding.layout(Mesh(data=2, fsdp=2, tensor=2), opened.model)
    shardings = sharding.parameter_shardings(layout, models.axes(opened.model))
    whole, split = opened.params(), opened.params(shardings)
    for one, other, where in zip(*map(jax.tree.leaves, (whole, split, shardings)), strict=True):
        assert other.sharding == where
        np.testing.assert_array_equal(one, other)
