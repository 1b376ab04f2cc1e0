"""Adapters and quantised kernels: what they change, and what they do not."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import models
from research.config import MLP, Attention, Lora, Model, resolve
from research.models import adapters
from research.objectives import Batch
from tests.models.tiny import init, logits

BASE = resolve(Model(width=24, depth=2, vocabulary=29, attention=Attention(heads=2), mlp=MLP(width=130)), 29, 16)
LORA = Lora(rank=3, alpha=6.0, targets=("*/query", "*/mlp/*", "*/out"))
RANDOM = np.random.default_rng(0)
TOKENS = RANDOM.integers(0, 29, (2, 12)).astype(np.int32)
PLACES = np.broadcast_to(np.arange(12, dtype=np.int32), TOKENS.shape)
BATCH = Batch(TOKENS, TOKENS, np.ones(TOKENS.shape, np.float32), PLACES, np.ones_like(TOKENS), PLACES)
create = jax.jit(adapters.create, static_argnums=0)


@pytest.fixture(scope="module")
def params() -> models.Params:
    return init(BASE, jax.random.key(0))


def adapted(config: Model, params: models.Params) -> dict[str, jax.Array]:
    leaves = create(config, jax.random.key(1))
    for path, array in models.flatten(params).items():
        leaves |= adapters.stored(config, path, array)
    return leaves


def test_new_adapters_change_nothing_and_trained_ones_merge(params):
    config = replace(BASE, lora=LORA)
    leaves = adapted(config, params)
    assert {path.split("/")[-2] for path in leaves if adapters.is_adapter(path)} == {
        "query",
        "up",
        "gate",
        "down",
        "out",
    }
    np.testing.assert_array_equal(logits(config, models.unflatten(leaves), BATCH), logits(BASE, params, BATCH))
    for path, leaf in leaves.items():
        if path.endswith("lora_b"):
            leaves[path] = jnp.asarray(RANDOM.normal(size=leaf.shape), jnp.float32)
    trained = logits(config, models.unflatten(leaves), BATCH)
    assert np.abs(trained - logits(BASE, params, BATCH)).max() > 0.1
    plain, merged = adapters.merge(config, models.unflatten(leaves))
    assert plain == BASE
    np.testing.assert_allclose(logits(plain, merged, BATCH), trained, atol=1e-4)


@pytest.mark.parametrize(("bits", "error"), [(8, 0.01), (4, 0.2)])
def test_quantised_kernels_are_near_and_merge_exactly(params, bits, error):
    config = replace(BASE, quantization_bits=bits)
    leaves = adapted(config, params)
    assert {leaf.dtype.name for path, leaf in leaves.items() if path.endswith("kernel")} == {f"int{bits}"}
    got, exact = logits(config, models.unflatten(leaves), BATCH), logits(BASE, params, BATCH)
    assert 0 < np.abs(got - exact).max() < error * np.abs(exact).max()
    plain, merged = adapters.merge(config, models.unflatten(leaves))
    np.testing.assert_allclose(logits(plain, merged, BATCH), got, atol=1e-5)
