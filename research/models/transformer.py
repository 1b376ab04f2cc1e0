"""One Transformer stack: decoder-only, encoder-only and encoder-decoder differ in what their queries see."""

import math
from dataclasses import replace
from fnmatch import fnmatch
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from research.config import Model
from research.models import attention, partition, platform, positions, quantised, remat
from research.models.attention import Visible

ACTIVATIONS = {
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: nn.gelu(x, approximate=True),
    "relu": nn.relu,
    "silu": nn.silu,
}
Cache = dict[str, Float[Array, "layers batch keys kv_heads head"]]
Turn = tuple[Array, Array]


class Context(NamedTuple):
    """What all layers of a stack share."""

    seen: Visible
    turn: Turn | None = None  # rotation of queries and keys
    bias: Float[Array, "#batch heads queries keys"] | None = None
    slots: Int[Array, "batch queries"] | None = None  # where the new keys go in the cache; None: there is no cache
    source: Float[Array, "batch source width"] | None = None  # what the encoder made; None: its keys are in the cache
    source_seen: Visible | None = None  # which places of the source each query sees
    near: tuple[Visible, Turn | None] | None = None  # what layers with a sliding window have for `seen` and `turn`


class Kind(NamedTuple):
    """In what the layers of a stack differ; None: in nothing."""

    local: Bool[Array, " layers"] | None = None  # has a sliding window
    bare: Bool[Array, " layers"] | None = None  # reads the residual stream without the norm before attention


ALIKE = Kind()


def _parameter(module: nn.Module, name: str, initialiser, shape: tuple[int, ...], axes: tuple[str | None, ...]) -> Any:
    return module.param(name, nn.with_logical_partitioning(initialiser, axes), shape)


class Projection(nn.Module):
    """A linear map from the last `inputs` axes to `outputs`, each axis given as (logical name, size)."""

    config: Model
    inputs: tuple[tuple[str, int], ...]
    outputs: tuple[tuple[str, int], ...]
    bias: bool
    residual: bool = False  # what it puts out is added to the residual stream

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        (in_axes, in_shape), (out_axes, out_shape) = zip(*self.inputs, strict=True), zip(*self.outputs, strict=True)
        y = _product(x, self._kernel(in_axes + out_axes, in_shape + out_shape, x.dtype), len(in_shape))
        lora = self.config.lora
        if lora is not None and any(fnmatch("/".join(self.path), target) for target in lora.targets):
            rank, deviation = lora.rank, math.prod(in_shape) ** -0.5
            a = _parameter(self, "lora_a", nn.initializers.normal(deviation), (*in_shape, rank), (*in_axes, None))
            b = _parameter(self, "lora_b", nn.initializers.zeros, (rank, *out_shape), (None, *out_axes))
            low = _product(x, a.astype(x.dtype), len(in_shape))
            y = y + lora.alpha / rank * _product(low, b.astype(x.dtype), 1)
        if self.bias:
            y = y + _parameter(self, "bias", nn.initializers.zeros, out_shape, out_axes).astype(x.dtype)
        return y

    def _kernel(self, axes: tuple[str, ...], shape: tuple[int, ...], dtype: Any) -> Array:
        config, inputs = self.config, len(self.inputs)
        if config.quantization_bits == 32:
            scale = math.prod(shape[:inputs]) ** -0.5 if config.initial_scale is None else config.initial_scale
            if self.residual and config.initial_scale is not None:
                scale /= math.sqrt(
                    2 * config.depth
                )  # so that the variance of the stream does not grow with depth (GPT-2)
            return _parameter(self, "kernel", nn.initializers.normal(scale), shape, axes).astype(dtype)
        integers = partial(nn.initializers.zeros, dtype=quantised.DTYPES[config.quantization_bits])
        values, last = _parameter(self, "kernel", integers, shape, axes), inputs - 1
        cut = (*shape[:last], quantised.blocks(shape[last]), *shape[inputs:])
        cut_axes = (*axes[:last], None, *axes[inputs:])
        scales = _parameter(self, "kernel_scale", nn.initializers.zeros, cut, cut_axes)
        return quantised.dequantise(values, scales, dtype)


def _product(x: Array, kernel: Array, inputs: int) -> Array:
    """Contracts the last axes of `x` with the first ones of `kernel`."""
    if platform.current() == "cpu" and partition.extent("length") == partition.extent("residual_length") == 1:
        # XLA multiplies two matrices fastest. The barrier, which the gradient passes too, keeps what is around the
        # product out of the copies that it makes of its operands
        rows, outputs = x.shape[: x.ndim - inputs], kernel.shape[inputs:]
        matrices = x.reshape(math.prod(rows), -1), kernel.reshape(-1, math.prod(outputs))
        return jax.lax.optimization_barrier(jnp.dot(*matrices)).reshape(*rows, *outputs)
    contracted = tuple(range(x.ndim - inputs, x.ndim)), tuple(range(inputs))
    return jax.lax.dot_general(x, kernel, (contracted, ((), ())))


class Norm(nn.Module):
    """Layer norm or RMS norm over the last axis, in float32."""

    config: Model
    axis: str = "embed"
    kind: str | None = None  # None: the model's

    @nn.compact
    def __call__(self, x: Float[Array, "... width"]) -> Float[Array, "... width"]:
        config, y = self.config, x.astype(jnp.float32)
        layer_norm = (self.kind or config.norm.kind) == "layernorm"
        if layer_norm:
            y = y - jnp.mean(y, axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + config.norm.epsilon)
        y = y * _parameter(self, "scale", nn.initializers.ones, x.shape[-1:], (self.axis,))
        if layer_norm and config.norm.bias:
            y = y + _parameter(self, "bias", nn.initializers.zeros, x.shape[-1:], (self.axis,))
        return y.astype(x.dtype)


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, section 3.2) with grouped key and value heads."""

    config: Model
    cross: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch queries width"], context: Context, cache: Cache | None
    ) -> tuple[Float[Array, "batch queries width"], Cache]:
        config = self.config
        width, head = ("embed", config.width), ("head", config.attention.head_width)
        seen, bias = (context.source_seen, None) if self.cross else (context.seen, context.bias)
        assert seen is not None
        names = ("source_key", "source_value") if self.cross else ("key", "value")

        def heads(name: str, axis: str, count: int, read: Array) -> Array:
            projection = Projection(config, (width,), ((axis, count), head), config.attention.qkv_bias, name=name)
            y = projection(read)
            if config.attention.qk_norm and name != "value":
                y = Norm(config, axis="head", kind="rmsnorm", name=f"{name}_norm")(y)
            y = nn.with_logical_constraint(y, ("batch", "length", axis, "head"))
            return y if self.cross or context.turn is None or name == "value" else positions.rotate(y, context.turn)

        query = heads("query", "heads", config.attention.heads, x)
        read = context.source if self.cross else x
        if read is None:
            assert cache is not None
            key, value = (cache[name] for name in names)
        else:
            key, value = (heads(name, "kv_heads", config.attention.kv_heads, read) for name in ("key", "value"))
            if cache is not None and not self.cross:
                # row by row, so that a batch that is split over devices stays where it is
                write = jax.vmap(lambda kept, slots, new: kept.at[slots].set(new.astype(kept.dtype)))
                key, value = (
                    write(cache[name], context.slots, new) for name, new in zip(names, (key, value), strict=True)
                )
        new_cache = {} if cache is None else dict(zip(names, (key, value), strict=True))

        drop = config.attention.dropout > 0 and self.has_rng("dropout")
        if drop or self.is_mutable_collection("intermediates"):
            key, value = (nn.with_logical_constraint(x, ("batch", None, "kv_heads", "head")) for x in (key, value))
            weights = attention.probabilities(query, key, seen, config.attention.scale, bias)
            for name, array in (("attention", weights), ("queries", query), ("keys", key), ("values", value)):
                self.sow("intermediates", name, array)
            weights = nn.Dropout(config.attention.dropout, deterministic=not drop)(weights)
            y = nn.with_logical_constraint(attention.combine(weights, value), ("batch", "length", "heads", "head"))
        else:
            y = partition.attend(query, key, value, seen, config.attention.scale, bias, config.attention.implementation)
        heads_in = (("heads", config.attention.heads), head)
        out = Projection(config, heads_in, (width,), config.attention.output_bias, residual=True, name="out")
        return out(y), new_cache


class MLP(nn.Module):
    """Position-wise feed-forward layer, gated (Shazeer 2020) or not."""

    config: Model

    @nn.compact
    def __call__(self, x: Float[Array, "batch length width"]) -> Float[Array, "batch length width"]:
        config = self.config
        width, inner = ("embed", config.width), ("mlp", config.mlp.width)
        up = Projection(config, (width,), (inner,), config.mlp.bias, name="up")(x)
        if config.mlp.gated:
            gate = Projection(config, (width,), (inner,), config.mlp.bias, name="gate")(x)
            hidden = ACTIVATIONS[config.mlp.activation](gate) * up
        else:
            hidden = ACTIVATIONS[config.mlp.activation](up)
        hidden = nn.with_logical_constraint(hidden, ("batch", "length", "mlp"))
        return Projection(config, (inner,), (width,), config.mlp.bias, residual=True, name="down")(hidden)


class Block(nn.Module):
    """Self-attention, cross-attention where there is a source, and the MLP, each on the residual stream."""

    config: Model
    cross: bool = False

    @nn.compact
    def __call__(self, x, context: Context, cache: Cache | None, kind: Kind = ALIKE) -> tuple[Array, Cache]:
        config, caches = self.config, {}
        x = checkpoint_name(x, "layer_input")
        if context.near is not None:
            seen, turn = jax.tree.map(partial(jnp.where, kind.local), context.near, (context.seen, context.turn))
            context = context._replace(seen=seen, turn=turn)

        def residual(x, name, layer):
            pre = config.norm.placement == "pre"
            norm = Norm(config, name=f"{name}_norm")
            read = norm(x) if pre else x
            if kind.bare is not None and name == "attention":
                read = jnp.where(kind.bare, x, read)
            read = nn.with_logical_constraint(read, ("batch", "length", "residual"))
            y = nn.Dropout(config.dropout, deterministic=not self.has_rng("dropout"))(layer(read))
            x = x + y if pre else norm(x + y)
            return nn.with_logical_constraint(x, ("batch", "residual_length", "residual"))

        def attend(name, cross):
            def layer(y):
                y, new = Attention(config, cross, name=name)(y, context, cache)
                caches.update(new)
                return y

            return layer

        x = residual(x, "attention", attend("attention", cross=False))
        if self.cross:
            x = residual(x, "cross_attention", attend("cross_attention", cross=True))
        x = residual(checkpoint_name(x, "mlp_input"), "mlp", MLP(config, name="mlp"))
        self.sow("intermediates", "residual", x)
        return x, caches


class Stack(nn.Module):
    """`depth` blocks with stacked parameters, looped by `scan` (`unroll` of them per iteration), and the final norm."""

    config: Model
    depth: int
    bidirectional: bool = False
    cross: bool = False

    @nn.compact
    def __call__(self, x, context: Context, index: Int[Array, "#batch queries"], keys: int, cache: Cache | None):
        config, layer, kind = self.config, np.arange(self.depth), ALIKE
        if config.positions.kind == "relative":
            context = context._replace(bias=self._relative_bias(index, keys))
        if config.attention.window:
            kind = kind._replace(local=layer % config.attention.global_every != 0)
        if not config.norm.first:
            kind = kind._replace(bare=layer == 0)
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
        x, cache = layers(config, self.cross, name="layers")(x, context, cache, kind)
        if config.norm.placement == "pre":
            x = Norm(config, name="norm")(x)
        return x, cache

    def _relative_bias(self, index, keys):
        config = self.config
        table = _parameter(
            self,
            "relative_bias",
            nn.initializers.normal(config.width**-0.5),
            (config.positions.buckets, config.attention.heads),
            (None, "heads"),
        )
        distance = jnp.arange(keys) - index[..., None]
        bucket = positions.relative_buckets(
            distance, self.bidirectional, config.positions.buckets, config.positions.max_distance
        )
        return jnp.moveaxis(table.astype(jnp.float32)[bucket], -1, 1)


class Transformer(nn.Module):
    """Tokens to the features whose product with the output layer is the logits. `research.models` is its face."""

    config: Model

    def setup(self):
        config = self.config
        alone = config.encoder_depth == 0
        self.decoder = Stack(config, config.depth, bidirectional=alone, cross=not alone)
        if config.encoder_depth:
            self.encoder = Stack(config, config.encoder_depth, bidirectional=True)
        self.embedding = _parameter(
            self,
            "embedding",
            nn.initializers.normal(config.embedding.initial_scale),
            (config.vocabulary, config.width),
            ("vocab", "embed"),
        )
        if config.positions.kind == "learned":
            self.positions = _parameter(
                self,
                "positions",
                nn.initializers.normal(config.embedding.initial_scale),
                (config.positions.max_length, config.width),
                (None, "embed"),
            )
        if config.embedding.token_types:
            self.token_types = _parameter(
                self,
                "token_types",
                nn.initializers.normal(config.embedding.initial_scale),
                (config.embedding.token_types, config.width),
                (None, "embed"),
            )
        if config.norm.embedding:
            self.embedding_norm = Norm(config)
        self.dropout = nn.Dropout(config.dropout)
        if config.head.transform:
            sides = (("embed", config.width),), (("residual", config.width),)
            self.head_transform = Projection(replace(config, quantization_bits=32), *sides, config.mlp.bias)
            self.head_norm = Norm(config)
        if not config.head.tied:
            scale = config.width**-0.5 if config.initial_scale is None else config.initial_scale
            self.output = _parameter(
                self, "output", nn.initializers.normal(scale), (config.width, config.vocabulary), ("embed", "vocab")
            )
        if config.head.bias:
            self.output_bias = _parameter(self, "output_bias", nn.initializers.zeros, (config.vocabulary,), ("vocab",))

    def embed(self, tokens, place):
        config = self.config
        # a row whole on each device: looked up in parts of its width, it would be moved once more to where its token is
        table = nn.with_logical_constraint(self.embedding, ("vocab", None))
        x = jnp.take(table, tokens, axis=0)
        if config.positions.kind == "learned":
            x = x + jnp.take(self.positions, place + config.positions.offset, axis=0)
        if config.embedding.token_types:
            x = x + self.token_types[0]
        if config.norm.embedding:
            x = self.embedding_norm(x)
        x = self.dropout(x, deterministic=not self.has_rng("dropout"))
        return nn.with_logical_constraint(x, ("batch", "residual_length", "residual"))

    def placed(self, context: Context, place, index) -> Context:
        """The context with what follows from the places of the queries in their document and in their row."""
        config = self.config

        def turn(theta: float) -> Turn | None:
            if config.positions.kind != "rope":
                return None
            return positions.rotation(
                place, positions.frequencies(config.attention.head_width, theta, config.positions.scaling)
            )

        if config.attention.window:
            near = attention.within(context.seen, index, config.attention.window), turn(config.positions.local_theta)
            context = context._replace(near=near)
        return context._replace(turn=turn(config.positions.theta))

    def encode(self, source) -> Float[Array, "batch source width"]:
        """What the encoder makes of the source side of a batch."""
        length = source.tokens.shape[1]
        index = jnp.arange(length)[None]
        context = Context(attention.visible(source.segments, jnp.zeros_like(source.levels)))
        context = self.placed(context, source.positions, index)
        x = self.encoder(self.embed(source.tokens, source.positions), context, index, length, None)[0]
        return nn.with_logical_constraint(x, ("batch", "length", "residual"))

    def decode(self, tokens, place, index, keys: int, context: Context, cache: Cache | None):
        """Features of `tokens` at `place` in their document and `index` in their row, and the cache with their keys."""
        x, cache = self.decoder(self.embed(tokens, place), self.placed(context, place, index), index, keys, cache)
        return self.to_features(x), cache

    def to_features(self, x: Float[Array, "... width"]) -> Float[Array, "... width"]:
        """What is multiplied with the output layer, from what the last layer and its norm make."""
        if self.config.head.transform:
            x = self.head_norm(ACTIVATIONS[self.config.mlp.activation](self.head_transform(x)))
        return x * self.config.head.logits_scale if self.config.head.logits_scale != 1 else x

    def __call__(self, batch, causal: bool = False) -> Float[Array, "batch length width"]:
        """The features of a whole batch."""
        length = batch.tokens.shape[1]
        context = Context(attention.visible(batch.segments, batch.levels, causal))
        if self.config.encoder_depth:
            seen = attention.visible_source(batch.segments, batch.source.segments)
            context = context._replace(source=self.encode(batch.source), source_seen=seen)
        return self.decode(batch.tokens, batch.positions, jnp.arange(length)[None], length, context, None)[0]
