"""What runs only on an accelerator equals what runs everywhere. `JAX_PLATFORMS=cuda` runs it on an NVIDIA GPU."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.models import attention
from tests.models.tiny import batch, example, random_batch


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs an NVIDIA GPU, for cuDNN")
@pytest.mark.parametrize("length", [64, 200, 333])
@pytest.mark.parametrize("causal", [True, False])
def test_cudnn_attention_is_the_plain_one(length, causal):
    """Values and gradients, packed, with prefixes unless causal: in bfloat16 both are as near to float32's."""
    random = np.random.default_rng(0)
    rows = [[example(random, places) for places in split] for split in ((length // 2, length // 3), (length,))]
    packed = batch(rows, length) if causal else random_batch(1, 2, length)
    real = (packed.segments > 0)[..., None, None]
    query, cotangent = random.normal(size=(2, 2, length, 8, 64)).astype(np.float32)
    key, value = random.normal(size=(2, 2, length, 2, 64)).astype(np.float32)

    @partial(jax.jit, static_argnums=(0, 1))
    def attend(implementation, dtype, *inputs):
        seen = attention.visible(jnp.asarray(packed.segments), jnp.asarray(packed.levels), causal)
        inputs = [x.astype(dtype) for x in inputs]
        out, back = jax.vjp(lambda q, k, v: attention.attend(q, k, v, seen, 0.125, None, implementation), *inputs)
        return [x.astype(jnp.float32) for x in (out * real, *back((cotangent * real).astype(dtype)))]

    exact, plain = (attend("plain", dtype, query, key, value) for dtype in (jnp.float32, jnp.bfloat16))
    for fast, usual, true in zip(attend("cudnn", jnp.bfloat16, query, key, value), plain, exact, strict=True):
        allowed = jnp.linalg.norm(usual - true) + 1e-3 * jnp.linalg.norm(true)
        assert jnp.linalg.norm(fast - true) <= allowed
