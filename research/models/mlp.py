"""The feed-forward layer."""

import flax.linen as nn
from jaxtyping import Array, Float

from research.config import Model
from research.models.places import place
from research.models.projection import projection

ACTIVATIONS = {
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: nn.gelu(x, approximate=True),
    "relu": nn.relu,
    "silu": nn.silu,
}


class MLP(nn.Module):
    """Position-wise feed-forward layer, gated (Shazeer 2020) or not."""

    config: Model

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch length width"]
    ) -> tuple[Float[Array, "batch length width"], Float[Array, ""] | None]:
        """Its output, and its auxiliary loss (see `Block`), of which it has none."""
        config, mlp = self.config, self.config.mlp
        width, inner = (("embed", config.width),), (("mlp", mlp.width),)
        x = place(self, "input", x)
        up = projection(self, "up", config, width, inner, mlp.bias)(x)
        if mlp.gated:
            gate = projection(self, "gate", config, width, inner, mlp.bias)(x)
            hidden = ACTIVATIONS[mlp.activation](gate) * up
        else:
            hidden = ACTIVATIONS[mlp.activation](up)
        hidden = place(self, "hidden", nn.with_logical_constraint(hidden, ("batch", "length", "mlp")))
        out = projection(self, "down", config, inner, width, mlp.bias, residual=True)(hidden)
        return place(self, "output", out), None
