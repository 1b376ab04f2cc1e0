"""The blocks of a decoder or an encoder, looped over."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from research.config import Model
from research.models import remat
from research.models.attention import Cache, Context
from research.models.block import Auxiliary, Block, LayerType
from research.models.kernels import RelativeBias
from research.models.norm import Norm
from research.models.parameters import parameter


class Stack(nn.Module):
    """`depth` blocks with stacked parameters, looped by `scan` (`unroll` of them per iteration), and the final norm."""

    config: Model
    depth: int
    bidirectional: bool = False
    cross: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch queries width"],
        context: Context,
        index: Int[Array, "#batch queries"],
        cache: Cache | None,
    ) -> tuple[Float[Array, "batch queries width"], Auxiliary]:
        """`index` is that of the queries among the keys."""
        config = self.config
        if config.positions.kind == "relative":
            context = context._replace(bias=self._relative_bias(index))
        block = Block
        if config.remat != "none":
            block = nn.remat(Block, policy=remat.policy(config.remat), prevent_cse=False)
        layers = nn.scan(
            block,
            variable_axes={"params": 0, "intermediates": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(nn.broadcast, 0, 0),
            length=self.depth,
            unroll=min(config.unroll, self.depth),
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        x, auxiliary = layers(config, self.cross, name="layers")(x, context, cache, self._layer_types())
        if auxiliary.loss is not None:
            auxiliary = auxiliary._replace(loss=jnp.sum(auxiliary.loss))
        if config.norm.placement == "pre":
            x = Norm(config.norm, name="norm")(x)
        return x, auxiliary

    def _layer_types(self) -> LayerType:
        attention, layer = self.config.attention, np.arange(self.depth)
        return LayerType(
            local=layer % attention.global_every != 0 if attention.window else None,
            skip_norm=None if self.config.norm.first else layer == 0,
        )

    def _relative_bias(self, index: Array) -> RelativeBias:
        config, positions = self.config, self.config.positions
        initial, shape = nn.initializers.normal(config.width**-0.5), (positions.buckets, config.attention.heads)
        table = parameter(self, "relative_bias", initial, shape, (None, "heads"))
        return RelativeBias(table, index, self.bidirectional, positions.max_distance)
