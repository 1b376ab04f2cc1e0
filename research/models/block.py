"""One block: attention, cross-attention where there is a source, and the MLP, each on the residual stream."""

from collections.abc import Callable
from functools import partial, reduce
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from research.config import Model
from research.models.attention import Attention, Cache, Caches, Context
from research.models.mlp import MLP
from research.models.norm import Norm
from research.models.places import place

Layer = Callable[[Array], tuple[Array, Array | None]]  # what it adds to the residual stream, and its auxiliary loss


class LayerType(NamedTuple):
    """In what the blocks of a stack differ; None: in nothing."""

    local: Bool[Array, " layers"] | None = None  # has a sliding window
    skip_norm: Bool[Array, " layers"] | None = None  # attention reads the residual stream without a norm before it


class Auxiliary(NamedTuple):
    """What comes out of a block, or a stack, beside the residual stream."""

    cache: Caches  # with the new keys and values
    # to be added to the mean cross-entropy, with the weight that the layer gives it; None: no layer has any
    loss: Float[Array, ""] | None


def added(*losses: Array | None) -> Array | None:
    """The sum of those auxiliary losses that there are."""
    present = [loss for loss in losses if loss is not None]
    return reduce(jnp.add, present) if present else None


class Block(nn.Module):
    """A block, or one of the stacked blocks of a stack."""

    config: Model
    cross: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch queries width"],
        context: Context,
        cache: Cache | None,
        layer_type: LayerType = LayerType(),  # noqa: B008
    ) -> tuple[Float[Array, "batch queries width"], Auxiliary]:
        new_cache: Cache = {}
        losses: list[Array | None] = []
        if context.local is not None:
            choose = partial(jnp.where, layer_type.local)
            intervals, rope = jax.tree.map(choose, context.local, (context.intervals, context.rope))
            context = context._replace(intervals=intervals, rope=rope)

        def attend(name: str, cross: bool) -> Layer:
            def layer(y: Array) -> tuple[Array, None]:
                y, new = Attention(self.config, cross, name=name)(y, context, cache)
                new_cache.update(new)
                return y, None

            return layer

        layers = {"attention": attend("attention", cross=False)}
        if self.cross:
            layers["cross_attention"] = attend("cross_attention", cross=True)
        layers["mlp"] = MLP(self.config, name="mlp")
        x = place(self, "residual_before", x)
        for name, layer in layers.items():
            x = checkpoint_name(x, "layer_input" if name == "attention" else f"{name}_input")
            x, loss = self._residual(x, name, layer, layer_type.skip_norm if name == "attention" else None)
            losses.append(loss)
            x = place(self, "residual" if name == "mlp" else f"residual_after_{name}", x)
        return x, Auxiliary(new_cache, added(*losses))

    def _residual(self, x: Array, name: str, layer: Layer, skip_norm: Array | None) -> tuple[Array, Array | None]:
        """The residual stream after a layer, and the layer's auxiliary loss."""
        config, pre = self.config, self.config.norm.placement == "pre"
        norm = Norm(config.norm, name=f"{name}_norm")
        read = norm(x) if pre else x
        if skip_norm is not None:
            read = jnp.where(skip_norm, x, read)
        read = nn.with_logical_constraint(read, ("batch", "length", "residual"))
        y, loss = layer(read)
        y = nn.Dropout(config.dropout, deterministic=not self.has_rng("dropout"))(y)
        x = x + y if pre else norm(x + y)
        return nn.with_logical_constraint(x, ("batch", "residual_length", "residual")), loss
