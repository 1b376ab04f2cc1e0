"""Every implementation computes what the reference does, and the reference what textbooks do."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.models import attention, kernels, platform
from research.models.kernels import Intervals, RelativeBias, blocks, cudnn, intervals, plain, scanned, splash
from tests.models.kernels.test_intervals import the_rule
from tests.models.tiny import batch, example, model, random_batch

LENGTH = 20
ELSEWHERE = ("cudnn", "splash")  # have tests of their own
OTHERS = [name for name in kernels.IMPLEMENTATIONS if name not in ("plain", *ELSEWHERE)]


def heads(length, kv_heads=2, rows=2, width=8, dtype=np.float32, seed=0):
    """Queries and a cotangent of 4 heads, keys and values."""
    random = np.random.default_rng(seed)
    query, cotangent = random.normal(size=(2, rows, length, 4, width))
    key, value = random.normal(size=(2, rows, length, kv_heads, width))
    return [jnp.asarray(x, dtype) for x in (query, cotangent, key, value)]


def relative(length, seed=0):
    table = np.random.default_rng(seed).normal(size=(12, 4)).astype(np.float32)
    return RelativeBias(jnp.asarray(table), jnp.arange(length)[None], True, 40)


def of(packed, causal=False):
    return intervals.from_segments(jnp.asarray(packed.segments), jnp.asarray(packed.levels), causal)


def causal_rows(length):
    """Documents one after the other, padding, and a row that is one document."""
    random = np.random.default_rng(0)
    split = [size for size in (length // 2, length // 3) if size]
    return batch([[example(random, places) for places in split], [example(random, length)]], length)


def shared(length):
    """Two branches that share a prefix, in both rows, at places of their own."""
    place = jnp.arange(length)[None]
    prefix, middle = jnp.array([[length // 3], [length // 2]]), jnp.array([[length // 2], [2 * length // 3]])
    start = jnp.where(place < prefix, 0, jnp.where(place < middle, prefix, middle))
    shared_prefix = jnp.zeros_like(start), jnp.where(place < prefix, 0, prefix)
    return Intervals(start, jnp.broadcast_to(place + 1, start.shape), shared_prefix, causal=True)


def everything(length):
    return Intervals(jnp.zeros((2, length), int), jnp.full((2, length), length))


def one_key(length):
    place = jnp.broadcast_to(jnp.arange(length), (2, length))
    return Intervals(place, place + 1, causal=True)


def windows(length):
    return intervals.in_window(of(random_batch(5, 2, length)), jnp.arange(length)[None], 3)


CASES = {
    "packed": lambda length: of(random_batch(1, 2, length)),
    "causal": lambda length: of(causal_rows(length), True),
    "windows": windows,
    "causal windows": lambda length: intervals.in_window(of(causal_rows(length), True), jnp.arange(length)[None], 5),
    "shared prefix": shared,
    "everything": everything,
    "one key": one_key,
}


def test_capped_scores_go_to_what_caps_them():
    """Every implementation caps or has no way to be asked; none drops the cap."""
    query, _, key, value = heads(LENGTH)
    seen = CASES["causal"](LENGTH)
    scores = 2 * np.tanh(0.3 * np.einsum("bqgrd,bkgd->bgrqk", query.reshape(2, LENGTH, 2, 2, 8), key) / 2)
    scores = np.where(intervals.mask(seen, LENGTH)[:, None], scores.reshape(2, 4, LENGTH, LENGTH), -np.inf)
    expected = plain.combine(jax.nn.softmax(jnp.asarray(scores), axis=-1), value)
    real = np.asarray(causal_rows(LENGTH).segments > 0)[..., None, None]
    for name in (*OTHERS, "plain", "cudnn", "auto"):
        found = kernels.attend(query, key, value, seen, 0.3, None, name, 2.0)
        np.testing.assert_allclose(np.where(real, found, 0), np.where(real, expected, 0), rtol=1e-5, atol=1e-5)
    with pytest.raises(AssertionError):
        kernels.attend(query, key, value, seen, 0.3, None, "splash", 2.0)
    with platform.compiled_for("tpu"):
        assert kernels.fastest(query, False, False, 2.0) == ("blocks", "no kernel caps scores")


@partial(jax.jit, static_argnums=0)
def gradients(implementation, seen, bias, real, cotangent, *inputs):
    """What is attended to, and its derivative by queries, keys and values."""
    out, back = jax.vjp(lambda *xs: kernels.attend(*xs, seen, 0.3, bias, implementation), *inputs)
    return jax.tree.map(lambda x: x.astype(jnp.float32), (out * real, back(cotangent * real)))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("length", [13, 131])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", OTHERS)
def test_every_implementation_is_the_plain_one(name, case, length, dtype):
    """Values and gradients, with grouped heads, with a relative bias and without; what padding gets is nobody's
    concern."""
    seen = CASES[case](length)
    query, cotangent, key, value = heads(length, dtype=dtype)
    real = jnp.ones((2, length, 1, 1), bool)
    if case.startswith("causal"):
        real = jnp.asarray(causal_rows(length).segments > 0)[..., None, None]

    tolerance = 1e-5 if dtype == jnp.float32 else 0.05
    for bias in (None, relative(length)):
        found, expected = (
            gradients(which, seen, bias, real, cotangent, query, key, value) for which in (name, "plain")
        )
        jax.tree.map(partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance), found, expected)


@pytest.mark.parametrize(
    ("target", "changes", "dtype", "expected"),
    [
        ("cpu", {}, "bfloat16", ("blocks", "there is no kernel for a CPU")),
        ("tpu", {}, "bfloat16", ("splash", "intervals in the kernel, without a mask")),
        ("tpu", {"positions.kind": "relative"}, "bfloat16", ("blocks", f"splash takes {splash.TAKES}")),
        ("gpu", {"width": 32}, "bfloat16", ("cudnn", "documents by their offsets, without a mask")),
        ("gpu", {"width": 32}, "float32", ("blocks", f"cuDNN takes {cudnn.TAKES}")),
        ("gpu", {"attention.dropout": 0.1}, "bfloat16", ("plain", "its weights have dropout")),
        ("cpu", {"attention.implementation": "splash"}, "float32", ("splash", "as configured")),
    ],
)
def test_what_a_run_will_take_is_known_before(target, changes, dtype, expected):
    with platform.compiled_for(target):
        assert attention.implementation(model(128, **changes), 128, dtype) == expected


def test_auto_is_one_of_them():
    query, _, key, value = heads(LENGTH)
    found, expected = (kernels.attend(query, key, value, everything(LENGTH), 0.3, None, n) for n in ("auto", "plain"))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_blocks_compute_no_keys_behind_them(monkeypatch):
    """So that a change there shows in nothing, not even as not-a-number."""
    monkeypatch.setattr(blocks, "SHORTEST", 4)
    query, _, key, value = heads(LENGTH)
    value = value.at[:, -1].set(jnp.nan)
    seen = Intervals(jnp.zeros((2, LENGTH), int), jnp.broadcast_to(jnp.arange(LENGTH) + 1, (2, LENGTH)), causal=True)
    assert np.isfinite(blocks.attend(query, key, value, seen, 0.3, None)[:, :15]).all()
    assert np.isnan(plain.attend(query, key, value, seen, 0.3, None)[:, :15]).all()


def test_branches_see_their_shared_prefix_and_not_each_other():
    """A prefix of 40 places and two branches in one row, computed in blocks, are two rows of one document each."""
    random, prefix, own = np.random.default_rng(0), 40, (30, 20)
    heads = jnp.asarray(random.normal(size=(3, 1, prefix + sum(own), 2, 4)), jnp.float32)
    place = jnp.arange(heads.shape[2])[None]
    start = jnp.where(place < prefix, 0, jnp.where(place < prefix + own[0], prefix, prefix + own[0]))
    seen = Intervals(start, place + 1, (jnp.zeros_like(place), jnp.where(place < prefix, 0, prefix)), causal=True)
    found = blocks.attend(*heads, seen, 0.5, None)[0]
    for branch in (slice(prefix, prefix + own[0]), slice(prefix + own[0], None)):
        places = np.r_[0:prefix, np.arange(heads.shape[2])[branch]]
        seen_alone = Intervals(jnp.zeros((1, len(places)), int), jnp.arange(len(places))[None] + 1)
        alone = plain.attend(*heads[:, :, places], seen_alone, 0.5, None)[0]
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
    seen = intervals.from_segments(jnp.asarray(packed.segments), jnp.asarray(packed.levels))
    ours = plain.attend(query, key, value, seen, 0.3, None)
    allowed = the_rule(packed.segments, packed.levels)
    for row in range(2):
        for head in range(6):
            shared = head // (6 // kv_heads)
            expected = naive(query[row, :, head], key[row, :, shared], value[row, :, shared], allowed[row], 0.3)
            np.testing.assert_allclose(ours[row, :, head], expected, rtol=1e-4, atol=1e-5)


def test_grouped_heads_are_repeated_heads():
    random = np.random.default_rng(1)
    query = random.normal(size=(2, LENGTH, 6, 8)).astype(np.float32)
    key, value = random.normal(size=(2, 2, LENGTH, 3, 8)).astype(np.float32)
    table = jnp.asarray(random.normal(size=(12, 6)), jnp.float32)
    bias = RelativeBias(table, jnp.arange(LENGTH)[None], True, 40)
    packed = random_batch(4, rows=2, length=LENGTH)
    seen = intervals.from_segments(jnp.asarray(packed.segments), jnp.asarray(packed.levels))
    grouped = plain.attend(query, key, value, seen, 0.3, bias)
    repeated = plain.attend(query, *(np.repeat(x, 2, axis=2) for x in (key, value)), seen, 0.3, bias)
    np.testing.assert_allclose(grouped, repeated, rtol=1e-5, atol=1e-6)


def test_what_is_not_seen_weighs_exactly_nothing_even_in_sixteen_bits():
    packed = random_batch(5, rows=2, length=LENGTH)
    query, key = jax.random.normal(jax.random.key(0), (2, 2, LENGTH, 4, 8), jnp.bfloat16) * 30
    seen = intervals.from_segments(jnp.asarray(packed.segments), jnp.asarray(packed.levels))
    weights = np.asarray(plain.softmax(plain.scores(query, key, 1.0, None), seen))
    hidden = ~np.broadcast_to(the_rule(packed.segments, packed.levels)[:, None], weights.shape)
    assert (weights[hidden] == 0).all()
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)


def test_a_query_that_sees_nothing_gives_no_nan():
    nothing = Intervals(jnp.array([[3, 0]]), jnp.array([[3, 4]]))
    x = jnp.ones((1, 2, 2, 4))

    def total(x):
        return plain.attend(x, jnp.ones((1, 4, 2, 4)), jnp.ones((1, 4, 2, 4)), nothing, 1.0, None).sum()

    value, gradient = jax.value_and_grad(total)(x)
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_scanned_rows_are_cut_into_blocks(monkeypatch):
    monkeypatch.setattr(scanned, "BLOCK", 8)  # does not divide the length
    query, _, key, value = heads(LENGTH)
    seen = everything(LENGTH)
    for bias in (None, relative(LENGTH)):
        found, expected = (each.attend(query, key, value, seen, 0.3, bias) for each in (scanned, plain))
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("bias", [None, relative(2048)], ids=["no-bias", "relative"])
@pytest.mark.parametrize("target", ["cpu", "tpu", "gpu"])
def test_long_rows_have_no_array_of_queries_by_keys(target, bias, monkeypatch):
    """On no platform, whatever is chosen, in either direction: by the text of the traced program."""
    monkeypatch.setattr(cudnn.fused, "check_cudnn_version", lambda: 91_200)  # there need not be one here
    monkeypatch.setattr(cudnn.fused, "check_compute_capability", lambda _: True)
    keys = 2048
    for length, causal in ((keys, False), (keys, True), (keys // 2, False)):  # the last: rows split over two devices
        query, key = (jnp.zeros((1, size, 4, 64), jnp.bfloat16) for size in (length, keys))
        seen = Intervals(jnp.zeros((1, length), int), jnp.full((1, length), keys), causal=causal)
        own = bias and bias.of(slice(length))
        attend = partial(kernels.attend, intervals=seen, scale=0.1, bias=own, implementation="auto")
        with platform.compiled_for(target):
            text = str(jax.make_jaxpr(lambda *arrays, a=attend: jax.vjp(a, *arrays)[1](arrays[0]))(query, key, key))
        shapes = [tuple(map(int, shape.split(","))) for shape in re.findall(r"\[(\d+(?:,\d+)+)\]", text)]
        assert (1, length, 4, 64) in shapes
        assert not [shape for shape in shapes if sum(size >= length for size in shape) > 1]
