"""Attention: the rule in `intervals.py`, one file for each implementation of it, and the one place that chooses."""

from collections.abc import Callable

from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from research.config.model import Implementation
from research.models import platform
from research.models.kernels import blocks, cudnn, plain, scanned, splash
from research.models.kernels.bias import RelativeBias
from research.models.kernels.intervals import Intervals

__all__ = ["Implementation", "Intervals", "RelativeBias", "attend"]

IMPLEMENTATIONS: dict[str, Callable[..., Array]] = {
    "plain": plain.attend,
    "blocks": blocks.attend,
    "scanned": scanned.attend,
    "cudnn": cudnn.attend,
    "splash": splash.attend,
}


def attend(
    query: Float[Array, "batch queries heads head"],
    key: Float[Array, "batch keys kv_heads head"],
    value: Float[Array, "batch keys kv_heads head"],
    intervals: Intervals,
    scale: float,
    bias: RelativeBias | None,
    implementation: Implementation,
    softcap: float = 0.0,
) -> Float[Array, "batch queries heads head"]:
    """`plain.attend` by the named implementation, or, for "auto", by the `fastest`. What it computes is named
    "attention" (`jax.checkpoint_policies`)."""
    if implementation == "auto":
        implementation = fastest(query, intervals, bias, softcap)
    out = IMPLEMENTATIONS[implementation](query, key, value, intervals, scale, bias, softcap)
    return out if implementation == "splash" else checkpoint_name(out, "attention")  # which names more, and itself


def fastest(query: Array, intervals: Intervals, bias: RelativeBias | None, softcap: float = 0.0) -> Implementation:
    """For the platform that is compiled for and for these arguments."""
    if softcap:  # which no kernel has
        return "blocks"
    if platform.current() == "gpu" and cudnn.supported() and cudnn.fits(query, intervals, bias):
        return "cudnn"
    return "splash" if platform.current() == "tpu" and splash.fits(query, bias) else "blocks"
