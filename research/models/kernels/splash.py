"""Attention on TPUs: splash attention (sparse flash attention) whose mask is the intervals themselves.

Two integers a query are all that the kernels read of what it sees, so causal, prefix, masked, packed and windowed rows
run through one program, at any length, and no array of queries by keys exists. What nobody sees is skipped as it turns
up: in causal rows half of all blocks, in packed rows all between documents.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from research.models import platform
from research.models.kernels import splash_kernels
from research.models.kernels.bias import RelativeBias
from research.models.kernels.intervals import Intervals
from research.models.kernels.splash_kernels import Tiles

BLOCKS = (1024, 512, 256, 128)  # queries and keys of a block, the best first
COMPUTE = 256  # keys whose scores exist at once in the backward kernel, and are one product in both
PADDING = 1 / 8  # of a length, that may be added for the sake of larger blocks
SHORTEST = 64  # queries that are worth a kernel: decoding has one
TAKES = f"rows of at least {SHORTEST} tokens, and no bias"
KEPT = 8 * 2**20  # bytes of on-chip memory for the gradients of a group of heads' queries


def fits(query: Array | jax.ShapeDtypeStruct, biased: bool) -> bool:
    """Whether splash computes this, and is worth it."""
    return not biased and query.shape[1] >= SHORTEST


def attend(
    query: Float[Array, "batch queries heads head"],
    key: Float[Array, "batch keys kv_heads head"],
    value: Float[Array, "batch keys kv_heads head"],
    intervals: Intervals,
    scale: float,
    bias: RelativeBias | None,
    softcap: float = 0.0,
) -> Float[Array, "batch queries heads head"]:
    """As `plain.attend`, except that a query that sees no key gives zeros, and that there can be no bias
    and no cap on scores.

    What the backward pass needs of the forward kernel is named "attention" (`jax.checkpoint_policies`). On platforms
    other than TPUs the kernels are interpreted, which is slow.
    """
    assert bias is None and not softcap
    queries, keys = _block(query.shape[1]), _block(key.shape[1])
    share = (1 + min(1, keys / key.shape[1])) / 2 if intervals.causal else 1.0
    tiles = Tiles(queries, keys, min(COMPUTE, keys), share, platform.current() != "tpu")
    rows = [intervals.start, intervals.end, *(intervals.shared_prefix or ())]
    spans = jnp.stack([_padded(row, queries) for row in rows], axis=1).astype(jnp.int32)

    def by_heads(x: Array, block: int) -> Array:
        return jnp.swapaxes(_padded(x, block), 1, 2)

    out = _attend(
        tiles,
        by_heads(query * (scale / splash_kernels.LN2), queries),
        by_heads(key, keys),
        by_heads(value, keys),
        spans,
    )
    return jnp.swapaxes(out, 1, 2)[:, : query.shape[1]]


def _block(length: int) -> int:
    """The largest block to whose multiple a length can be padded cheaply."""
    return next((size for size in BLOCKS if -length % size <= PADDING * length), BLOCKS[-1])


def _padded(x: Array, block: int) -> Array:
    """Zeros at the end of axis 1: keys that no interval has, and queries whose interval is empty."""
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % block)) + ((0, 0),) * (x.ndim - 2))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
    tiles: Tiles,
    query: Float[Array, "batch heads queries head"],
    key: Float[Array, "batch kv_heads keys head"],
    value: Float[Array, "batch kv_heads keys head"],
    spans: Int[Array, "batch rows queries"],
) -> Float[Array, "batch heads queries head"]:
    return splash_kernels.forward(tiles, query, key, value, spans)[0]


def _forward(tiles, query, key, value, spans):
    out, normaliser = (checkpoint_name(x, "attention") for x in splash_kernels.forward(tiles, query, key, value, spans))
    return out, (query, key, value, spans, out, normaliser)


def _backward(tiles, kept, gradient):
    query, key, value, spans, out, normaliser = kept
    shift = jnp.sum(out.astype(jnp.float32) * gradient.astype(jnp.float32), axis=-1)[:, :, None]
    count = _chunks(tiles, query, key.shape[1])
    if count == 1:
        gradients = splash_kernels.backward(
            tiles, query, key, value, spans, gradient, normaliser, shift, jnp.dtype(key.dtype)
        )
        return *gradients, None

    def split(x: Array, axis: int) -> Array:
        return jnp.moveaxis(x.reshape(*x.shape[:axis], count, -1, *x.shape[axis + 1 :]), axis, 0)

    def add(sums, chunk):
        of_query, *more = splash_kernels.backward(tiles, chunk[0], key, value, *chunk[1:], jnp.dtype(jnp.float32))
        return jax.tree.map(jnp.add, sums, tuple(more)), of_query

    chunks = (split(query, 2), split(spans, 2), split(gradient, 2), split(normaliser, 3), split(shift, 3))
    zeros = jnp.zeros(key.shape, jnp.float32)
    (of_key, of_value), of_query = lax.scan(add, (zeros, zeros), chunks)
    of_query = jnp.moveaxis(of_query, 0, 2).reshape(query.shape)
    return of_query, of_key.astype(key.dtype), of_value.astype(value.dtype), None


_attend.defvjp(_forward, _backward)


def _chunks(tiles: Tiles, query: Array, kv_heads: int) -> int:
    """Into how many parts the backward kernel takes the queries, so that the gradients of one stay on the chip."""
    _, heads, length, width = query.shape
    blocks, block = length // tiles.queries, heads // kv_heads * tiles.queries * max(width, 128) * 4
    return next(n for n in range(1, blocks + 1) if blocks % n == 0 and (blocks // n * block <= KEPT or n == blocks))
