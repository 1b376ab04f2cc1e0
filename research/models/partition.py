"""Activations over devices, by logical axes: within `logical_axis_rules` these mean axes of the mesh, else nothing."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from research.models import attention, balance
from research.models.attention import Visible

Result = TypeVar("Result")


def extent(name: str) -> int:
    """Into how many parts a logical axis is split."""
    mesh = jax.sharding.get_abstract_mesh()
    return math.prod(mesh.shape[axis] for axis in mesh_axes(name))


def mesh_axes(name: str) -> tuple[str, ...]:
    """The axes of the mesh over which a logical axis is split."""
    return tuple(jax.tree.leaves(tuple(_spec((name,)))))


def by_parts(
    function: Callable[..., Result], inputs: Sequence[Sequence[str | None]], output: Sequence[str | None]
) -> Callable[..., Result]:
    """`function` as each device applies it to its own part of the arguments. Each of these is an array, or a tuple of
    arrays with the same axes."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return function
    specs = tuple(_spec(names) for names in inputs)
    return jax.shard_map(function, in_specs=specs, out_specs=_spec(output), check_vma=False)


def attend(
    query: Float[Array, "batch queries heads head"],
    key: Float[Array, "batch keys kv_heads head"],
    value: Float[Array, "batch keys kv_heads head"],
    seen: Visible,
    scale: float,
    bias: Float[Array, "#batch heads queries keys"] | None,
    implementation: str,
) -> Float[Array, "batch queries heads head"]:
    """`attention.attend` on each device for its own rows, queries and heads. Where the length is split, it gathers all
    keys and values of its rows and heads first (context parallelism as in Llama 3, section 3.3.2): the intervals that
    its queries see are in numbers of the whole row, so the one rule needs no change."""
    balanced = False
    if extent("length") > 1:
        splash = attention.chosen(implementation, query, bias is not None) == "splash"
        balanced = splash and seen.causal and query.shape[1] // extent("length") % 2 == 0
        seen = replace(seen, causal=balanced)  # else a device's first query is not the row's first
    parts = extent("heads")
    if extent("kv_heads") != parts:  # then no device has all key heads that it needs alone: copies, as few as will do
        copies = math.lcm(parts, key.shape[2]) // key.shape[2]
        key, value = (jnp.repeat(x, copies, axis=2) for x in (key, value))
    queries, keys = ("batch", "length", "heads", None), ("batch", None, "heads", None)
    biases = (None if bias is None or bias.shape[0] == 1 else "batch", "heads", "length", None)

    def local(query, key, value, seen, bias):
        if not balanced:
            return attention.attend(query, key, value, seen, scale, bias, implementation)
        axes = mesh_axes("length")
        query, seen = jax.tree.map(partial(balance.exchange, axes), (query, seen))
        return balance.exchange_back(axes, attention.attend(query, key, value, seen, scale, bias, implementation))

    split = by_parts(local, (queries, keys, keys, ("batch", "length"), biases), queries)
    return split(query, key, value, seen, bias)


def _spec(names: Sequence[str | None]) -> PartitionSpec:
    return nn.logical_to_mesh_axes(tuple(names)) or PartitionSpec()
