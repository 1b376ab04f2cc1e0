"""Rotary position embeddings (Su et al. 2021), in the layout of Llama's Hugging Face checkpoints."""

import math
from typing import NamedTuple

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


class Rope(NamedTuple):
    """What rotates queries and keys, computed once for all layers."""

    cosine: Float[Array, "batch length 1 half"]
    sine: Float[Array, "batch length 1 half"]


def rope(positions: Int[Array, "batch length"], frequency: Float[np.ndarray, " half"]) -> Rope:
    """The rotations of tokens at these positions."""
    angles = positions[..., None, None].astype(jnp.float32) * frequency
    return Rope(jnp.cos(angles), jnp.sin(angles))


def rotate(x: Float[Array, "batch length heads head"], by: Rope) -> Float[Array, "batch length heads head"]:
    """Rotates the pairs (i, i + head / 2)."""
    cosine, sine = by
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
    return rotated.astype(x.dtype)
