"""Kernels as small integers: within a block of up to 64 inputs of an output, all values share a float32 scale.

A parameter is then two arrays, `kernel` (int8 or int4) and `kernel_scale`, whose shape is that of the kernel with the
last input axis cut into blocks. Nothing here is trained (Dettmers et al. 2023 train adapters beside such a base).
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from research.models.linear import Linear
from research.models.parameters import parameter

BLOCK = 64
DTYPES: dict[int, Any] = {8: jnp.int8, 4: jnp.int4}


class Quantized(nn.Module):
    """`base` with its kernel in integers; its other parameters keep their paths."""

    base: Linear
    bits: int

    def setup(self) -> None:
        nn.share_scope(self, self.base)

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        shape, axes, inputs = self.base.shape, self.base.axes, len(self.base.inputs)
        integers, last = partial(nn.initializers.zeros, dtype=DTYPES[self.bits]), inputs - 1
        values = parameter(self, "kernel", integers, shape, axes)
        cut = (*shape[:last], blocks(shape[last]), *shape[inputs:])
        scale = parameter(self, "kernel_scale", nn.initializers.zeros, cut, (*axes[:last], None, *axes[inputs:]))
        return self.base(x, dequantize(values, scale, x.dtype))


def blocks(size: int) -> int:
    """Into how many equal blocks of at most 64 an axis is cut."""
    return next(count for count in range(-(-size // BLOCK), size + 1) if size % count == 0)


def quantize(
    kernel: Float[Array, "*shape"], shape: tuple[int, ...], bits: int
) -> tuple[Int[Array, "*shape"], Float[Array, "*blocks"]]:
    """The nearest integers, where the largest magnitude of a block is the largest integer; `shape` is the scale's."""
    largest = 2 ** (bits - 1) - 1
    cut, within = _cut(kernel.shape, shape)
    split = kernel.reshape(cut)
    scale = jnp.max(jnp.abs(split), axis=within, keepdims=True) / largest
    values = jnp.round(split / jnp.where(scale == 0, 1, scale))
    return values.reshape(kernel.shape).astype(DTYPES[bits]), scale.reshape(shape)


def dequantize(values: Int[Array, "*shape"], scale: Float[Array, "*blocks"], dtype: Any) -> Float[Array, "*shape"]:
    """The kernel in a float type."""
    cut, within = _cut(values.shape, scale.shape)
    split = values.astype(dtype).reshape(cut) * jnp.expand_dims(scale.astype(dtype), within)
    return split.reshape(values.shape)


def _cut(shape: tuple[int, ...], scale: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Each axis as (blocks, size of a block), and which of those axes are the sizes."""
    pairs = [(count, size // count) for size, count in zip(shape, scale, strict=True)]
    return tuple(np.ravel(pairs).tolist()), tuple(range(1, 2 * len(shape), 2))
