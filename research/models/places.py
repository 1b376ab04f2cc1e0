"""Named places of the forward pass, where arrays can be watched and changed.

A module says `x = place(self, "hidden", x)` where something worth seeing comes by. Nothing happens there unless the
model is run with `recording` that name, or with a `Change` of it. Changes are data: they arrive as variables beside the
parameters, with a leading axis of layers as those have, so that one program serves every layer, token and head, and
`jax.vmap` runs many changes at once.

Names are the paths of modules without "layers", which is an axis: "decoder/embedding", "decoder/attention/weights".
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from jaxtyping import Array

CHANGES, RECORDED = "changes", "recorded"  # collections of variables
OF_STACK = ("embedding", "output")  # places of a stack; the others are in its layers
_recorded: ContextVar[frozenset[str] | None] = ContextVar("recorded", default=frozenset())

# The axes of the places, by the last part of their names; those of layers have "layer" before them. Cross-attention has
# "source" for the tokens that keys and values belong to. An adapter has those of the map that it is beside.
_STREAM = ("text", "token", "width")
_HEADS = ("text", "token", "head", "feature")
_KEYS = ("text", "token", "kv_head", "feature")
AXES: dict[str, tuple[str, ...]] = {
    "embedding": _STREAM,
    "residual_before": _STREAM,
    "residual_after_attention": _STREAM,
    "residual_after_cross_attention": _STREAM,
    "residual": _STREAM,
    "input": _STREAM,
    "output": _STREAM,
    "queries": _HEADS,
    "keys": _KEYS,
    "values": _KEYS,
    "scores": ("text", "head", "token", "key"),
    "weights": ("text", "head", "token", "key"),
    "heads": _HEADS,
    "hidden": ("text", "token", "neuron"),
}
_ADAPTERS = {"query": _HEADS, "key": _KEYS, "value": _KEYS, "up": AXES["hidden"], "gate": AXES["hidden"]}


@partial(jax.tree_util.register_dataclass, data_fields=["where", "value"], meta_fields=["function"])
@dataclass(frozen=True)
class Change:
    """What is put at a place: `function(x, value)` instead of `x` where `where` is true. At a place of the layers, both
    arrays have a leading axis of them."""

    function: Callable[[Array, Any], Array]
    where: Any  # bool
    value: Any


Changes = Mapping[str, tuple[Change, ...]]  # by the name of the place, one after the other


def place(module: nn.Module, name: str, x: Array) -> Array:
    """`x`, or what is put there instead."""
    if module.has_variable(CHANGES, name):
        several: tuple[Change, ...] = module.get_variable(CHANGES, name)
        for change in several:
            x = jnp.where(change.where, change.function(x, change.value).astype(x.dtype), x)
    if _is_recorded(module, name):
        module.sow(RECORDED, name, x, init_fn=lambda: None, reduce_fn=lambda _, new: new)
    return x


def touched(module: nn.Module, *names: str) -> bool:
    """Whether one of a module's places is recorded or changed: then the arrays must exist."""
    return any(module.has_variable(CHANGES, name) or _is_recorded(module, name) for name in names)


@contextmanager
def recording(names: frozenset[str] | None) -> Iterator[None]:
    """While a model is traced inside, these places are recorded; None: all."""
    token = _recorded.set(names)
    try:
        yield
    finally:
        _recorded.reset(token)


def axes(name: str) -> tuple[str, ...]:
    """The names of the axes of what is recorded at a place."""
    *modules, last = name.split("/")[1:]
    layer = () if stack_place(name) else ("layer",)
    if last == "adapter":
        return layer + _ADAPTERS.get(modules[-1], _STREAM)
    found = AXES[last]
    if modules[:1] == ["cross_attention"]:
        found = tuple("source" if axis == "key" else axis for axis in found)
        found = tuple("source" if axis == "token" else axis for axis in found) if last in ("keys", "values") else found
    return layer + found


def stack_place(name: str) -> bool:
    """Whether a place is one of a whole stack, not of each of its layers."""
    return name.partition("/")[2] in OF_STACK


def as_variables(changes: Changes) -> dict[str, Any]:
    """Changes as a collection of variables."""
    return traverse_util.unflatten_dict({_path(name): change for name, change in changes.items()})


def from_variables(recorded: Mapping[str, Any]) -> dict[str, Array]:
    """What was recorded, by the names of the places."""
    flat = traverse_util.flatten_dict(recorded)
    return {"/".join(part for part in path if part != "layers"): array for path, array in flat.items()}


def _is_recorded(module: nn.Module, name: str) -> bool:
    names = _recorded.get()
    return names is None or (bool(names) and "/".join([*_parts(module), name]) in names)


def _parts(module: nn.Module) -> list[str]:
    return [part for part in module.path if part != "layers"]


def _path(name: str) -> tuple[str, ...]:
    stack, *rest = name.split("/")
    return (stack, *rest) if stack_place(name) else (stack, "layers", *rest)
