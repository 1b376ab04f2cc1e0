"""A linear map on any platform, and what may be wrapped around it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import models
from research.config import Lora
from research.models import compiled_for
from research.models.linear import product
from tests.models import tiny

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize("inputs", [1, 2])
def test_a_product_contracts_the_last_axes_with_the_first(platform, inputs):
    x, kernel = RANDOM.normal(size=(2, 3, 4, 5)), RANDOM.normal(size=(4, 5, 6, 7)[2 - inputs :])
    with compiled_for(platform):
        found = product(jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32), inputs)
    np.testing.assert_allclose(found, np.tensordot(x, kernel, inputs), rtol=1e-4, atol=1e-5)


def test_what_is_wrapped_around_a_map_leaves_its_parameters_where_they_are():
    """So that checkpoints fit: an adapter and integers only add parameters, beside the kernel."""
    changes = {"attention.qkv_bias": True, "head.transform": True}

    def paths(**more):
        config = tiny.model(**more, **changes)
        return set(models.flatten(jax.eval_shape(lambda: models.init(config, jax.random.key(0)))))

    plain = paths()
    assert "decoder/layers/attention/query/kernel" in plain and "head_transform/kernel" in plain
    maps = [f"decoder/layers/attention/{name}" for name in ("query", "key", "value", "out")]
    maps += [f"decoder/layers/mlp/{name}" for name in ("up", "gate", "down")]
    adapters = {f"{each}/{name}" for each in maps for name in ("lora_a", "lora_b")}
    scales = {f"{each}/kernel_scale" for each in maps}
    assert paths(lora=Lora(rank=2)) == plain | adapters
    assert paths(quantization_bits=8) == plain | scales
    assert paths(lora=Lora(rank=2), quantization_bits=4) == plain | adapters | scales
