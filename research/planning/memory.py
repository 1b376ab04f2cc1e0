"""Bytes: of a sharded tree of shapes, of what is kept for the backward pass, and in what a compiler says."""

import math
import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from research import objectives, sharding
from research.config import Experiment
from research.planning.chips import GIB
from research.runs.loop import CompiledSteps
from research.sharding import Layout
from research.training.step import summed_loss


def per_device(tree: Any) -> float:
    """Of a tree of shapes with shardings, on one device."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def whole(tree: Any) -> float:
    """Of a tree of shapes, over all devices, each array once."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def activations(experiment: Experiment, programs: CompiledSteps) -> float:
    """What JAX keeps of a microbatch for the backward pass, on one device: the residuals of the loss as they are
    traced, without the parameters among them. An axis is taken to be split as the logical axis of that length."""
    model, data, layout = experiment.model, experiment.data, programs.layout
    rows = data.batch // experiment.step.accumulation
    source = (data.source_length or data.length) if model.encoder_depth else None
    causal = objectives.causal_only(experiment.objectives, model.encoder_depth > 0)
    batch = sharding.abstract_batch(layout, rows, data.length, source, causal)

    def cast(leaf: Any) -> jax.ShapeDtypeStruct:
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        return jax.ShapeDtypeStruct(leaf.shape, experiment.step.compute_dtype if floating else leaf.dtype)

    params = jax.tree.map(cast, programs.state.params)
    key = jax.eval_shape(lambda: jax.random.key(0)) if model.has_dropout else None

    def backward(params: Any, batch: Any, key: Any) -> Any:
        with sharding.logical_rules(layout):
            return jax.vjp(lambda p: summed_loss(model, experiment.step, layout, p, batch, key)[0], params)[1]

    kept = jax.tree.leaves(jax.eval_shape(backward, params, batch, key))
    known = {(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(params)}
    return sum(
        _bytes(leaf) / _parts(layout, experiment, rows, leaf) for leaf in kept if (leaf.shape, leaf.dtype) not in known
    )


def _bytes(leaf: Any) -> int:
    return 0 if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended) else leaf.size * np.dtype(leaf.dtype).itemsize


def _parts(layout: Layout, experiment: Experiment, rows: int, leaf: Any) -> int:
    """Into how many parts an array of activations is split."""
    model = experiment.model
    lengths = {rows: "batch", model.vocabulary: "vocab", model.mlp.width: "mlp"}
    lengths |= {model.attention.kv_heads: "kv_heads", model.attention.heads: "heads"}
    names = {lengths[size] for size in leaf.shape if size in lengths}
    extent = partial(layout.extent)
    return math.prod(extent(name) for name in names if name == "batch") * max(
        (extent(name) for name in names if name != "batch"), default=1
    )


def refused(message: str) -> float:
    """The bytes that a program needs, of what the TPU compiler says when it does not fit."""
    unit = {"": 1, "K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}
    for pattern in (r"Used ([\d.]+)([KMGT]?) of", r"(?:temporaries|arguments) \(([\d.]+)([KMGT]?)\)"):
        if found := re.search(pattern, message):
            return float(found.group(1)) * unit[found.group(2)]
    return math.inf
