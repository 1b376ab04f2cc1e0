"""Plain attention, one block of queries after another, each computed again for the backward pass: for long rows where
no kernel serves, such as T5's relative bias on a TPU. The bias is computed with its block; nothing is ever of queries
by keys."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from research.models.kernels import plain
from research.models.kernels.bias import RelativeBias
from research.models.kernels.intervals import Intervals

BLOCK = 256  # queries


def attend(
    query: Float[Array, "batch queries heads head"],
    key: Float[Array, "batch keys kv_heads head"],
    value: Float[Array, "batch keys kv_heads head"],
    intervals: Intervals,
    scale: float,
    bias: RelativeBias | None,
    softcap: float = 0.0,
) -> Float[Array, "batch queries heads head"]:
    """As `plain.attend`."""
    length = query.shape[1]
    size = min(BLOCK, length)
    count = -(-length // size)

    def split(x: Array) -> Array:
        padded = jnp.pad(x, ((0, 0), (0, count * size - length)) + ((0, 0),) * (x.ndim - 2))
        return jnp.moveaxis(padded.reshape(x.shape[0], count, size, *x.shape[2:]), 1, 0)

    @partial(jax.checkpoint, prevent_cse=False)
    def block(part: tuple[Array, Intervals, Array | None]) -> Array:
        queries, own, index = part
        of_block = None if bias is None or index is None else replace(bias, index=index)
        return plain.attend(queries, key, value, own, scale, of_block, softcap)

    index = None if bias is None else split(bias.index)
    parts = lax.map(block, (split(query), jax.tree.map(split, intervals), index))
    return jnp.moveaxis(parts, 0, 1).reshape(query.shape[0], -1, *query.shape[2:])[:, :length]
