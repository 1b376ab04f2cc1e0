"""One Transformer: decoder-only, encoder-only and encoder-decoder differ in what their queries see."""

from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from research.config import Model
from research.models.attention import Caches, Context
from research.models.block import Auxiliary, added
from research.models.kernels import intervals as rule
from research.models.mlp import ACTIVATIONS
from research.models.norm import Norm
from research.models.parameters import parameter
from research.models.projection import initial_deviation, projection
from research.models.rope import Rope, scaled_rope
from research.models.stack import Stack


class Transformer(nn.Module):
    """Tokens to the features whose product with the output layer is the logits. `research.models` is its face."""

    config: Model
    unstacked: bool = False  # the layers of the decoder (see `Stack`)

    def setup(self) -> None:
        config, width = self.config, self.config.width
        narrow = config.embedding.width or width  # of the embeddings, and of what meets a tied output layer
        normal = nn.initializers.normal(config.embedding.initial_scale)
        decoder_only = config.encoder_depth == 0
        self.decoder = Stack(config, config.depth, decoder_only, cross=not decoder_only, unstacked=self.unstacked)
        if config.encoder_depth:
            self.encoder = Stack(config, config.encoder_depth, bidirectional=True)
        self.embedding = parameter(self, "embedding", normal, (config.vocabulary, narrow), ("vocab", "embed"))
        if config.positions.kind == "learned":
            shape = (config.positions.max_length, narrow)
            self.positions = parameter(self, "positions", normal, shape, (None, "embed"))
        if config.embedding.token_types:
            shape = (config.embedding.token_types, narrow)
            self.token_types = parameter(self, "token_types", normal, shape, (None, "embed"))
        if config.norm.embedding:
            self.embedding_norm = Norm(config.norm)
        self.dropout = nn.Dropout(config.dropout)
        whole = replace(config, quantization_bits=32)
        if config.embedding.width:
            sides = (("embed", narrow),), (("residual", width),)
            self.embedding_projection = projection(self, "embedding_projection", whole, *sides, bias=True)
        if config.head.transform:
            sides = (("embed", width),), (("residual", narrow),)
            self.head_transform = projection(self, "head_transform", whole, *sides, config.mlp.bias)
            self.head_norm = Norm(config.norm)
        if not config.head.tied:
            features = narrow if config.head.transform else width
            # in muP that of the base width, and the logits are divided instead
            output = nn.initializers.normal(initial_deviation(config, features) * config.width_ratio**0.5)
            self.output = parameter(self, "output", output, (features, config.vocabulary), ("embed", "vocab"))
        if config.head.bias:
            zeros = nn.initializers.zeros
            self.output_bias = parameter(self, "output_bias", zeros, (config.vocabulary,), ("vocab",))

    def __call__(self, batch: Any) -> tuple[Float[Array, "batch length width"], Float[Array, ""] | None]:
        """The features of a whole `Batch`, and the auxiliary loss of the layers, if they have one."""
        context = Context(rule.from_segments(batch.segments, batch.levels, batch.causal))
        encoder_loss = None
        if self.config.encoder_depth:
            intervals = rule.from_source(batch.segments, batch.source.segments)
            source, encoder_loss = self.encode(batch.source)
            context = context._replace(source=source, source_intervals=intervals)
        index = jnp.arange(batch.tokens.shape[1])[None]
        features, auxiliary = self.decode(batch.tokens, batch.positions, index, context, None)
        return features, added(encoder_loss, auxiliary.loss)

    def encode(self, source: Any) -> tuple[Float[Array, "batch source width"], Float[Array, ""] | None]:
        """What the encoder makes of the source side of a batch, and the auxiliary loss of its layers."""
        index = jnp.arange(source.tokens.shape[1])[None]
        context = Context(rule.from_segments(source.segments, jnp.zeros_like(source.levels)))
        context = self._placed(context, source.positions, index)
        x, auxiliary = self.encoder(self._embed(source.tokens, source.positions), context, index, None)
        return nn.with_logical_constraint(x, ("batch", "length", "residual")), auxiliary.loss

    def decode(
        self,
        tokens: Int[Array, "batch new"],
        positions: Int[Array, "batch new"],
        index: Int[Array, "#batch new"],
        context: Context,
        cache: Caches,
    ) -> tuple[Float[Array, "batch new width"], Auxiliary]:
        """Features of tokens at these positions in their document and at `index` in their row, and the cache with their
        keys."""
        context = self._placed(context, positions, index)
        x, auxiliary = self.decoder(self._embed(tokens, positions), context, index, cache)
        return self.to_features(x), auxiliary

    def to_features(self, x: Float[Array, "... width"]) -> Float[Array, "... width"]:
        """What is multiplied with the output layer, from what the last layer and its norm make."""
        head, scale = self.config.head, self.config.head.logits_scale / self.config.width_ratio
        if head.transform:
            x = self.head_norm(ACTIVATIONS[self.config.mlp.activation](self.head_transform(x)))
        return x * scale if scale != 1 else x

    def _embed(self, tokens: Array, positions: Array) -> Array:
        config = self.config
        # a row whole on each device: looked up in parts of its width, it would be moved once more to where its token is
        table = nn.with_logical_constraint(self.embedding, ("vocab", None))
        x = jnp.take(table, tokens, axis=0)
        if config.embedding.scale != 1:
            x = x * config.embedding.scale
        if config.positions.kind == "learned":
            x = x + jnp.take(self.positions, positions + config.positions.offset, axis=0)
        if config.embedding.token_types:
            x = x + self.token_types[0]
        if config.norm.embedding:
            x = self.embedding_norm(x)
        x = self.dropout(x, deterministic=not self.has_rng("dropout"))
        if config.embedding.width:
            x = self.embedding_projection(x)
        return nn.with_logical_constraint(x, ("batch", "residual_length", "residual"))

    def _placed(self, context: Context, positions: Array, index: Array) -> Context:
        """The context with what follows from where the queries stand in their document and in their row."""
        config, settings = self.config, self.config.positions

        def rotation(theta: float, scaled: bool = True) -> Rope | None:
            if settings.kind != "rope":
                return None
            scaling = settings.scaling if scaled else None
            return scaled_rope(positions, settings.rotary_width, theta, scaling)

        if config.attention.window:
            intervals = rule.in_window(context.intervals, index, config.attention.window)
            context = context._replace(local=(intervals, rotation(settings.local_theta, settings.local_scaling)))
        return context._replace(rope=rotation(settings.theta))
