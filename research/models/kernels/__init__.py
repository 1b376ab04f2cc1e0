"""Attention: the rule in `intervals.py`, one file for each implementation of it, and the one place that chooses."""

from collections.abc import Callable

import jax
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
        implementation, _ = fastest(query, intervals.shared_prefix is not None, bias is not None, softcap)
    out = IMPLEMENTATIONS[implementation](query, key, value, intervals, scale, bias, softcap)
    return out if implementation == "splash" else checkpoint_name(out, "attention")  # which names more, and itself


def fastest(
    query: Array | jax.ShapeDtypeStruct, shared_prefix: bool, biased: bool, softcap: float = 0.0
) -> tuple[Implementation, str]:
    """For the platform that is compiled for, queries of this shape and type, and intervals and a bias that are there or
    not; and why."""
    match platform.current():
        case "gpu" | "tpu" if softcap:
            return "blocks", "no kernel caps scores"
        case "gpu" if not cudnn.supported():
            return "blocks", "cuDNN's packed layout needs a Hopper GPU or a later one"
        case "gpu" if cudnn.fits(query, shared_prefix, biased):
            return "cudnn", "documents by their offsets, without a mask"
        case "gpu":
            return "blocks", f"cuDNN takes {cudnn.TAKES}"
        case "tpu" if splash.fits(query, biased):
            return "splash", "intervals in the kernel, without a mask"
        case "tpu":
            return "blocks", f"splash takes {splash.TAKES}"
        case other:
            return "blocks", f"there is no kernel for a {other.upper()}"
