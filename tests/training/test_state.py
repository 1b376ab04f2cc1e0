"""A state is a function of the model, the optimizer and the seed, wherever it is made."""

import jax
import numpy as np

from research import models
from research.config import Mesh, Optimizer
from research.sharding import layout
from research.training import state
from research.training.optimizer import optimizer
from tests.models import tiny

MODEL = tiny.model()
RULE = optimizer(Optimizer(), lambda _: 0.0, models.axes(MODEL))


def made(seed, mesh=None):
    whole = layout(mesh or Mesh(), MODEL, None if mesh else jax.devices()[:1])
    return state.create(MODEL, RULE, seed, whole)


def test_the_same_seed_gives_the_same_state_on_any_mesh_and_another_another():
    ours, split = made(3), made(3, Mesh(data=2, fsdp=2, tensor=2))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(ours), jax.device_get(split))
    assert np.any(ours.params["embedding"] != made(4).params["embedding"])
    kernel = split.params["decoder"]["layers"]["mlp"]["up"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 4
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(ours.params))


def test_keys_differ_by_seed_step_and_purpose():
    keys = [state.key(seed, step, purpose) for seed in (0, 1) for step in (0, 1) for purpose in ("dropout", "noise")]
    assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == len(keys)
    now = made(5)
    assert (jax.random.key_data(now.key_for("dropout")) == jax.random.key_data(state.key(5, 0, "dropout"))).all()
