"""The linear maps of a model: what its config wraps around each."""

import math
import re
from fnmatch import fnmatch
from typing import Any

import flax.linen as nn

from research.config import Model
from research.models.linear import Axes, Linear
from research.models.lora import Adapted
from research.models.quantized import Quantized


def projection(
    parent: nn.Module,
    name: str,
    config: Model,
    inputs: Axes,
    outputs: Axes,
    bias: bool,
    residual: bool = False,
) -> nn.Module:
    """The linear map `name` of a layer: quantised, and with an adapter, as `config` says. What a `residual` one puts
    out is added to the residual stream."""
    deviation = initial_deviation(config, math.prod(size for _, size in inputs), residual)
    quantized, adapted = config.quantization_bits < 32, _is_adapted(config, (*parent.path, name))
    # a map inside another one belongs to that, not to the layer
    linear: nn.Module = Linear(inputs, outputs, bias, deviation, **_place(name, quantized or adapted))
    if quantized:
        assert isinstance(linear, Linear)
        linear = Quantized(linear, config.quantization_bits, **_place(name, adapted))
    if adapted:
        assert config.lora is not None
        linear = Adapted(linear, inputs, outputs, config.lora, name=name)
    return linear


def initial_deviation(config: Model, fan_in: int, residual: bool = False) -> float:
    """The standard deviation of an initial kernel."""
    if config.initial_scale is None:
        return fan_in**-0.5
    # so that the variance of the stream does not grow with depth (GPT-2), nor with width (muP)
    return config.initial_scale / (math.sqrt(2 * config.depth) if residual else 1) / math.sqrt(config.width_ratio)


def _is_adapted(config: Model, path: tuple[str, ...]) -> bool:
    # an unstacked layer is called "layers_0", and has what the stack of all has
    name = re.sub(r"/layers_\d+/", "/layers/", "/".join(path))
    return config.lora is not None and any(fnmatch(name, target) for target in config.lora.targets)


def _place(name: str, wrapped: bool) -> dict[str, Any]:
    return {"parent": None} if wrapped else {"name": name}
