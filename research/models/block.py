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
from research.models.kernels import RelativeBias
from research.models.mlp import MLP
from research.models.norm import Norm
from research.models.parameters import parameter
from research.models.places import place
from research.models.rope import unrotated

Layer = Callable[[Array], tuple[Array, Array | None]]  # what it adds to the residual stream, and its auxiliary loss


class LayerType(NamedTuple):
    """In what the blocks of a stack differ; None: in nothing."""

    local: Bool[Array, " layers"] | None = None  # has a sliding window
    skip_norm: Bool[Array, " layers"] | None = None  # attention reads the residual stream without a norm before it
    skip_rope: Bool[Array, " layers"] | None = None  # queries and keys are not rotated


class Auxiliary(NamedTuple):
    """What comes out of a block, or a stack, beside the residual stream."""

    cache: Caches  # with the new keys and values
    # to be added to the mean cross-entropy, with the weight that the layer gives it; None: no layer has any
    loss: Float[Array, ""] | None


def added(*losses: Array | None) -> Array | None:
    """The sum of those auxiliary losses that there are."""
    present = [loss for loss in losses if loss is not None]
    return reduce(jnp.add, present) if present else None


def relative_bias(module: nn.Module, config: Model, index: Array, bidirectional: bool) -> RelativeBias:
    """T5's bias, with its table as a parameter of the module."""
    initial, shape = nn.initializers.normal(config.width**-0.5), (config.positions.buckets, config.attention.heads)
    table = parameter(module, "relative_bias", initial, shape, (None, "heads"))
    return RelativeBias(table, index, bidirectional, config.positions.max_distance)


class Block(nn.Module):
    """A block, or one of the stacked blocks of a stack."""

    config: Model
    cross: bool = False
    bidirectional: bool = False

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
        if layer_type.skip_rope is not None and context.rope is not None:
            rope = jax.tree.map(partial(jnp.where, layer_type.skip_rope), unrotated(context.rope), context.rope)
            context = context._replace(rope=rope)
        if context.bias_index is not None:
            context = context._replace(bias=relative_bias(self, self.config, context.bias_index, self.bidirectional))

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
        if self.config.parallel_residual:
            x, loss = self._parallel(checkpoint_name(x, "layer_input"), layers, layer_type.skip_norm)
            x = place(self, "residual", x)
            losses.append(loss)
            layers = {}
        for name, layer in layers.items():
            x = checkpoint_name(x, "layer_input" if name == "attention" else f"{name}_input")
            x, loss = self._residual(x, name, layer, layer_type.skip_norm if name == "attention" else None)
            losses.append(loss)
            x = place(self, "residual" if name == "mlp" else f"residual_after_{name}", x)
        return x, Auxiliary(new_cache, added(*losses))

    def _residual(self, x: Array, name: str, layer: Layer, skip_norm: Array | None) -> tuple[Array, Array | None]:
        """The residual stream after a layer, and the layer's auxiliary loss."""
        placement = self.config.norm.placement
        norm = Norm(self.config.norm, name=f"{name}_norm")
        read = norm(x) if placement in ("pre", "sandwich") else x
        y, loss = self._applied(layer, x, read, skip_norm)
        if placement == "output":
            y = norm(y)
        if placement == "sandwich":
            y = Norm(self.config.norm, name=f"{name}_output_norm")(y)
        y = self._dropped(y)
        x = norm(x + y) if placement == "post" else x + y
        return nn.with_logical_constraint(x, ("batch", "residual_length", "residual")), loss

    def _parallel(self, x: Array, layers: dict[str, Layer], skip_norm: Array | None) -> tuple[Array, Array | None]:
        """As `_residual`, of layers that all read the same residual stream."""
        out, losses, read = x, [], x
        for name, layer in layers.items():
            if name == "attention" or not self.config.norm.shared:
                read = Norm(self.config.norm, name=f"{name}_norm")(x)
            y, loss = self._applied(layer, x, read, skip_norm if name == "attention" else None)
            out = out + self._dropped(y)
            losses.append(loss)
        return nn.with_logical_constraint(out, ("batch", "residual_length", "residual")), added(*losses)

    def _applied(self, layer: Layer, x: Array, read: Array, skip_norm: Array | None) -> tuple[Array, Array | None]:
        if skip_norm is not None:
            read = jnp.where(skip_norm, x, read)
        return layer(nn.with_logical_constraint(read, ("batch", "length", "residual")))

    def _dropped(self, y: Array) -> Array:
        return nn.Dropout(self.config.dropout, deterministic=not self.has_rng("dropout"))(y)
