"""Kernels as integers in scaled blocks."""

import jax.numpy as jnp
import numpy as np
import pytest

from research.models import quantized

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("bits", [8, 4])
def test_no_value_is_further_than_half_a_step(bits):
    kernel = jnp.asarray(RANDOM.normal(size=(3, 128, 5)) * RANDOM.uniform(0.01, 10, (3, 1, 5)), jnp.float32)
    values, scale = quantized.quantize(kernel, (3, quantized.blocks(128), 5), bits)
    assert scale.shape == (3, 2, 5) and np.abs(np.asarray(values, np.int32)).max() == 2 ** (bits - 1) - 1
    away = np.abs(quantized.dequantize(values, scale, jnp.float32) - kernel)
    assert (away <= np.repeat(scale, 64, axis=1) * 0.5001).all()


def test_blocks_divide_every_size():
    for size in (1, 7, 64, 65, 97, 130, 576, 1536):
        count = quantized.blocks(size)
        assert size % count == 0 and size // count <= quantized.BLOCK
