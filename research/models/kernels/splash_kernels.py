"""The two TPU kernels of `splash`: attention of one block of queries and one block of keys at a time.

Scores are held transposed, keys along sublanes and queries along lanes: softmax statistics, intervals and corrections
are then rows of one value per query, reductions over keys are elementwise, and no `[keys, queries]` tile is ever
transposed. The recurrences are those of FlashAttention-2 (Dao 2023, algorithms 1 and 2), in powers of two: the queries
come multiplied by log2(e), which saves a product for each score.

Which blocks of keys a block of queries reads is known from four integers in scalar memory (`Ranges`). Blocks outside
are neither fetched nor computed; blocks that every query sees whole are not masked.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

LOWEST = -0.7 * float(jnp.finfo(jnp.float32).max)  # a masked score; differences of two such are finite
LN2 = math.log(2)  # what a gradient is multiplied by, since scores are exponents of two
NT = (((1,), (1,)), ((), ()))  # contracts the last axes of both
TN = (((0,), (0,)), ((), ()))  # contracts the first axes of both


@dataclass(frozen=True)
class Tiles:
    """Sizes that a kernel is compiled for."""

    queries: int  # of a block
    keys: int  # of a block in the chip's memory
    compute: int  # keys of a block whose scores exist at once
    share: float  # of all pairs of a query and a key that are computed, as far as known before there are arrays
    interpret: bool


class Ranges(NamedTuple):
    """Of each block of queries the keys that any of its queries sees, and those that all of them see; and of each block
    of keys the first and last block of queries that sees any of it. Flat: scalar memory pads arrays of more axes."""

    of_queries: Int[Array, " batch*query_blocks*4"]
    of_keys: Int[Array, " batch*key_blocks*2"]


def ranges(spans: Int[Array, "batch rows queries"], keys: int, tiles: Tiles) -> Ranges:
    """`spans` has rows of starts and ends, of one or two intervals for each query."""
    batch, rows, length = spans.shape
    blocks = spans.reshape(batch, rows // 2, 2, length // tiles.queries, tiles.queries)
    start, end = blocks[:, :, 0], blocks[:, :, 1]
    seen = end > start
    highest = jnp.max(jnp.where(seen, end, 0), axis=(1, 3))
    lowest = jnp.min(jnp.where(seen, start, keys), axis=(1, 3))
    lowest = jnp.where(highest > 0, lowest, 0)
    whole = jnp.max(start[:, 0], axis=-1), jnp.min(end[:, 0], axis=-1)
    of_queries = jnp.stack([lowest, highest, *whole], axis=-1)
    begins = jnp.arange(0, keys, tiles.keys)[:, None]
    meet = (begins < highest[:, None]) & (begins + tiles.keys > lowest[:, None])  # [batch, key blocks, query blocks]
    first, last = jnp.argmax(meet, axis=-1), meet.shape[-1] - 1 - jnp.argmax(meet[..., ::-1], axis=-1)
    last = jnp.where(jnp.any(meet, axis=-1), last, 0)
    of_keys = jnp.stack([first, last], axis=-1)
    return Ranges(of_queries.reshape(-1).astype(jnp.int32), of_keys.reshape(-1).astype(jnp.int32))


def forward(
    tiles: Tiles,
    query: Float[Array, "batch heads queries head"],
    key: Float[Array, "batch kv_heads keys head"],
    value: Float[Array, "batch kv_heads keys head"],
    spans: Int[Array, "batch rows queries"],
) -> tuple[Float[Array, "batch heads queries head"], Float[Array, "batch heads 1 queries"]]:
    """Attention, and the logarithm to base 2 of its normaliser. A query that sees nothing gives zero, and 0."""
    batch, heads, length, width = query.shape
    group, rows = heads // key.shape[1], spans.shape[1]
    grid = (batch, heads, length // tiles.queries, key.shape[2] // tiles.keys)

    def of_query(b: Any, h: Any, i: Any, j: Any, *_: Any) -> tuple[Any, ...]:
        return b, h, i, 0

    def of_key(b: Any, h: Any, i: Any, j: Any, limits: Any, _: Any) -> tuple[Any, ...]:
        low, high, *_ = _limits(limits, b * grid[2] + i)
        nearest = jnp.clip(j, low // tiles.keys, jnp.maximum(high - 1, 0) // tiles.keys)
        return b, lax.div(h, group), nearest, 0

    keys = pl.BlockSpec((None, None, tiles.keys, width), of_key)
    return pl.pallas_call(
        partial(_forward, tiles, grid[2], grid[3]),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=grid,
            in_specs=[
                pl.BlockSpec((None, rows, tiles.queries), lambda b, h, i, j, *_: (b, 0, i)),
                pl.BlockSpec((None, None, tiles.queries, width), of_query),
                keys,
                keys,
            ],
            out_specs=[
                pl.BlockSpec((None, None, tiles.queries, width), of_query),
                pl.BlockSpec((None, None, 1, tiles.queries), lambda b, h, i, j, *_: (b, h, 0, i)),
            ],
            scratch_shapes=[
                pltpu.VMEM((1, tiles.queries), jnp.float32),
                pltpu.VMEM((1, tiles.queries), jnp.float32),
                pltpu.VMEM((width, tiles.queries), jnp.float32),
            ],
        ),
        out_shape=[
            jax.ShapeDtypeStruct(query.shape, query.dtype),
            jax.ShapeDtypeStruct((batch, heads, 1, length), jnp.float32),
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary", "arbitrary"),
        ),
        cost_estimate=_cost(2, tiles, query, key, 2 * query.nbytes + grid[2] * tiles.share * 2 * group * key.nbytes),
        name="splash_forward",
        interpret=tiles.interpret,
    )(*ranges(spans, key.shape[2], tiles), spans, query, key, value)


def _forward(tiles, query_blocks, key_blocks, limits, _, spans, query, key, value, out, normaliser, top, total, sums):
    """`top` is the running maximum of the scores, `total` the sum of exponentials, `sums` that of weighted values."""
    block, j = pl.program_id(0) * query_blocks + pl.program_id(2), pl.program_id(3)

    @pl.when(j == 0)
    def begin():
        top[...] = jnp.full_like(top, LOWEST)
        total[...] = jnp.zeros_like(total)
        sums[...] = jnp.zeros_like(sums)

    def add(masked: bool):
        parts = range(0, tiles.keys, tiles.compute)
        scores = [_scores(tiles, key, query, spans, j, part, masked) for part in parts]
        before = top[...]
        now = reduce(jnp.maximum, [jnp.max(each, axis=0, keepdims=True) for each in scores], before)
        correction = jnp.exp2(before - now)
        top[...] = now
        total[...] = correction * total[...]
        sums[...] = correction * sums[...]
        for part, each in zip(parts, scores, strict=True):
            weights = jnp.exp2(each - now)
            total[...] += jnp.sum(weights, axis=0, keepdims=True)
            sums[...] += lax.dot_general(
                value[part : part + tiles.compute],
                weights.astype(value.dtype),
                TN,
                preferred_element_type=jnp.float32,
            )

    _where_seen(limits, block, j, tiles, add)

    @pl.when(j == key_blocks - 1)
    def finish():
        seen = top[...] > LOWEST
        divisor = jnp.where(seen, total[...], 1)
        out[...] = jnp.where(seen, sums[...] / divisor, 0).T.astype(out.dtype)
        normaliser[...] = jnp.where(seen, top[...] + jnp.log2(divisor), 0)


def backward(
    tiles: Tiles,
    query: Float[Array, "batch heads queries head"],
    key: Float[Array, "batch kv_heads keys head"],
    value: Float[Array, "batch kv_heads keys head"],
    spans: Int[Array, "batch rows queries"],
    gradient: Float[Array, "batch heads queries head"],
    normaliser: Float[Array, "batch heads 1 queries"],
    shift: Float[Array, "batch heads 1 queries"],
    dtype: Any,
) -> tuple[
    Float[Array, "batch heads queries head"],
    Float[Array, "batch kv_heads keys head"],
    Float[Array, "batch kv_heads keys head"],
]:
    """Gradients of query, key and value, the last two of `dtype`, from that of the output; `shift` is the sum of output
    times gradient for each query. The gradients of all queries of a group of heads stay on the chip until the last
    block of keys, so that scores are computed once."""
    batch, heads, length, width = query.shape
    kv_heads, rows = key.shape[1], spans.shape[1]
    group = heads // kv_heads
    grid = (batch, kv_heads, key.shape[2] // tiles.keys, group, length // tiles.queries)

    def nearest(b: Any, i: Any, j: Any, meeting: Any) -> Any:
        place = 2 * (b * grid[2] + j)
        return jnp.clip(i, meeting[place], meeting[place + 1])

    def of_query(b: Any, g: Any, j: Any, r: Any, i: Any, _: Any, meeting: Any) -> tuple[Any, ...]:
        return b, g * group + r, nearest(b, i, j, meeting), 0

    def of_row(b: Any, g: Any, j: Any, r: Any, i: Any, _: Any, meeting: Any) -> tuple[Any, ...]:
        return b, g * group + r, 0, nearest(b, i, j, meeting)

    def of_key(b: Any, g: Any, j: Any, *_: Any) -> tuple[Any, ...]:
        return b, g, j, 0

    def when_last(b: Any, g: Any, j: Any, r: Any, i: Any, *_: Any) -> tuple[Any, ...]:
        last = j == grid[2] - 1  # until then the first block stays where it is, and nothing is written
        return b, g * group + jnp.where(last, r, 0), jnp.where(last, i, 0), 0

    queries = pl.BlockSpec((None, None, tiles.queries, width), of_query)
    keys = pl.BlockSpec((None, None, tiles.keys, width), of_key)
    row = pl.BlockSpec((None, None, 1, tiles.queries), of_row)
    moved = grid[2] * tiles.share * 2 * query.nbytes + query.nbytes + 2 * key.nbytes + 2 * key.size * dtype.itemsize
    return pl.pallas_call(
        partial(_backward, tiles, grid),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=grid,
            in_specs=[
                pl.BlockSpec(
                    (None, rows, tiles.queries), lambda b, g, j, r, i, _, meeting: (b, 0, nearest(b, i, j, meeting))
                ),
                queries,
                keys,
                keys,
                queries,
                row,
                row,
            ],
            out_specs=[pl.BlockSpec((None, None, tiles.queries, width), when_last), keys, keys],
            scratch_shapes=[
                pltpu.VMEM((group, width, length), jnp.float32),
                pltpu.VMEM((tiles.keys, width), jnp.float32),
                pltpu.VMEM((tiles.keys, width), jnp.float32),
            ],
        ),
        out_shape=[
            jax.ShapeDtypeStruct(query.shape, query.dtype),
            jax.ShapeDtypeStruct(key.shape, dtype),
            jax.ShapeDtypeStruct(value.shape, dtype),
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary", "arbitrary", "arbitrary"),
        ),
        cost_estimate=_cost(5, tiles, query, key, moved),
        name="splash_backward",
        interpret=tiles.interpret,
    )(*ranges(spans, key.shape[2], tiles), spans, query, key, value, gradient, normaliser, shift)


def _backward(
    tiles, grid, limits, _, spans, query, key, value, gradient, normaliser, shift,
    query_out, key_out, value_out, query_sum, key_sum, value_sum,
):  # fmt: skip
    """The sums hold gradients: of all queries of the group of heads, transposed, and of this block of keys."""
    j, r, i = (pl.program_id(axis) for axis in (2, 3, 4))
    block = pl.program_id(0) * grid[4] + i
    here = pl.ds(pl.multiple_of(i * tiles.queries, tiles.queries), tiles.queries)

    @pl.when(j == 0)
    def begin():
        query_sum[r, :, here] = jnp.zeros((query_sum.shape[1], tiles.queries), jnp.float32)

    @pl.when((r == 0) & (i == 0))
    def begin_keys():
        key_sum[...] = jnp.zeros_like(key_sum)
        value_sum[...] = jnp.zeros_like(value_sum)

    def add(masked: bool):
        for part in range(0, tiles.keys, tiles.compute):
            keys = slice(part, part + tiles.compute)
            weights = jnp.exp2(_scores(tiles, key, query, spans, j, part, masked) - normaliser[...])
            value_sum[keys] += lax.dot(
                weights.astype(gradient.dtype), gradient[...], preferred_element_type=jnp.float32
            )
            of_weights = lax.dot_general(value[keys], gradient[...], NT, preferred_element_type=jnp.float32)
            of_scores = (weights * (of_weights - shift[...])).astype(query.dtype)
            key_sum[keys] += lax.dot(of_scores, query[...], preferred_element_type=jnp.float32)
            query_sum[r, :, here] += lax.dot_general(key[keys], of_scores, TN, preferred_element_type=jnp.float32)

    _where_seen(limits, block, j, tiles, add)

    @pl.when(j == grid[2] - 1)
    def finish():
        query_out[...] = (LN2 * query_sum[r, :, here].T).astype(query_out.dtype)

    @pl.when((r == grid[3] - 1) & (i == grid[4] - 1))
    def finish_keys():
        key_out[...] = (LN2 * key_sum[...]).astype(key_out.dtype)
        value_out[...] = value_sum[...].astype(value_out.dtype)


def _limits(limits: Any, block: Any) -> tuple[Any, ...]:
    return tuple(limits[4 * block + number] for number in range(4))


def _where_seen(limits: Any, block: Any, j: Any, tiles: Tiles, add: Callable[[bool], None]) -> None:
    """Calls `add` if a block of queries sees any of the j-th block of keys: unmasked if it sees all of it."""
    low, high, whole_low, whole_high = _limits(limits, block)
    begin, end = j * tiles.keys, (j + 1) * tiles.keys
    some, whole = (begin < high) & (end > low), (whole_low <= begin) & (end <= whole_high)
    pl.when(whole)(partial(add, False))
    pl.when(some & ~whole)(partial(add, True))


def _scores(tiles: Tiles, key: Any, query: Any, spans: Any, j: Any, part: int, masked: bool) -> Array:
    """Scores `[keys, queries]` of a part of the j-th block of keys, `LOWEST` where a query does not see a key."""
    scores = lax.dot_general(key[part : part + tiles.compute], query[...], NT, preferred_element_type=jnp.float32)
    if not masked:
        return scores
    index = j * tiles.keys + part + lax.broadcasted_iota(jnp.int32, scores.shape, 0)
    seen = [(index >= spans[at : at + 1]) & (index < spans[at + 1 : at + 2]) for at in range(0, spans.shape[0], 2)]
    return jnp.where(seen[0] if len(seen) == 1 else seen[0] | seen[1], scores, LOWEST)


def _cost(products: int, tiles: Tiles, query: Any, key: Any, moved: float) -> pl.CostEstimate:
    """For the compiler's schedule, and for plans: the compiler cannot look into a kernel."""
    pairs = math.prod(query.shape[:3]) * key.shape[2] * tiles.share
    return pl.CostEstimate(
        flops=int(2 * products * pairs * query.shape[3]), transcendentals=int(pairs), bytes_accessed=int(moved)
    )
