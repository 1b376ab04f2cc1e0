"""Low-rank adapters around a linear map (Hu et al. 2021)."""

import math

import flax.linen as nn
from jaxtyping import Array, Float

from research.config import Lora
from research.models.linear import Axes, product
from research.models.parameters import parameter
from research.models.places import place


class Adapted(nn.Module):
    """`linear`, whose parameters keep their paths, and beside it a map of low rank, which at first changes nothing."""

    linear: nn.Module
    inputs: Axes
    outputs: Axes
    lora: Lora

    def setup(self) -> None:
        nn.share_scope(self, self.linear)

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        y, rank = self.linear(x), self.lora.rank
        (in_axes, in_shape), (out_axes, out_shape) = zip(*self.inputs, strict=True), zip(*self.outputs, strict=True)
        deviation = math.prod(in_shape) ** -0.5
        a = parameter(self, "lora_a", nn.initializers.normal(deviation), (*in_shape, rank), (*in_axes, None))
        b = parameter(self, "lora_b", nn.initializers.zeros, (rank, *out_shape), (None, *out_axes))
        low = product(x, a.astype(x.dtype), len(in_shape))
        return y + place(self, "adapter", self.lora.alpha / rank * product(low, b.astype(x.dtype), 1))
