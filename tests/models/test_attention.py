"""The one attention rule: intervals are the rule written out, and every implementation follows them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.models import attention
from research.models.attention import Visible
from tests.models.tiny import batch, example, random_batch

LENGTH = 20


def the_rule(segments: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Bool [batch, queries, keys], word for word: the same segment, and a level that is not higher."""
    same = segments[:, :, None] == segments[:, None, :]
    return same & (levels[:, None, :] <= levels[:, :, None])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_intervals_are_the_rule(seed):
    packed = random_batch(seed, rows=3, length=LENGTH)
    seen = attention.visible(jnp.asarray(packed.segments), jnp.asarray(packed.levels))
    np.testing.assert_array_equal(attention.mask(seen, LENGTH), the_rule(packed.segments, packed.levels))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), window=st.integers(0, LENGTH))
def test_windows_are_the_rule_and_a_largest_distance(seed, window):
    packed = random_batch(seed, rows=3, length=LENGTH)
    seen = attention.visible(jnp.asarray(packed.segments), jnp.asarray(packed.levels))
    index = np.arange(LENGTH)
    near = abs(index[:, None] - index[None, :]) <= window
    narrow = attention.within(seen, jnp.broadcast_to(index, (3, LENGTH)), window)
    np.testing.assert_array_equal(attention.mask(narrow, LENGTH), the_rule(packed.segments, packed.levels) & near)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), documents=st.integers(1, 4))
def test_a_document_sees_its_whole_source_and_nothing_else(seed, documents):
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 5, (documents, 2))
    examples = [example(random, places, source=source) for places, source in sizes]
    packed = batch([examples], LENGTH, LENGTH)
    seen = attention.visible_source(jnp.asarray(packed.segments), jnp.asarray(packed.source.segments))
    expected = packed.segments[:, :, None] == packed.source.segments[:, None, :]
    np.testing.assert_array_equal(attention.mask(seen, LENGTH), expected)


def test_branches_see_their_trunk_and_not_each_other():
    """A trunk of 40 places and two branches in one row, computed in blocks, are two rows of one document each."""
    random, trunk, own = np.random.default_rng(0), 40, (30, 20)
    heads = jnp.asarray(random.normal(size=(3, 1, trunk + sum(own), 2, 4)), jnp.float32)
    place = jnp.arange(heads.shape[2])[None]
    start = jnp.where(place < trunk, 0, jnp.where(place < trunk + own[0], trunk, trunk + own[0]))
    seen = Visible(start, place + 1, (jnp.zeros_like(place), jnp.where(place < trunk, 0, trunk)), causal=True)
    found = attention.attend(*heads, seen, 0.5, None, "plain")[0]
    for branch in (slice(trunk, trunk + own[0]), slice(trunk + own[0], None)):
        places = np.r_[0:trunk, np.arange(heads.shape[2])[branch]]
        seen_alone = Visible(jnp.zeros((1, len(places)), int), jnp.arange(len(places))[None] + 1)
        alone = attention.attend(*heads[:, :, places], seen_alone, 0.5, None, "plain")[0]
        np.testing.assert_allclose(found[places], alone, rtol=1e-5, atol=1e-6)


def naive(query, key, value, allowed, scale):
    """Attention of one head as it is written in textbooks: [queries, head], [keys, head], [keys, head]."""
    out = np.zeros((len(query), value.shape[1]))
    for q, row in enumerate(allowed):
        scores = np.exp(scale * (key[row] @ query[q]))
        out[q] = (scores / scores.sum()) @ value[row]
    return out


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_plain_attention_is_the_textbook_s(kv_heads):
    packed = random_batch(3, rows=2, length=LENGTH)
    random = np.random.default_rng(0)
    query = random.normal(size=(2, LENGTH, 6, 8)).astype(np.float32)
    key, value = random.normal(size=(2, 2, LENGTH, kv_heads, 8)).astype(np.float32)
    seen = attention.visible(jnp.asarray(packed.segments), jnp.asarray(packed.levels))
    ours = attention.attend(query, key, value, seen, 0.3, None, "plain")
    allowed = the_rule(packed.segments, packed.levels)
    for row in range(2):
        for head in range(6):
            shared = head // (6 // kv_heads)
            expected = naive(query[row, :, head], key[row, :, shared], value[row, :, shared], allowed[row], 0.3)
            np.testing.assert_allclose(ours[row, :, head], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [7, 64, 301])
def test_where_all_is_causal_blocks_of_queries_change_nothing(length):
    """Values and gradients, at lengths that are no multiple of a block, for packed rows with padding, with a bias."""
    random = np.random.default_rng(0)
    rows = [[example(random, places) for places in split] for split in ((length // 2, length // 3), (length,))]
    packed = batch(rows, length)
    real = (packed.segments > 0)[..., None, None]  # what padding sees is nobody's concern
    query, cotangent = random.normal(size=(2, 2, length, 4, 8)).astype(np.float32)
    key, value = random.normal(size=(2, 2, length, 2, 8)).astype(np.float32)
    bias = random.normal(size=(1, 4, length, length)).astype(np.float32)

    @partial(jax.jit, static_argnums=0)
    def attend(causal, *inputs):
        seen = attention.visible(jnp.asarray(packed.segments), jnp.asarray(packed.levels), causal)
        out, back = jax.vjp(lambda q, k, v, b: attention.attend(q, k, v, seen, 0.3, b, "plain"), *inputs)
        return out * real, back(cotangent * real)

    inputs = query, key, value, bias
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, attend(True, *inputs), attend(False, *inputs))


def test_grouped_heads_are_repeated_heads():
    random = np.random.default_rng(1)
    query = random.normal(size=(2, LENGTH, 6, 8)).astype(np.float32)
    key, value = random.normal(size=(2, 2, LENGTH, 3, 8)).astype(np.float32)
    bias = random.normal(size=(1, 6, LENGTH, LENGTH)).astype(np.float32)
    packed = random_batch(4, rows=2, length=LENGTH)
    seen = attention.visible(jnp.asarray(packed.segments), jnp.asarray(packed.levels))
    grouped = attention.attend(query, key, value, seen, 0.3, bias, "plain")
    repeated = attention.attend(query, *(np.repeat(x, 2, axis=2) for x in (key, value)), seen, 0.3, bias, "plain")
    np.testing.assert_allclose(grouped, repeated, rtol=1e-5, atol=1e-6)


def test_what_is_not_seen_weighs_exactly_nothing_even_in_sixteen_bits():
    packed = random_batch(5, rows=2, length=LENGTH)
    query, key = jax.random.normal(jax.random.key(0), (2, 2, LENGTH, 4, 8), jnp.bfloat16) * 30
    seen = attention.visible(jnp.asarray(packed.segments), jnp.asarray(packed.levels))
    weights = np.asarray(attention.probabilities(query, key, seen, 1.0, None))
    hidden = ~np.broadcast_to(the_rule(packed.segments, packed.levels)[:, None], weights.shape)
    assert (weights[hidden] == 0).all()
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)


def test_a_query_that_sees_nothing_gives_no_nan():
    nothing = Visible(jnp.array([[3, 0]]), jnp.array([[3, 4]]))
    x = jnp.ones((1, 2, 2, 4))

    def total(x):
        return attention.attend(x, jnp.ones((1, 4, 2, 4)), jnp.ones((1, 4, 2, 4)), nothing, 1.0, None, "plain").sum()

    value, gradient = jax.value_and_grad(total)(x)
    assert np.isfinite(value) and np.isfinite(gradient).all()
