"""Activations over devices, by logical axes: within `logical_axis_rules` these mean axes of the mesh, else nothing."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from research.models import balance, kernels
from research.models.kernels import Implementation, Intervals, RelativeBias

Result = TypeVar("Result")
Names = tuple[str | None, ...]


def extent(name: str) -> int:
    """Into how many parts a logical axis is split."""
    mesh = jax.sharding.get_abstract_mesh()
    return math.prod(mesh.shape[axis] for axis in mesh_axes(name))


def mesh_axes(name: str) -> tuple[str, ...]:
    """The axes of the mesh over which a logical axis is split."""
    return tuple(jax.tree.leaves(tuple(_spec((name,)))))


def shard_map(function: Callable[..., Result], inputs: Sequence[Any], output: Names) -> Callable[..., Result]:
    """`jax.shard_map` by the names of logical axes: `function` as each device applies it to its own part of the
    arguments. Each of `inputs` is the names of an argument's axes, or a tree of such names."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return function
    specs = tuple(jax.tree.map(_spec, names, is_leaf=_is_names) for names in inputs)
    return jax.shard_map(function, in_specs=specs, out_specs=_spec(output), check_vma=False)


def attend(
    query: Float[Array, "batch queries heads head"],
    key: Float[Array, "batch keys kv_heads head"],
    value: Float[Array, "batch keys kv_heads head"],
    intervals: Intervals,
    scale: float,
    bias: RelativeBias | None,
    implementation: Implementation,
    softcap: float = 0.0,
) -> Float[Array, "batch queries heads head"]:
    """`kernels.attend` on each device for its own rows, queries and heads. Where the length is split, it gathers all
    keys and values of its rows and heads first (context parallelism as in Llama 3, section 3.3.2): the intervals of its
    queries are in numbers of the whole row, so the one rule needs no change. Where splash then reads causal rows, each
    device takes an early and a late part of each (`balance`)."""
    balanced, length = False, extent("length")
    if implementation == "auto":
        implementation, _ = kernels.fastest(query, intervals.shared_prefix is not None, bias is not None, softcap)
    if length > 1:
        balanced = implementation == "splash" and intervals.causal and query.shape[1] // length % 2 == 0
        intervals = replace(intervals, causal=balanced)  # else a device's first query is not the row's first
    parts = extent("heads")
    if extent("kv_heads") != parts:  # then no device has all key heads that it needs alone: copies, as few as will do
        copies = math.lcm(parts, key.shape[2]) // key.shape[2]
        key, value = (jnp.repeat(x, copies, axis=2) for x in (key, value))
    queries, keys = ("batch", "length", "heads", None), ("batch", None, "heads", None)
    biases: Any = None
    if bias is not None:
        rows = None if bias.index.shape[0] == 1 else "batch"
        tree: Any = bias
        biases = replace(tree, table=(None, "heads"), index=(rows, "length"))

    def local(query: Array, key: Array, value: Array, intervals: Intervals, bias: RelativeBias | None) -> Array:
        if not balanced:
            return kernels.attend(query, key, value, intervals, scale, bias, implementation, softcap)
        axes = mesh_axes("length")
        query, intervals = jax.tree.map(partial(balance.exchange, axes), (query, intervals))
        attended = kernels.attend(query, key, value, intervals, scale, bias, implementation, softcap)
        return balance.exchange_back(axes, attended)

    split = shard_map(local, (queries, keys, keys, ("batch", "length"), biases), queries)
    return split(query, key, value, intervals, bias)


def _is_names(tree: Any) -> bool:
    return isinstance(tree, tuple)


def _spec(names: Names) -> PartitionSpec:
    return nn.logical_to_mesh_axes(names) or PartitionSpec()
