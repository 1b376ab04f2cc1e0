"""What a family of `transformers` is: how its `config.json` says what our `config.Model` says, and how its tensors are
called."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from research.config import MLP, Model, Norm, replace_fields
from research.errors import InputError
from research.interop.names import Names

Config = dict[str, Any]
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
_THEIRS = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}


@dataclass(frozen=True)
class Family:
    """One `model_type`."""

    model_type: str
    architecture: str  # the class of the language model
    base: Model  # what its models have in common
    fields: tuple[tuple[str, str, Any], ...]  # (our field, their key, its value where it is missing)
    names: Callable[[Model], Names]
    read: Callable[[Config], dict[str, Any]] = lambda config: {}  # our fields that need more than a table
    write: Callable[[Model], Config] = lambda model: {}
    reads: tuple[str, ...] = ()  # the keys that `read` looks at
    requires: tuple[tuple[str, Any], ...] = ()  # (key, the one value that the stack can express)
    without_effect: tuple[str, ...] = ()  # keys that do not change the language model's function
    aliases: tuple[tuple[str, str], ...] = ()  # (other name that transformers takes, key)
    headless: str | None = None  # the class of the model without its head, where it is useful


def activation(name: Any) -> str:
    """Ours by their name. Raises InputError if there is none."""
    if name not in ACTIVATIONS:
        raise InputError(f"the activation {name!r} is not supported; these are: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def their_activation(name: str) -> str:
    """Theirs by our name."""
    return _THEIRS[name]


def positive(config: Config, key: str, what: str = "") -> Any:
    """A value of a config. Raises InputError if it is not a positive number."""
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InputError(f"{what}{' has ' if what else ''}{key} = {value!r}, not a positive number")
    return value


def attention_biases(config: Config, default: bool = False) -> dict[str, Any]:
    """`attention_bias`, one flag for all biases of attention."""
    bias = config.get("attention_bias", default)
    return {"attention.qkv_bias": bias, "attention.output_bias": bias}


LAYERNORM = Model(norm=Norm(kind="layernorm", epsilon=1e-5, bias=True), mlp=MLP(gated=False))
BIASED = replace_fields(
    LAYERNORM,
    {"positions.kind": "learned", "attention.qkv_bias": True, "attention.output_bias": True, "mlp.bias": True},
)
