"""Layer norm and RMS norm."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from research import config
from research.models.parameters import parameter


class Norm(nn.Module):
    """Layer norm (Ba et al. 2016) or RMS norm (Zhang and Sennrich 2019) over the last axis, in float32."""

    config: config.Norm
    axis: str = "embed"  # logical name of the last axis

    @nn.compact
    def __call__(self, x: Float[Array, "... width"]) -> Float[Array, "... width"]:
        y, layer_norm = x.astype(jnp.float32), self.config.kind == "layernorm"
        if layer_norm:
            y = y - jnp.mean(y, axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.config.epsilon)
        y = y * parameter(self, "scale", nn.initializers.ones, x.shape[-1:], (self.axis,))
        if layer_norm and self.config.bias:
            y = y + parameter(self, "bias", nn.initializers.zeros, x.shape[-1:], (self.axis,))
        return y.astype(x.dtype)
