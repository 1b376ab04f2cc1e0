"""Attention: the rule in `intervals.py`, one file for each implementation of it, and the one place that chooses."""

from collections.abc import Callable

from jaxtyping import Array, Float

from research.config.model import Implementation
from research.models import platform
from research.models.kernels import blocks, cudnn, plain
from research.models.kernels.bias import RelativeBias
from research.models.kernels.intervals import Intervals

__all__ = ["Implementation", "Intervals", "RelativeBias", "attend"]

IMPLEMENTATIONS: dict[str, Callable[..., Array]] = {
    "plain": plain.attend,
    "blocks": blocks.attend,
    "cudnn": cudnn.attend,
}


def attend(
    query: Float[Array, "batch queries heads head"],
    key: Float[Array, "batch keys kv_heads head"],
    value: Float[Array, "batch keys kv_heads head"],
    intervals: Intervals,
    scale: float,
    bias: RelativeBias | None,
    implementation: Implementation,
) -> Float[Array, "batch queries heads head"]:
    """`plain.attend` by the named implementation, or, for "auto", by the fastest one for the platform that is compiled
    for and for these arguments."""
    if implementation == "auto":
        fast = platform.current() == "gpu" and cudnn.fits(query, intervals, bias)
        implementation = "cudnn" if fast else "blocks"
    return IMPLEMENTATIONS[implementation](query, key, value, intervals, scale, bias)
