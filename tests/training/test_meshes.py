"""On every mesh the training step is that of one device, for every kind of batch: losses, and all gradients."""

import re
from dataclasses import replace
from functools import cache

import jax
import numpy as np
import optax
import pytest

from research.config import Mesh, Step
from research.models.kernels import blocks
from research.sharding import layout, shard_batch
from research.training import state as states
from research.training.step import make_train_step
from tests.models import tiny

ROWS, LENGTH, SOURCE = 8, 16, 24
DESCENT = optax.sgd(1.0)  # parameters change by their gradients
ONE = Mesh(data=1)
MODELS = {
    "decoder": {"attention.qk_norm": True, "head.bias": True},  # 2 key heads
    "encoder-decoder": {"encoder_depth": 1, "positions.kind": "relative", "head.tied": True, "mlp.bias": True},
}
MESHES = {
    "fsdp": (Mesh(fsdp=-1), 1),
    "tensor": (Mesh(data=2, tensor=4), 1),  # more parts than key heads
    "context": (Mesh(data=2, context=4), 2),
    "all": (Mesh(data=1, fsdp=2, tensor=2, context=2), 2),
}


def batch(kind):
    """Two documents in each row, and some padding; rows of very different weights."""
    random = np.random.default_rng(0)
    source = 10 if kind == "encoder-decoder" else None
    levels = {"encoder-decoder": "causal", "prefix": "prefix:3"}.get(kind, kind)
    sizes = random.integers(3, 8, (ROWS, 2))
    rows = [[tiny.example(random, size, levels, source) for size in pair] for pair in sizes]
    made = tiny.batch(rows, LENGTH, source and SOURCE)
    kept = random.random((ROWS, LENGTH)) < random.random((ROWS, 1))
    weights = (made.weights * kept * random.uniform(0.5, 2, (ROWS, 1))).astype(np.float32)
    return replace(made, weights=weights, causal=kind in ("causal", "encoder-decoder"))


@cache
def initial(architecture):
    """Parameters on the host, and the state before the first step as a function of a layout."""
    model = tiny.model(LENGTH, **MODELS[architecture])
    params = tiny.parameters(model)

    def on(whole):
        run = states.TrainState(np.int32(0), params, DESCENT.init(params), np.uint32(0))
        return jax.tree.map(
            lambda leaf, like: jax.device_put(leaf, like.sharding), run, states.abstract(model, DESCENT, whole)
        )

    return model, on


@cache
def compiled(architecture, mesh, accumulation):
    model, _ = initial(architecture)
    whole = layout(mesh, model, jax.devices()[:1] if mesh == ONE else None)
    step = Step(loss_chunk=16, z_loss=1e-3, accumulation=accumulation)
    return whole, make_train_step(model, DESCENT, step, whole)


def gradients(architecture, data, mesh=ONE, accumulation=1):
    whole, run = compiled(architecture, mesh, accumulation)
    before = initial(architecture)[1](whole)
    params = jax.device_get(before.params)
    after, metrics = jax.device_get(run(before, shard_batch(whole, data)))
    return metrics, jax.tree.map(np.subtract, params, after.params)


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("architecture", MODELS)
def test_every_mesh_equals_one_device(architecture, mesh, monkeypatch):
    """And where a batch is known to be causal, what uses that computes what the rule says."""
    monkeypatch.setattr(blocks, "SHORTEST", 4)
    kinds = ("causal", "masked", "prefix") if architecture == "decoder" else ("encoder-decoder",)
    for kind in kinds:
        theirs = gradients(architecture, replace(batch(kind), causal=False))
        ours = gradients(architecture, batch(kind), *MESHES[mesh])
        assert theirs[0].gradient_norm > 0.1
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), ours, theirs)


@cache
def arrays():
    """Shapes of all arrays of the compiled step on a device, where 4 split the vocabulary of 248 and 2 the length."""
    model = tiny.model(LENGTH, vocabulary=248, **MODELS["decoder"])
    whole = layout(Mesh(data=1, tensor=4, context=2), model)
    data = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole.batch), batch("causal"))
    run = make_train_step(model, DESCENT, Step(), whole)
    program = run.lower(states.abstract(model, DESCENT, whole), data).compile().as_text()
    return {tuple(map(int, found.split(","))) for found in re.findall(r"f32\[([\d,]+)\]", program)}


def test_logits_are_never_gathered_over_the_vocabulary():
    places = ROWS * LENGTH // 2
    assert any(shape[-1] == 248 // 4 and np.prod(shape[:-1]) == places for shape in arrays())
    width = 16  # the kernel's rows may be together, those of logits not
    assert not [shape for shape in arrays() if 248 in shape and np.prod(shape) // 248 > width]


def test_between_layers_each_device_has_its_part_of_the_length():
    width = 16
    assert (ROWS, LENGTH // 8, width) in arrays() and (ROWS, LENGTH, width) not in arrays()
