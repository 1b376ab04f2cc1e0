"""The blocks of a decoder or an encoder, looped over."""

from operator import itemgetter

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from research.config import Model
from research.models import places, remat
from research.models.attention import Caches, Context
from research.models.block import Auxiliary, Block, LayerType, added, relative_bias
from research.models.norm import Norm


class Stack(nn.Module):
    """`depth` blocks and the final norm. The blocks have stacked parameters, or all the same ones, and are looped by
    `scan` (`unroll` of them per iteration), or are `unstacked`: each with parameters of its own, one by one."""

    config: Model
    depth: int
    bidirectional: bool = False
    cross: bool = False
    unstacked: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch queries width"],
        context: Context,
        index: Int[Array, "#batch queries"],
        cache: Caches,
    ) -> tuple[Float[Array, "batch queries width"], Auxiliary]:
        """`index` is that of the queries among the keys."""
        config = self.config
        if config.positions.kind == "relative" and config.positions.per_layer:
            context = context._replace(bias_index=index)
        elif config.positions.kind == "relative":
            context = context._replace(bias=relative_bias(self, config, index, self.bidirectional))
        x = places.place(self, "embedding", x)
        x, auxiliary = (self._one_by_one if self.unstacked else self._scanned)(x, context, cache)
        if config.norm.placement != "post":
            x = Norm(config.norm, name="norm")(x)
        return places.place(self, "output", x), auxiliary

    def _one_by_one(self, x: Array, context: Context, caches: Caches) -> tuple[Array, Auxiliary]:
        blocks = [
            Block(self.config, self.cross, self.bidirectional, name=f"layers_{layer}") for layer in range(self.depth)
        ]
        made = []
        for layer, block in enumerate(blocks):
            layer_type = jax.tree.map(itemgetter(layer), self._layer_types())
            x, auxiliary = block(x, context, None if caches is None else caches[layer], layer_type)
            made.append(auxiliary)
        return x, Auxiliary(tuple(each.cache for each in made), added(*(each.loss for each in made)))

    def _scanned(self, x: Array, context: Context, cache: Caches) -> tuple[Array, Auxiliary]:
        config, block = self.config, Block
        if config.remat != "none":
            block = nn.remat(Block, policy=remat.policy(config.remat), prevent_cse=False)
        layers = nn.scan(
            block,
            variable_axes={**({} if config.shared_layers else {"params": 0}), places.CHANGES: 0, places.RECORDED: 0},
            variable_broadcast="params" if config.shared_layers else False,
            split_rngs={"params": not config.shared_layers, "dropout": True},
            in_axes=(nn.broadcast, 0, 0),
            length=self.depth,
            unroll=min(config.unroll, self.depth),
            metadata_params={} if config.shared_layers else {nn.PARTITION_NAME: "layers"},
        )
        x, auxiliary = layers(config, self.cross, self.bidirectional, name="layers")(
            x, context, cache, self._layer_types()
        )
        if auxiliary.loss is not None:
            auxiliary = auxiliary._replace(loss=jnp.sum(auxiliary.loss))
        return x, auxiliary

    def _layer_types(self) -> LayerType:
        attention, skip, layer = self.config.attention, self.config.positions.skip_every, np.arange(self.depth)
        every = attention.global_every or self.depth + 1
        first = attention.first_global if attention.global_every else self.depth
        return LayerType(
            local=layer % every != first if attention.window else None,
            skip_norm=None if self.config.norm.first else layer == 0,
            skip_rope=(layer + 1) % skip == 0 if skip else None,
        )
