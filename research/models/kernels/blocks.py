"""Plain attention in blocks of queries, for platforms without a kernel: in rows that are known to be causal, a block
computes no keys behind it; long rows of other kinds are `scanned`, so that nothing is of queries by keys."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from research.models.kernels import plain, scanned
from research.models.kernels.bias import RelativeBias
from research.models.kernels.intervals import Intervals

BLOCKS = 4  # more save little of what lies behind them, and copy more keys
MOST = 1024 * 1024  # scores of a row and head that exist at once, where they are not cut as causal rows are
SHORTEST = 64  # queries of a block: products with fewer are slow


def attend(
    query: Float[Array, "batch queries heads head"],
    key: Float[Array, "batch keys kv_heads head"],
    value: Float[Array, "batch keys kv_heads head"],
    intervals: Intervals,
    scale: float,
    bias: RelativeBias | None,
    softcap: float = 0.0,
) -> Float[Array, "batch queries heads head"]:
    """As `plain.attend`, which it is in short rows whose intervals are not known to be causal. If they are, there are
    as many queries as keys."""
    whole = query.shape[1] * key.shape[1] <= MOST or query.shape[1] <= scanned.BLOCK
    if not whole and (bias is not None or not intervals.causal):
        return scanned.attend(query, key, value, intervals, scale, bias, softcap)
    if not intervals.causal:
        return plain.attend(query, key, value, intervals, scale, bias, softcap)
    length = query.shape[1]
    size = max(SHORTEST, -(-length // BLOCKS))
    parts = []
    for begin in range(0, length, size):
        queries, keys = slice(begin, begin + size), slice(begin + size)
        own = jax.tree.map(lambda x, queries=queries: x[:, queries], intervals)
        part = None if bias is None else bias.of(queries)
        parts.append(plain.attend(query[:, queries], key[:, keys], value[:, keys], own, scale, part, softcap))
    return jnp.concatenate(parts, axis=1)
