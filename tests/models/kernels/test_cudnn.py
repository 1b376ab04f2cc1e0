"""cuDNN's attention: which documents it finds, that it lowers, and, on an NVIDIA GPU (`JAX_PLATFORMS=cuda`), that it is
the plain one. Elsewhere `packed.py` stands for it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import models
from research.models import kernels
from research.models.kernels import Intervals, cudnn, intervals, plain
from tests.models.kernels import packed as stand_in
from tests.models.tiny import batch, example, random_batch

GPU = jax.default_backend() == "gpu"


@pytest.fixture(autouse=True)
def anywhere(monkeypatch):
    if not GPU:
        monkeypatch.setattr(cudnn.fused, "dot_product_attention", stand_in.dot_product_attention)


def heads(length, keys=None, width=64):
    random = np.random.default_rng(0)
    query, cotangent = random.normal(size=(2, 2, length, 8, width)).astype(np.float32)
    key, value = random.normal(size=(2, 2, keys or length, 2, width)).astype(np.float32)
    return query, cotangent, key, value


@partial(jax.jit, static_argnums=(0, 1))
def gradients(attend, dtype, seen, real, query, cotangent, key, value):
    inputs = [x.astype(dtype) for x in (query, key, value)]
    out, back = jax.vjp(lambda *xs: attend(*xs, seen, 0.125, None), *inputs)
    return [x.astype(jnp.float32) for x in (jnp.where(real, out, 0), *back((cotangent * real).astype(dtype)))]


def assert_as_near_as_plain(seen, real, arrays, attend=cudnn.attend):
    """Values and gradients: in bfloat16 both implementations are as near to float32's."""
    exact, usual = (gradients(plain.attend, dtype, seen, real, *arrays) for dtype in (jnp.float32, jnp.bfloat16))
    fast = gradients(attend, jnp.bfloat16, seen, real, *arrays)
    for found, normal, true in zip(fast, usual, exact, strict=True):
        assert np.isfinite(found).all()
        allowed = jnp.linalg.norm(normal - true) + 1e-3 * jnp.linalg.norm(true)
        assert jnp.linalg.norm(found - true) <= allowed


def kinds(length, *rows):
    random = np.random.default_rng(0)
    return batch([[example(random, size, kind) for size, kind in row] for row in rows], length)


ROWS = {
    "causal": (([(70, "causal"), (1, "causal"), (40, "causal")], [(129, "causal")]), True),
    "causal, not promised": (([(70, "causal"), (1, "causal"), (40, "causal")], [(129, "causal")]), False),
    "masked": (([(70, "masked"), (30, "masked")], [(1, "masked"), (128, "masked")]), False),
    "prefixes": (([(70, "prefix:20"), (30, "causal"), (5, "masked")], [(129, "prefix:2")]), False),
}


@pytest.mark.parametrize("name", ROWS)
def test_cudnn_attention_is_the_plain_one(name):
    rows, causal = ROWS[name]
    packed = kinds(129, *rows)
    seen = intervals.from_segments(jnp.asarray(packed.segments), jnp.asarray(packed.levels), causal)
    assert cudnn.find_documents(seen, 129)[1]
    assert_as_near_as_plain(seen, jnp.asarray(packed.segments > 0)[..., None, None], heads(129))


def test_documents_see_their_sources():
    random = np.random.default_rng(0)
    rows = [[example(random, 20, source=9), example(random, 30, source=40)], [example(random, 64, source=64)]]
    packed = batch(rows, 64, 66)
    seen = intervals.from_source(jnp.asarray(packed.segments), jnp.asarray(packed.source.segments))
    real = jnp.asarray(packed.segments > 0)[..., None, None]
    assert_as_near_as_plain(seen, real, heads(64, 66), lambda *xs: jnp.where(real, cudnn.attend(*xs), 0))


UNKNOWN = {
    "too many documents": lambda: kinds(64, [(3, "causal")] * 20, [(64, "causal")]),
    "windows": lambda: random_batch(0, 2, 64),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_the_documents_do_not_say_is_computed_otherwise(name):
    packed = UNKNOWN[name]()
    seen = intervals.from_segments(jnp.asarray(packed.segments), jnp.asarray(packed.levels))
    if name == "windows":
        seen = intervals.in_window(seen, jnp.arange(64)[None], 7)
    assert not cudnn.find_documents(seen, 64)[1]
    assert_as_near_as_plain(seen, jnp.asarray(packed.segments > 0)[..., None, None], heads(64))


@pytest.mark.skipif(GPU, reason="is run there")
def test_it_lowers_for_cuda_and_holds_no_mask(monkeypatch):
    """Forward and backward, as "auto" chooses it on a GPU."""
    monkeypatch.undo()
    monkeypatch.setattr(cudnn.fused, "check_cudnn_version", lambda: 91_200)
    monkeypatch.setattr(cudnn.fused, "check_compute_capability", lambda _: True)
    length = 256
    seen = Intervals(jnp.zeros((2, length), int), jnp.broadcast_to(jnp.arange(length) + 1, (2, length)), causal=True)
    query, key = jnp.zeros((2, length, 4, 64), jnp.bfloat16), jnp.zeros((2, length, 2, 64), jnp.bfloat16)

    def loss(query, key):
        documents, _ = cudnn.find_documents(seen, length)
        return cudnn._packed(documents, True, 0.1, query, key, key).sum()

    with models.compiled_for("gpu"):
        chosen = jax.make_jaxpr(lambda q, k: kernels.attend(q, k, k, seen, 0.1, None, "auto"))(query, key)
    assert "cond" in str(chosen)
    text = jax.jit(jax.grad(loss)).trace(query, key).lower(lowering_platforms=("cuda",)).as_text()
    assert "__cudnn$fmha" in text and f"{length}x{length}" not in text
