"""The TPU kernels, interpreted, against the plain rule: whatever a query sees, at any shape, with gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.models.kernels import Intervals, intervals, plain, splash
from tests.models.tiny import batch, example


def arrays(shape, dtype=np.float32):
    """Query, key, value and a gradient of the output, of batch, queries, keys, heads, key heads and head width."""
    rows, queries, keys, heads, kv_heads, width = shape
    random, of_query = np.random.default_rng(0), (rows, queries, heads, width)
    shapes = (of_query, *[(rows, keys, kv_heads, width)] * 2, of_query)
    return [jnp.asarray(random.normal(size=shape), dtype) for shape in shapes]


@partial(jax.jit, static_argnums=0)
def attended(attend, seen, query, key, value, gradient):
    """The output and the three gradients, where queries that see nothing count nothing."""
    some = jnp.any(intervals.mask(seen, key.shape[1]), axis=-1)[..., None, None]

    def loss(query, key, value):
        out = jnp.where(some, attend(query, key, value, seen), 0)
        return jnp.sum(out.astype(jnp.float32) * gradient), out

    (_, out), gradients = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(query, key, value)
    return out, *gradients


def ours_at(query, key, value, seen):
    return splash.attend(query, key, value, seen, 0.3, None)


def plain_at(query, key, value, seen):
    return plain.attend(query, key, value, seen, 0.3, None)


def assert_alike(seen, inputs, tolerance):
    ours, expected = (attended(attend, seen, *inputs) for attend in (ours_at, plain_at))
    for array, other in zip(ours, expected, strict=True):
        assert array.dtype == other.dtype
        np.testing.assert_allclose(*(np.asarray(x, np.float32) for x in (array, other)), atol=tolerance)


def random_intervals(seed, rows, queries, keys):
    """Some empty, some of one key, some of all."""
    random = np.random.default_rng(seed)
    start, end = np.sort(random.integers(0, keys + 1, (2, rows, queries)), axis=0)
    kind = random.integers(0, 5, (rows, queries))
    start, end = np.where(kind == 0, 0, start), np.where(kind == 0, keys, end)
    end = np.where(kind == 1, start, np.where(kind == 2, np.minimum(start + 1, keys), end))
    return jnp.asarray(start), jnp.asarray(end)


SHAPES = {
    "one block": (2, 20, 20, 2, 2, 8),
    "grouped, blocks that are not full": (1, 300, 300, 4, 2, 16),
    "more keys": (1, 70, 400, 2, 1, 24),
    "more queries": (2, 270, 40, 3, 1, 8),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(np.float32, 1e-5), (jnp.bfloat16, 0.06)], ids=["float32", "bfloat16"]
)
def test_any_interval(shape, dtype, tolerance):
    assert_alike(Intervals(*random_intervals(1, *shape[:3])), arrays(shape, dtype), tolerance)


def test_a_second_interval_for_shared_prefixes():
    shape = SHAPES["grouped, blocks that are not full"]
    own, shared = random_intervals(2, *shape[:3]), random_intervals(3, *shape[:3])
    assert_alike(Intervals(*own, shared), arrays(shape), 1e-5)


@pytest.mark.parametrize("window", [None, 50])
@pytest.mark.parametrize("kinds", [("causal", "causal"), ("prefix:60", "masked"), ("masked", "causal")], ids="-".join)
def test_packed_rows(kinds, window):
    """Several documents and padding, and of causal rows the promise that they are."""
    random = np.random.default_rng(0)
    packed = batch([[example(random, 180, kinds[0]), example(random, 97, kinds[1])]], 300)
    causal = kinds == ("causal", "causal")
    seen = intervals.from_segments(jnp.asarray(packed.segments), jnp.asarray(packed.levels), causal)
    if window:
        seen = intervals.in_window(seen, jnp.arange(300)[None], window)
    assert_alike(seen, arrays((1, 300, 300, 2, 1, 8)), 1e-5)


def test_a_query_that_sees_nothing_gives_zero_and_has_no_gradient():
    *inputs, gradient = arrays((1, 5, 5, 1, 1, 8))
    seen = Intervals(jnp.array([[0, 3, 0, 2, 5]]), jnp.array([[2, 3, 1, 5, 5]]))
    out, back = jax.vjp(lambda *a: splash.attend(*a, seen, 1.0, None), *inputs)
    empty = np.array([False, True, False, False, True])
    assert not np.any(out[0, empty]) and np.all(np.any(out[0, ~empty], axis=(1, 2)))
    assert not np.any(back(gradient)[0][0, empty])


def test_long_rows_take_their_gradients_in_parts(monkeypatch):
    """As of 128 k, of which the gradients of all queries do not fit on the chip: here as if those of one block did."""
    monkeypatch.setattr(splash, "KEPT", 1)
    monkeypatch.setattr(splash, "BLOCKS", (128,))
    shape = (1, 390, 390, 2, 1, 8)
    assert splash._chunks(splash.Tiles(128, 128, 128, 1.0, True), jnp.zeros((1, 2, 512, 8)), 1) == 4
    assert_alike(Intervals(*random_intervals(4, *shape[:3])), arrays(shape), 1e-5)


@pytest.mark.parametrize("length", [1, 100, 128, 900, 1024, 1100, 4096, 5000, 32_768, 131_072])
def test_padding_is_cheap(length):
    block = splash._block(length)
    assert block % 128 == 0
    assert -length % block <= max(127, splash.PADDING * length)
