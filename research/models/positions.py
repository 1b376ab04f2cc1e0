"""Rotary positions and T5's relative position buckets."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from research.config import RopeScaling


def frequencies(head_width: int, theta: float, scaling: RopeScaling | None) -> np.ndarray:
    """Angle per position of each rotated pair, float32 `[head_width / 2]` (Su et al. 2021, equation 15)."""
    frequency = theta ** -(np.arange(0, head_width, 2) / head_width)
    if scaling is None:
        return frequency.astype(np.float32)
    slowed = frequency / scaling.factor
    if scaling.kind == "linear":
        return slowed.astype(np.float32)
    turns = scaling.original_length * frequency / (2 * math.pi)  # over the original context
    kept = (turns - scaling.low_frequency) / (scaling.high_frequency - scaling.low_frequency)
    kept = np.clip(kept, 0, 1)
    return (kept * frequency + (1 - kept) * slowed).astype(np.float32)


def rotation(
    positions: Int[Array, "batch length"], frequency: Float[np.ndarray, " half"]
) -> tuple[Float[Array, "batch length 1 half"], Float[Array, "batch length 1 half"]]:
    """Cosines and sines for `rotate`, computed once for all layers."""
    angles = positions[..., None, None].astype(jnp.float32) * frequency
    return jnp.cos(angles), jnp.sin(angles)


def rotate(
    x: Float[Array, "batch length heads head"],
    turn: tuple[Float[Array, "batch length 1 half"], Float[Array, "batch length 1 half"]],
) -> Float[Array, "batch length heads head"]:
    """Rotates the pairs (i, i + head / 2): the layout of Llama's Hugging Face checkpoints."""
    cosine, sine = turn
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
    return turned.astype(x.dtype)


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
