"""The reference implementation: scores of every query and key at once, in whatever XLA makes of it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from research.models.kernels import intervals as rule
from research.models.kernels.bias import RelativeBias
from research.models.kernels.intervals import Intervals


def attend(
    query: Float[Array, "batch queries heads head"],
    key: Float[Array, "batch keys kv_heads head"],
    value: Float[Array, "batch keys kv_heads head"],
    intervals: Intervals,
    scale: float,
    bias: RelativeBias | None,
    softcap: float = 0.0,
) -> Float[Array, "batch queries heads head"]:
    """Softmax attention over the keys that each query sees. Groups of `heads / kv_heads` query heads share a key head.
    All other implementations have this signature and this result; only this one needs memory for `queries x keys`."""
    return combine(softmax(scores(query, key, scale, bias, softcap), intervals), value)


def scores(
    query: Float[Array, "batch queries heads head"],
    key: Float[Array, "batch keys kv_heads head"],
    scale: float,
    bias: RelativeBias | None,
    softcap: float = 0.0,
) -> Float[Array, "batch heads queries keys"]:
    """`scale * query . key + bias` in float32, for every query and key. With a `softcap` (Gemma 2) a product s becomes
    softcap * tanh(s / softcap)."""
    batch, queries, heads, width = query.shape
    keys, kv_heads = key.shape[1:3]
    grouped = query.reshape(batch, queries, kv_heads, heads // kv_heads, width) * scale
    products = jnp.einsum("bqgrd,bkgd->bgrqk", grouped, key, preferred_element_type=jnp.float32)
    products = products.reshape(batch, heads, queries, keys)
    products = softcap * jnp.tanh(products / softcap) if softcap else products
    return products if bias is None else products + bias.block(jnp.arange(keys))


def softmax(scores: Float[Array, "batch heads queries keys"], intervals: Intervals) -> Float[Array, "..."]:
    """Over the keys that each query sees; exactly zero elsewhere."""
    # finite, so that a query that sees nothing (padding without padded source) gives no NaN
    scores = jnp.where(rule.mask(intervals, scores.shape[-1])[:, None], scores, jnp.finfo(jnp.float32).min)
    return jax.nn.softmax(scores, axis=-1)


def combine(
    weights: Float[Array, "batch heads queries keys"], value: Float[Array, "batch keys kv_heads head"]
) -> Float[Array, "batch queries heads head"]:
    """The values, averaged with the attention's weights."""
    batch, heads, queries, keys = weights.shape
    grouped = weights.reshape(batch, value.shape[2], -1, queries, keys).astype(value.dtype)
    return jnp.einsum("bgrqk,bkgd->bqgrd", grouped, value).reshape(batch, queries, heads, -1)
