"""Rotary positions against the formulas of `transformers`, and what they must mean."""

import jax.numpy as jnp
import numpy as np
import pytest

from research.config import RopeScaling
from research.models import rope

HEAD = 64


@pytest.fixture(scope="module")
def peer():
    pytest.importorskip("torch", reason="torch is not installed")
    return pytest.importorskip("transformers.modeling_rope_utils", reason="transformers is not installed")


def llama_config(**rope_parameters):
    from transformers import LlamaConfig

    return LlamaConfig(hidden_size=4 * HEAD, num_attention_heads=4, rope_parameters=rope_parameters)


def test_linear_scaling_is_that_of_transformers(peer):
    config = llama_config(rope_type="linear", rope_theta=10_000.0, factor=4.0)
    expected, _ = peer.ROPE_INIT_FUNCTIONS["linear"](config)
    ours = rope.frequencies(HEAD, 10_000.0, RopeScaling(kind="linear", factor=4.0))
    np.testing.assert_allclose(ours, expected.numpy(), rtol=1e-6)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama3_scaling_is_that_of_transformers(peer, factor):
    config = llama_config(
        rope_type="llama3",
        rope_theta=500_000.0,
        factor=factor,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=8192,
    )
    expected, _ = peer.ROPE_INIT_FUNCTIONS["llama3"](config)
    ours = rope.frequencies(HEAD, 500_000.0, RopeScaling(factor=factor))
    np.testing.assert_allclose(ours, expected.numpy(), rtol=1e-5)
    unscaled = rope.frequencies(HEAD, 500_000.0, None)
    assert ours[0] == unscaled[0] and np.isclose(ours[-1], unscaled[-1] / factor)


def test_rotation_is_that_of_transformers(peer):
    import torch
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    random = np.random.default_rng(0)
    x = random.normal(size=(2, 9, 4, HEAD)).astype(np.float32)
    place = random.integers(0, 4000, (2, 9))
    embedding = LlamaRotaryEmbedding(llama_config(rope_type="default", rope_theta=10_000.0))
    theirs = torch.from_numpy(x).transpose(1, 2)
    cosine, sine = embedding(theirs, torch.from_numpy(place))
    expected, _ = apply_rotary_pos_emb(theirs, theirs, cosine, sine)
    by = rope.rope(jnp.asarray(place), rope.frequencies(HEAD, 10_000.0, None))
    ours = rope.rotate(jnp.asarray(x), by)
    np.testing.assert_allclose(ours, expected.transpose(1, 2).numpy(), rtol=1e-3, atol=1e-3)


def test_rotated_products_depend_on_the_distance_alone():
    query, key = np.random.default_rng(0).normal(size=(2, HEAD)).astype(np.float32)

    def product(a, b):
        by = rope.rope(jnp.array([[a, b]]), rope.frequencies(HEAD, 10_000.0, None))
        rotated = rope.rotate(jnp.stack([query, key])[None, :, None], by)[0, :, 0]
        return float(rotated[0] @ rotated[1])

    assert np.isclose(product(3, 10), product(103, 110), rtol=1e-3)
    assert not np.isclose(product(3, 10), product(3, 11), rtol=1e-2)
