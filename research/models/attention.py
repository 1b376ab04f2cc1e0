"""The one attention rule, and its implementations.

A query sees a key when both are in the same segment and `levels[key] <= levels[query]`. Segments are contiguous and
levels never decrease within one, so what a query sees is one interval of keys: two integers a query, derived once a
batch. Every implementation takes those; none needs a `length x length` mask. Padding is a segment of its own, so that
no query is left without a key.
"""

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from research.models import platform
from research.models.kernels import splash

BLOCKS = 4  # of queries, in causal attention: more save little of what lies behind them, and copy more keys
SHORTEST = 64  # queries of a block: products with fewer are slow


@partial(jax.tree_util.register_dataclass, data_fields=["start", "end", "trunk"], meta_fields=["causal"])
@dataclass(frozen=True)
class Visible:
    """The keys that each query sees: those with `start <= index < end`, and those of another such interval if several
    branches share a trunk."""

    start: Int[Array, "batch queries"]
    end: Int[Array, "batch queries"]
    trunk: tuple[Int[Array, "batch queries"], Int[Array, "batch queries"]] | None = None  # where it starts and ends
    causal: bool = False  # known before there are arrays: query q, unless it is padding, sees no key behind q


def visible(segments: Int[Array, "batch length"], levels: Int[Array, "batch length"], causal: bool = False) -> Visible:
    """The one rule as intervals, for queries and keys of the same row."""
    index = jnp.broadcast_to(jnp.arange(segments.shape[1]), segments.shape)
    changes = segments[:, 1:] != segments[:, :-1]
    edge = jnp.ones_like(segments[:, :1], bool)
    begins = jnp.concatenate([edge, changes], axis=1)
    start = lax.cummax(jnp.where(begins, index, 0), axis=1)
    # keys of the same level as the query are seen too, so the interval ends where the run of equal levels ends
    ends = jnp.concatenate([changes | (levels[:, 1:] != levels[:, :-1]), edge], axis=1)
    end = lax.cummin(jnp.where(ends, index + 1, segments.shape[1]), axis=1, reverse=True)
    return Visible(start, end, causal=causal)


def visible_source(segments: Int[Array, "batch length"], source: Int[Array, "batch source"]) -> Visible:
    """Cross-attention: every source token of the query's segment. Padding sees the source's padding, if any."""
    last = jnp.iinfo(jnp.int32).max
    source, segments = (jnp.where(side == 0, last, side) for side in (source, segments))
    search = jax.vmap(jnp.searchsorted, in_axes=(0, 0))
    start = search(source, segments)
    return Visible(start, jnp.where(segments == last, source.shape[1], search(source, segments + 1)))


def within(seen: Visible, index: Int[Array, "batch queries"], window: int) -> Visible:
    """Of what is seen, the keys at most `window` places from the query's own `index` (sliding-window attention)."""
    return replace(seen, start=jnp.maximum(seen.start, index - window), end=jnp.minimum(seen.end, index + window + 1))


def mask(seen: Visible, keys: int) -> Bool[Array, "batch queries keys"]:
    """The intervals as a mask: for pictures, and for implementations that take nothing better."""
    index = jnp.arange(keys)

    def inside(start: Int[Array, "batch queries"], end: Int[Array, "batch queries"]) -> Bool[Array, "..."]:
        return (index >= start[..., None]) & (index < end[..., None])

    own = inside(seen.start, seen.end)
    return own if seen.trunk is None else own | inside(*seen.trunk)


def attend(
    query: Float[Array, "batch queries heads head"],
    key: Float[Array, "batch keys kv_heads head"],
    value: Float[Array, "batch keys kv_heads head"],
    seen: Visible,
    scale: float,
    bias: Float[Array, "#batch heads queries keys"] | None,
    implementation: str,
) -> Float[Array, "batch queries heads head"]:
    """Softmax attention over what each query sees.

    `implementation` is one of `chosen`. Groups of `heads / kv_heads` query heads share a key head. Where what is seen
    is known to be causal, there are as many queries as keys, and a block of queries computes no keys behind it.
    """
    implementation = chosen(implementation, query, bias is not None)
    if implementation == "splash":
        return splash.attend(query, key, value, seen, scale)
    return checkpoint_name(_elsewhere(query, key, value, seen, scale, bias, implementation), "attention")


def chosen(implementation: str, query: Array, biased: bool) -> str:
    """ "plain", "cudnn" or "splash"; "auto": cuDNN on a GPU with 16-bit activations, splash on a TPU where there are
    queries enough and no bias, else plain."""
    if implementation != "auto":
        return "plain" if implementation == "splash" and biased else implementation
    half = query.dtype in (jnp.bfloat16, jnp.float16)
    if half and platform.current() == "gpu":
        return "cudnn"
    return "splash" if platform.current() == "tpu" and query.shape[1] >= SHORTEST and not biased else "plain"


def _elsewhere(query, key, value, seen, scale, bias, implementation):
    if implementation == "cudnn":
        allowed = mask(seen, key.shape[1])[:, None]
        bias = None if bias is None else bias.astype(query.dtype)
        return jax.nn.dot_product_attention(
            query, key, value, bias=bias, mask=allowed, is_causal=seen.causal, scale=scale, implementation="cudnn"
        )
    length = query.shape[1]
    size = max(SHORTEST, -(-length // BLOCKS)) if seen.causal else length
    blocks = []
    for begin in range(0, length, size):
        queries, keys = slice(begin, begin + size), slice(begin + size if seen.causal else None)
        part = jax.tree.map(lambda x, queries=queries: x[:, queries], seen)
        cut = None if bias is None else bias[:, :, queries, keys]
        weights = probabilities(query[:, queries], key[:, keys], part, scale, cut)
        blocks.append(combine(weights, value[:, keys]))
    return jnp.concatenate(blocks, axis=1)


def probabilities(
    query: Float[Array, "batch queries heads head"],
    key: Float[Array, "batch keys kv_heads head"],
    seen: Visible,
    scale: float,
    bias: Float[Array, "#batch heads queries keys"] | None,
) -> Float[Array, "batch heads queries keys"]:
    """Softmax in float32 of `scale * query . key + bias` over the keys that each query sees; exactly zero elsewhere."""
    batch, queries, heads, width = query.shape
    kv_heads = key.shape[2]
    grouped = query.reshape(batch, queries, kv_heads, heads // kv_heads, width) * scale
    scores = jnp.einsum("bqgrd,bkgd->bgrqk", grouped, key, preferred_element_type=jnp.float32)
    scores = scores.reshape(batch, heads, queries, -1)
    scores = scores if bias is None else scores + bias
    # finite, so that a query that sees nothing (padding without padded source) gives no NaN
    scores = jnp.where(mask(seen, key.shape[1])[:, None], scores, jnp.finfo(jnp.float32).min)
    return jax.nn.softmax(scores, axis=-1)


def combine(
    weights: Float[Array, "batch heads queries keys"], value: Float[Array, "batch keys kv_heads head"]
) -> Float[Array, "batch queries heads head"]:
    """The values, averaged with the attention's weights."""
    batch, heads, queries, keys = weights.shape
    grouped = weights.reshape(batch, value.shape[2], -1, queries, keys).astype(value.dtype)
    return jnp.einsum("bgrqk,bkgd->bqgrd", grouped, value).reshape(batch, queries, heads, -1)
