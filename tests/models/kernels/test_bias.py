"""T5's relative bias: its buckets, and that blocks of it are parts of the whole."""

import jax.numpy as jnp
import numpy as np
import pytest

from research.models.kernels.bias import RelativeBias, relative_buckets


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "furthest"), [(32, 128), (12, 40)])
def test_relative_buckets_are_those_of_t5(bidirectional, buckets, furthest):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5", reason="transformers is not installed")
    distance = np.arange(-300, 301)
    expected = t5.T5Attention._relative_position_bucket(torch.from_numpy(distance), bidirectional, buckets, furthest)
    ours = relative_buckets(jnp.asarray(distance), bidirectional, buckets, furthest)
    np.testing.assert_array_equal(ours, expected.numpy())


@pytest.mark.parametrize("bidirectional", [True, False])
def test_a_block_is_a_part_of_the_whole(bidirectional):
    table = jnp.asarray(np.random.default_rng(0).normal(size=(12, 3)), jnp.float32)
    index = jnp.arange(20)[None]
    bias = RelativeBias(table, index, bidirectional, max_distance=9)
    whole = bias.block(jnp.arange(20))
    assert whole.shape == (1, 3, 20, 20)
    queries, keys = slice(5, 12), slice(3, 17)
    np.testing.assert_array_equal(bias.of(queries).block(jnp.arange(20)[keys]), whole[:, :, queries, keys])
    for query, key in ((0, 0), (4, 1), (1, 4), (19, 0)):  # one number for each head, which the distance alone chooses
        bucket = relative_buckets(jnp.asarray(key - query), bidirectional, 12, 9)
        np.testing.assert_array_equal(whole[0, :, query, key], table[bucket])
