"""Rotary position embeddings (Su et al. 2021), in the layout of Llama's Hugging Face checkpoints."""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from research.config import RopeScaling


def frequencies(width: int, theta: float, scaling: RopeScaling | None) -> np.ndarray:
    """Angle per position of each rotated pair, float32 `[width / 2]` (Su et al. 2021, equation 15), of the `width`
    features of a head that rotate; "dynamic" scaling depends on the row and is not in it."""
    frequency = theta ** -(np.arange(0, width, 2) / width)
    if scaling is None or scaling.kind == "dynamic":
        return frequency.astype(np.float32)
    slowed = frequency / scaling.factor
    if scaling.kind == "linear":
        return slowed.astype(np.float32)
    if scaling.kind == "yarn":
        kept = _yarn_kept(width, theta, scaling)
    else:
        turns = scaling.original_length * frequency / (2 * math.pi)  # over the original context
        kept = (turns - scaling.low_frequency) / (scaling.high_frequency - scaling.low_frequency)
        kept = np.clip(kept, 0, 1)
    return (kept * frequency + (1 - kept) * slowed).astype(np.float32)


def _yarn_kept(width: int, theta: float, scaling: RopeScaling) -> np.ndarray:
    """The share of each frequency that is not slowed (Peng et al. 2023, section 3.2): in the number of the pair it
    falls linearly from where a pair turns `high_frequency` times over the original context to where `low_frequency`."""

    def pair(turns: float) -> float:
        return width * math.log(scaling.original_length / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first, last = pair(scaling.high_frequency), pair(scaling.low_frequency)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, width - 1)
    ramp = (np.arange(width // 2) - first) / (last - first if first != last else 0.001)
    return 1 - np.clip(ramp, 0, 1)


class Rope(NamedTuple):
    """What rotates queries and keys, computed once for all layers."""

    cosine: Float[Array, "batch length 1 half"]
    sine: Float[Array, "batch length 1 half"]


def rope(positions: Int[Array, "batch length"], frequency: Float[np.ndarray | Array, "*rows half"]) -> Rope:
    """The rotations of tokens at these positions, by the frequencies of all rows, or of each: `[batch, 1, 1, half]`."""
    angles = positions[..., None, None].astype(jnp.float32) * frequency
    return Rope(jnp.cos(angles), jnp.sin(angles))


def scaled_rope(positions: Int[Array, "batch length"], width: int, theta: float, scaling: RopeScaling | None) -> Rope:
    """The rotations with everything that `scaling` says. "dynamic" goes by the last position of each row (in a packed
    row, of its longest document)."""
    if scaling is None or scaling.kind in ("linear", "llama3"):
        return rope(positions, frequencies(width, theta, scaling))
    if scaling.kind == "yarn":
        cosine, sine = rope(positions, frequencies(width, theta, scaling))
        return Rope(cosine * scaling.magnitude, sine * scaling.magnitude)
    length = jnp.maximum(positions.max(axis=1, keepdims=True) + 1, scaling.original_length)
    growth = scaling.factor * length / scaling.original_length - (scaling.factor - 1)
    base = theta * growth[..., None, None] ** (width / (width - 2))
    return rope(positions, base ** -(jnp.arange(0, width, 2, dtype=jnp.float32) / width))


def unrotated(like: Rope) -> Rope:
    """What rotates nothing."""
    return Rope(jnp.ones_like(like.cosine), jnp.zeros_like(like.sine))


def rotate(x: Float[Array, "batch length heads head"], by: Rope) -> Float[Array, "batch length heads head"]:
    """Rotates the pairs (i, i + half) of the first `2 half` features of each head; the others stay."""
    cosine, sine = by
    width = 2 * cosine.shape[-1]
    if width < x.shape[-1]:
        return jnp.concatenate([rotate(x[..., :width], by), x[..., width:]], axis=-1)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
    return rotated.astype(x.dtype)
