"""The one attention rule, as two integers a query.

A query sees a key when both are in the same segment and `levels[key] <= levels[query]`. Segments are contiguous and
levels never decrease within one, so what a query sees is one interval of keys, derived once a batch. Padding is a
segment of its own, so that no query is left without a key.
"""

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int


@partial(jax.tree_util.register_dataclass, data_fields=["start", "end", "shared_prefix"], meta_fields=["causal"])
@dataclass(frozen=True)
class Intervals:
    """The keys that each query sees: those with `start <= index < end`, and those of another such interval where
    several branches of a row share a prefix."""

    start: Int[Array, "batch queries"]
    end: Int[Array, "batch queries"]
    shared_prefix: tuple[Int[Array, "batch queries"], Int[Array, "batch queries"]] | None = None  # its start and end
    causal: bool = False  # promised before there are arrays: query q, unless it is padding, sees no key behind q


def from_segments(
    segments: Int[Array, "batch length"], levels: Int[Array, "batch length"], causal: bool = False
) -> Intervals:
    """The one rule, for queries and keys of the same row."""
    index = jnp.broadcast_to(jnp.arange(segments.shape[1]), segments.shape)
    changes = segments[:, 1:] != segments[:, :-1]
    edge = jnp.ones_like(segments[:, :1], bool)
    begins = jnp.concatenate([edge, changes], axis=1)
    start = lax.cummax(jnp.where(begins, index, 0), axis=1)
    # keys of the same level as the query are seen too, so the interval ends where the run of equal levels ends
    ends = jnp.concatenate([changes | (levels[:, 1:] != levels[:, :-1]), edge], axis=1)
    end = lax.cummin(jnp.where(ends, index + 1, segments.shape[1]), axis=1, reverse=True)
    return Intervals(start, end, causal=causal)


def from_source(segments: Int[Array, "batch length"], source: Int[Array, "batch source"]) -> Intervals:
    """Cross-attention: every source token of the query's segment. Padding sees the source's padding, if any."""
    last = jnp.iinfo(jnp.int32).max
    source, segments = (jnp.where(side == 0, last, side) for side in (source, segments))
    search = jax.vmap(jnp.searchsorted, in_axes=(0, 0))
    start = search(source, segments)
    return Intervals(start, jnp.where(segments == last, source.shape[1], search(source, segments + 1)))


def in_window(intervals: Intervals, index: Int[Array, "#batch queries"], window: int) -> Intervals:
    """Of these keys, those at most `window` positions from the query's own `index` (sliding-window attention)."""
    start, end = jnp.maximum(intervals.start, index - window), jnp.minimum(intervals.end, index + window + 1)
    return replace(intervals, start=start, end=end)


def mask(intervals: Intervals, keys: int) -> Bool[Array, "batch queries keys"]:
    """The intervals written out: for the reference implementation, and for pictures."""
    index = jnp.arange(keys)

    def inside(start: Int[Array, "batch queries"], end: Int[Array, "batch queries"]) -> Bool[Array, "..."]:
        return (index >= start[..., None]) & (index < end[..., None])

    own = inside(intervals.start, intervals.end)
    return own if intervals.shared_prefix is None else own | inside(*intervals.shared_prefix)
