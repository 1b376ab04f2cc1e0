"""A linear map, from which adapters and quantised kernels know nothing; they wrap it."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from research.models import platform, sharded
from research.models.parameters import parameter

Axes = tuple[tuple[str, int], ...]  # logical name and size of each axis


class Linear(nn.Module):
    """From the last axes of its input, `inputs`, to `outputs`."""

    inputs: Axes
    outputs: Axes
    bias: bool
    deviation: float  # of the initial kernel

    @property
    def axes(self) -> tuple[str, ...]:
        """The logical axes of the kernel."""
        return tuple(name for name, _ in self.inputs + self.outputs)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the kernel."""
        return tuple(size for _, size in self.inputs + self.outputs)

    @nn.compact
    def __call__(self, x: Float[Array, "..."], kernel: Float[Array, "..."] | None = None) -> Float[Array, "..."]:
        """`kernel` is given by what keeps the kernel in another form."""
        inputs = len(self.inputs)
        if kernel is None:
            kernel = parameter(self, "kernel", nn.initializers.normal(self.deviation), self.shape, self.axes)
        y = product(x, kernel.astype(x.dtype), inputs)
        if self.bias:
            bias = parameter(self, "bias", nn.initializers.zeros, self.shape[inputs:], self.axes[inputs:])
            y = y + bias.astype(x.dtype)
        return y


def product(x: Array, kernel: Array, inputs: int) -> Array:
    """Contracts the last `inputs` axes of `x` with the first ones of `kernel`."""
    if platform.current() == "cpu" and sharded.extent("length") == sharded.extent("residual_length") == 1:
        return _as_matrices(x, kernel, inputs)
    contracted = tuple(range(x.ndim - inputs, x.ndim)), tuple(range(inputs))
    return jax.lax.dot_general(x, kernel, (contracted, ((), ())))


def _as_matrices(x: Array, kernel: Array, inputs: int) -> Array:
    """The same on a CPU, where XLA multiplies two matrices fastest. The barrier, which the gradient passes too, keeps
    what is around the product out of the copies that it makes of its operands."""
    rows, outputs = x.shape[: x.ndim - inputs], kernel.shape[inputs:]
    matrices = x.reshape(math.prod(rows), -1), kernel.reshape(-1, math.prod(outputs))
    return jax.lax.optimization_barrier(jnp.dot(*matrices)).reshape(*rows, *outputs)
