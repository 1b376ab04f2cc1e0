"""The one attention rule: intervals are the rule written out."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from research.models.kernels import intervals
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
    seen = intervals.from_segments(jnp.asarray(packed.segments), jnp.asarray(packed.levels))
    np.testing.assert_array_equal(intervals.mask(seen, LENGTH), the_rule(packed.segments, packed.levels))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), window=st.integers(0, LENGTH))
def test_windows_are_the_rule_and_a_largest_distance(seed, window):
    packed = random_batch(seed, rows=3, length=LENGTH)
    seen = intervals.from_segments(jnp.asarray(packed.segments), jnp.asarray(packed.levels))
    index = np.arange(LENGTH)
    near = abs(index[:, None] - index[None, :]) <= window
    narrow = intervals.in_window(seen, jnp.broadcast_to(index, (3, LENGTH)), window)
    np.testing.assert_array_equal(intervals.mask(narrow, LENGTH), the_rule(packed.segments, packed.levels) & near)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), documents=st.integers(1, 4))
def test_a_document_sees_its_whole_source_and_nothing_else(seed, documents):
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 5, (documents, 2))
    examples = [example(random, places, source=source) for places, source in sizes]
    packed = batch([examples], LENGTH, LENGTH)
    seen = intervals.from_source(jnp.asarray(packed.segments), jnp.asarray(packed.source.segments))
    expected = packed.segments[:, :, None] == packed.source.segments[:, None, :]
    np.testing.assert_array_equal(intervals.mask(seen, LENGTH), expected)
