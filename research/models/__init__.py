"""The face of the models: pure functions of a resolved `config.Model`, a tree of parameters, and arrays.

Only this folder imports Flax. Parameters are nested dictionaries of arrays in which the layers of a stack are one
array with a leading axis.
"""

from collections.abc import Mapping
from dataclasses import replace
from operator import itemgetter
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from flax.linen import logical_axis_rules, with_logical_constraint
from jaxtyping import Array, Float, Int, PRNGKeyArray

from research.config import Model
from research.models import places
from research.models.attention import Caches, Context
from research.models.kernels import Intervals
from research.models.norm import Norm
from research.models.places import Change, Changes
from research.models.platform import compiled_for
from research.models.sharded import extent
from research.models.transformer import Transformer
from research.objectives import pytree  # noqa: F401 batches are arrays to JAX
from research.objectives.batch import Batch

Params = dict[str, Any]

__all__ = [
    "Caches",
    "Change",
    "Changes",
    "Intervals",
    "Params",
    "axes",
    "compiled_for",
    "decode",
    "empty_cache",
    "encode",
    "extent",
    "features",
    "flatten",
    "forward",
    "hidden",
    "init",
    "logical_axis_rules",
    "logits",
    "output",
    "places",
    "read_out",
    "run",
    "size",
    "softcapped",
    "unflatten",
    "with_logical_constraint",
]


def init(config: Model, key: PRNGKeyArray) -> Params:
    """Random float32 parameters."""
    return nn.unbox(_init(config, key))


def size(params: Params) -> int:
    """How many parameters there are."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def flatten(tree: Any) -> dict[str, Any]:
    """The leaves of a tree as of the parameters by their paths, as "decoder/norm/scale"."""
    return traverse_util.flatten_dict(tree, sep="/")


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    return traverse_util.unflatten_dict(leaves, sep="/")


def axes(config: Model) -> Any:
    """The tree of `init` with the logical axis names of each parameter, e.g. ("layers", "embed", "mlp")."""
    boxed = jax.eval_shape(lambda: _init(config, jax.random.key(0)))
    return jax.tree.map(lambda box: box.names, boxed, is_leaf=lambda leaf: isinstance(leaf, nn.Partitioned))


def hidden(
    config: Model, params: Params, batch: Batch, key: PRNGKeyArray | None = None
) -> Float[Array, "batch length width"]:
    """The features of every place; logits are their product with `output`. Dropout is applied if `key` is given.
    Activations have the dtype of the embeddings in `params`."""
    return forward(config, params, batch, key)[0]


def forward(
    config: Model, params: Params, batch: Batch, key: PRNGKeyArray | None = None
) -> tuple[Float[Array, "batch length width"], Float[Array, ""] | None]:
    """As `hidden`, and beside it the auxiliary loss of the layers, which training adds to the mean cross-entropy; None
    if no layer has one."""
    return _apply(config, params, batch, rngs=None if key is None else {"dropout": key})


def features(
    config: Model,
    params: Params,
    tokens: Int[Array, "batch length"],
    positions: Int[Array, "batch length"],
    intervals: Intervals,
    source: tuple[Float[Array, "batch source width"], Intervals] | None = None,
) -> Float[Array, "batch length width"]:
    """As `hidden`, for rows of which each place says what it sees: of the row, and, in an encoder-decoder, of what
    `encode` made of a source."""
    context = _context(intervals, source)
    index = jnp.arange(tokens.shape[1])[None]
    return _apply(config, params, tokens, positions, index, context, None, method="decode")[0]


def output(
    config: Model, params: Params
) -> tuple[Float[Array, "width vocabulary"], Float[Array, " vocabulary"] | None]:
    """Kernel and bias of the output layer."""
    kernel = params["embedding"].T if config.head.tied else params["output"]
    return kernel, params.get("output_bias")


def project(config: Model, params: Params, features: Float[Array, "... width"]) -> Float[Array, "... vocabulary"]:
    """Features to float32 logits."""
    kernel, bias = output(config, params)
    scores = jnp.matmul(features, kernel, preferred_element_type=jnp.float32)
    return softcapped(scores if bias is None else scores + bias, config.head.softcap)


def softcapped(logits: Float[Array, "*shape"], softcap: float) -> Float[Array, "*shape"]:
    """Logits between -softcap and softcap (Gemma 2, section 2); 0: as they are."""
    return softcap * jnp.tanh(logits / softcap) if softcap else logits


def logits(config: Model, params: Params, batch: Batch) -> Float[Array, "batch length vocabulary"]:
    """Float32 logits of every place."""
    return project(config, params, hidden(config, params, batch))


def run(
    config: Model,
    params: Params,
    batch: Batch,
    record: frozenset[str] | None = frozenset(),
    changes: Changes | None = None,
) -> tuple[Float[Array, "batch length width"], dict[str, Array]]:
    """As `hidden`, watched and changed at named `places`.

    Args:
      config: resolved.
      params: as from `init`.
      batch: what is read.
      record: names of the places that are recorded; None: all. What is not recorded is not kept.
      changes: what is put at which place instead of what is there. Without any, nothing else is computed.

    Returns:
      The features, and what was recorded, by name; its axes are those of `places.axes`.
    """
    variables = {"params": params, places.CHANGES: places.as_variables(changes or {})}
    with places.recording(record):
        (features, _), state = Transformer(config).apply(variables, batch, mutable=[places.RECORDED])
    return features, places.from_variables(state.get(places.RECORDED, {}))


def read_out(config: Model, params: Params, residual: Float[Array, "... width"]) -> Float[Array, "... vocabulary"]:
    """Float32 logits from the decoder's residual stream, as if the layer that it comes from were the last."""
    post = config.norm.placement == "post"
    last = residual if post else Norm(config.norm).apply({"params": params["decoder"]["norm"]}, residual)
    return project(config, params, _apply(config, params, last, method="to_features"))


def encode(config: Model, params: Params, source: Batch) -> Float[Array, "batch source width"]:
    """What the encoder of an encoder-decoder makes of the source side."""
    return _apply(config, params, source, method="encode")[0]


def for_decoding(config: Model, params: Params) -> Params:
    """`params` as `decode` is fastest with them: on one CPU each layer of the decoder has arrays of its own,
    "decoder/layers_0" and so on. There a product with a slice of stacked layers reads weights at less than half of the
    speed; the new arrays are views of the same memory. Elsewhere the layers stay stacked: arrays of their
    own would be copies, and a program without a loop over the layers takes longer to compile."""
    if config.shared_layers:
        return params
    layers = jax.tree.map(jnp.asarray, params["decoder"]["layers"])
    devices = {device for leaf in jax.tree.leaves(layers) for device in leaf.devices()}
    if [device.platform for device in devices] != ["cpu"]:
        return params
    views, device = jax.tree.map(np.asarray, layers), devices.pop()
    own = {f"layers_{n}": jax.device_put(jax.tree.map(itemgetter(n), views), device) for n in range(config.depth)}
    others = {name: leaf for name, leaf in params["decoder"].items() if name != "layers"}
    return {**params, "decoder": others | own}


def empty_cache(config: Model, params: Params, batch: int, keys: int) -> Caches:
    """Room for the keys and values of `keys` places in each row and layer, for `decode` with these parameters."""
    shape = (batch, keys, config.attention.kv_heads, config.attention.head_width)

    def empty(*layers: int) -> dict[str, Array]:
        axes = (*(None for _ in layers), "batch", None, "kv_heads", "head")
        made = {name: jnp.zeros((*layers, *shape), params["embedding"].dtype) for name in ("key", "value")}
        return {name: with_logical_constraint(zeros, axes) for name, zeros in made.items()}

    return tuple(empty() for _ in range(config.depth)) if _unstacked(params) else empty(config.depth)


def decode(
    config: Model,
    params: Params,
    tokens: Int[Array, "batch new"],
    positions: Int[Array, "batch new"],
    slot: Int[Array, ""] | int,
    intervals: Intervals,
    cache: Caches,
    source: tuple[Float[Array, "batch source width"] | None, Intervals] | None = None,
) -> tuple[Float[Array, "batch new width"], Caches]:
    """Features of new tokens, one document a row, and the cache with their keys.

    Args:
      config: resolved.
      params: as from `init` or `for_decoding`.
      tokens: the new ones; several at once for a prompt, then one by one.
      positions: their places in the document.
      slot: of the first of them in the cache, the same in every row: rows of different lengths end at the same slot.
      intervals: the slots that each sees (its own included).
      cache: from `empty_cache` or the last call.
      source: for an encoder-decoder the result of `encode` (None from the second call on: its keys are in the cache)
        and the interval of source places that each token sees.
    """
    context = _context(intervals, source)._replace(slot=slot)
    index = slot + jnp.arange(tokens.shape[1])[None]
    features, auxiliary = _apply(config, params, tokens, positions, index, context, cache, method="decode")
    return features, auxiliary.cache


def _unstacked(params: Params) -> bool:
    return "layers" not in params["decoder"]


def _context(intervals: Intervals, source: tuple[Array | None, Intervals] | None) -> Context:
    made, source_intervals = (None, None) if source is None else source
    return Context(intervals, source=made, source_intervals=source_intervals)


def _apply(config: Model, params: Params, *arguments: Any, **settings: Any) -> Any:
    return Transformer(config, _unstacked(params)).apply({"params": params}, *arguments, **settings)


def _init(config: Model, key: PRNGKeyArray) -> Params:
    one = np.ones((1, 2), np.int32)
    side = Batch(one, one, one, one, one, one)
    batch = replace(side, source=side) if config.encoder_depth else side
    looped = replace(config, unroll=1)  # the same parameters, and a program that does not grow with the layers
    return Transformer(looped).init({"params": key}, batch)["params"]
