"""Plain attention in blocks of queries, for rows that are known to be causal: a block computes no keys behind it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from research.models.kernels import plain
from research.models.kernels.bias import RelativeBias
from research.models.kernels.intervals import Intervals

BLOCKS = 4  # more save little of what lies behind them, and copy more keys
SHORTEST = 64  # queries of a block: products with fewer are slow


def attend(
    query: Float[Array, "batch queries heads head"],
    key: Float[Array, "batch keys kv_heads head"],
    value: Float[Array, "batch keys kv_heads head"],
    intervals: Intervals,
    scale: float,
    bias: RelativeBias | None,
) -> Float[Array, "batch queries heads head"]:
    """As `plain.attend`, which it is where the intervals are not known to be causal. If they are, there are as many
    queries as keys."""
    if not intervals.causal:
        return plain.attend(query, key, value, intervals, scale, bias)
    length = query.shape[1]
    size = max(SHORTEST, -(-length // BLOCKS))
    parts = []
    for begin in range(0, length, size):
        queries, keys = slice(begin, begin + size), slice(begin + size)
        own = jax.tree.map(lambda x, queries=queries: x[:, queries], intervals)
        part = None if bias is None else bias.of(queries)
        parts.append(plain.attend(query[:, queries], key[:, keys], value[:, keys], own, scale, part))
    return jnp.concatenate(parts, axis=1)
