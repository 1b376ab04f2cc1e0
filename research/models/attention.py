"""The attention layer: projections, cache and heads around one of `kernels`."""

from dataclasses import replace
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jaxtyping import Array, Float, Int

from research.config import Model
from research.models import kernels, sharded
from research.models.kernels import Intervals, RelativeBias, plain
from research.models.norm import Norm
from research.models.places import place, touched
from research.models.projection import projection
from research.models.rope import Rope, rotate

Cache = dict[str, Float[Array, "batch keys kv_heads head"]]  # of one layer
Caches = (
    Any  # of all: a `Cache` whose arrays have a leading axis of layers, or for unstacked layers a tuple of `Cache`s
)


class Context(NamedTuple):
    """What all layers of a stack share."""

    intervals: Intervals  # the keys of the own row that each query sees
    rope: Rope | None = None  # rotation of queries and keys
    bias: RelativeBias | None = None
    # of the queries among the keys, where each layer has a bias of its own
    bias_index: Int[Array, "#batch queries"] | None = None
    slot: Int[Array, ""] | int | None = None  # where the first new key goes in the cache; None: there is no cache
    source: Float[Array, "batch source width"] | None = None  # what the encoder made; None: its keys are in the cache
    source_intervals: Intervals | None = None  # the tokens of the source that each query sees
    local: tuple[Intervals, Rope | None] | None = None  # what local layers have for `intervals` and `rope`


def implementation(config: Model, length: int, dtype: str) -> tuple[str, str]:
    """Which implementation of attention training takes for rows of `length` on the present platform, and why."""
    settings = config.attention
    if settings.dropout:
        return "plain", "its weights have dropout"
    if settings.implementation != "auto":
        return settings.implementation, "as configured"
    query = jax.ShapeDtypeStruct((1, length, settings.heads, settings.head_width), dtype)
    return kernels.fastest(query, False, config.positions.kind == "relative", settings.softcap)


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, section 3.2) with grouped key and value heads."""

    config: Model
    cross: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch queries width"], context: Context, cache: Cache | None
    ) -> tuple[Float[Array, "batch queries width"], Cache]:
        config, settings = self.config, self.config.attention
        width, heads = ("embed", config.width), (("heads", settings.heads), ("head", settings.head_width))
        intervals, bias = (context.source_intervals, None) if self.cross else (context.intervals, context.bias)
        assert intervals is not None
        x = place(self, "input", x)
        query = place(self, "queries", self._heads("query", x, context))
        key, value, new_cache = self._keys_and_values(x, context, cache)
        key, value = place(self, "keys", key), place(self, "values", value)
        drop = settings.dropout > 0 and self.has_rng("dropout")
        if drop or touched(self, "scores", "weights"):
            key, value = (nn.with_logical_constraint(x, ("batch", None, "kv_heads", "head")) for x in (key, value))
            scores = place(self, "scores", plain.scores(query, key, settings.scale, bias, settings.softcap))
            weights = place(self, "weights", plain.softmax(scores, intervals))
            weights = nn.Dropout(settings.dropout, deterministic=not drop)(weights)
            y = nn.with_logical_constraint(plain.combine(weights, value), ("batch", "length", "heads", "head"))
        else:
            implementation, softcap = settings.implementation, settings.softcap
            y = sharded.attend(query, key, value, intervals, settings.scale, bias, implementation, softcap)
        y = place(self, "heads", y)
        out = projection(self, "out", config, heads, (width,), settings.output_bias, residual=True)(y)
        return place(self, "output", out), new_cache

    def _heads(self, name: str, x: Array, context: Context) -> Array:
        """Queries, keys or values, normalised and rotated where the config says so."""
        config, settings = self.config, self.config.attention
        axis, count = ("heads", settings.heads) if name == "query" else ("kv_heads", settings.kv_heads)
        outputs = (axis, count), ("head", settings.head_width)
        y = projection(self, name, config, (("embed", config.width),), outputs, settings.qkv_bias)(x)
        if settings.qk_norm and name != "value":
            joint, shape = settings.qk_norm_joint, y.shape
            norm = Norm(replace(config.norm, kind="rmsnorm"), axis=axis if joint else "head", name=f"{name}_norm")
            y = norm(y.reshape(*shape[:-2], -1) if joint else y).reshape(shape)
        y = nn.with_logical_constraint(y, ("batch", "length", axis, "head"))
        return y if self.cross or context.rope is None or name == "value" else rotate(y, context.rope)

    def _keys_and_values(self, x: Array, context: Context, cache: Cache | None) -> tuple[Array, Array, Cache]:
        """Of everything that is seen, and the cache with those of `x`."""
        names = ("source_key", "source_value") if self.cross else ("key", "value")
        read = context.source if self.cross else x
        if read is None:
            assert cache is not None
            key, value = (cache[name] for name in names)
        else:
            key, value = (self._heads(name, read, context) for name in ("key", "value"))
            if cache is not None and not self.cross:
                assert context.slot is not None
                key, value = (
                    jax.lax.dynamic_update_slice_in_dim(
                        cache[name], new.astype(cache[name].dtype), context.slot, axis=1
                    )
                    for name, new in zip(names, (key, value), strict=True)
                )
        return key, value, {} if cache is None else dict(zip(names, (key, value), strict=True))
