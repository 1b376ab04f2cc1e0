"""T5's relative position bias (Raffel et al. 2020, section 2.1); a kernel computes the block of it that it needs."""

import math
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@partial(
    jax.tree_util.register_dataclass, data_fields=["table", "index"], meta_fields=["bidirectional", "max_distance"]
)
@dataclass(frozen=True)
class RelativeBias:
    """A number for each head and each bucket of distances, added to the scaled query-key products."""

    table: Float[Array, "buckets heads"]
    index: Int[Array, "#batch queries"]  # of each query among the keys
    bidirectional: bool
    max_distance: int

    def of(self, queries: slice) -> "RelativeBias":
        """The bias of some of the queries."""
        return replace(self, index=self.index[:, queries])

    def block(self, keys: Int[Array, " keys"]) -> Float[Array, "#batch heads queries keys"]:
        """The bias between the queries and the keys at these indices, float32."""
        distance = keys - self.index[..., None]
        bucket = relative_buckets(distance, self.bidirectional, len(self.table), self.max_distance)
        return jnp.moveaxis(self.table.astype(jnp.float32)[bucket], -1, 1)


def relative_buckets(
    distance: Int[Array, "*shape"], bidirectional: bool, buckets: int, furthest: int
) -> Int[Array, "*shape"]:
    """The bucket of each distance (key index - query index), as in T5's `_relative_position_bucket`: half of the
    buckets hold one distance each, the others grow logarithmically up to `furthest`; bidirectional attention spends
    half of all on keys behind the query."""
    offset = jnp.zeros_like(distance)
    if bidirectional:
        buckets //= 2
        offset = jnp.where(distance > 0, buckets, 0)
        distance = jnp.abs(distance)
    else:
        distance = jnp.maximum(-distance, 0)
    exact = buckets // 2
    growth = jnp.log(jnp.maximum(distance, 1).astype(jnp.float32) / exact) / math.log(furthest / exact)
    far = jnp.minimum(exact + (growth * (buckets - exact)).astype(distance.dtype), buckets - 1)
    return offset + jnp.where(distance < exact, distance, far)
