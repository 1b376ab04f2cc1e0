"""Between a plain model and one with low-rank adapters or a quantised base, as trees of parameters."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from research import models
from research.config import Model
from research.models.quantized import dequantize, quantize

ADAPTERS = ("lora_a", "lora_b")


def plain(config: Model) -> Model:
    """The model without adapters, with float32 kernels."""
    return replace(config, lora=None, quantization_bits=32)


def is_adapter(path: str) -> bool:
    """Whether a parameter belongs to an adapter."""
    return path.endswith(ADAPTERS)


def stored(config: Model, path: str, array: Array) -> dict[str, Array]:
    """How `config` keeps a parameter of its plain model: as it is, or as integers and their scale."""
    scale = shapes(config).get(f"{path}_scale")
    if scale is None:
        return {path: array}
    values, scales = _quantize(array, scale.shape, config.quantization_bits)
    return {path: values, f"{path}_scale": scales}


def create(config: Model, key: PRNGKeyArray) -> dict[str, Array]:
    """New adapters by path, which change nothing yet: B is zero."""
    return {path: leaf for path, leaf in models.flatten(models.init(config, key)).items() if is_adapter(path)}


def merge(config: Model, params: models.Params) -> tuple[Model, models.Params]:
    """The plain model that computes the same, up to rounding."""
    leaves = models.flatten(params)
    axes = models.flatten(models.axes(config))
    out = {}
    for path, leaf in leaves.items():
        if is_adapter(path) or path.endswith("kernel_scale"):
            continue
        if f"{path}_scale" in leaves:
            leaf = dequantize(leaf, leaves[f"{path}_scale"], jnp.float32)
        module = path.rpartition("/")[0]
        if config.lora is not None and path.endswith("kernel") and f"{module}/lora_a" in leaves:
            a, b = (leaves[f"{module}/{name}"] for name in ADAPTERS)
            product = partial(jnp.tensordot, axes=1)
            change = jax.vmap(product)(a, b) if "layers" in axes[path] else product(a, b)
            leaf = leaf + config.lora.alpha / config.lora.rank * change
        out[path] = leaf
    return plain(config), models.unflatten(out)


def shapes(config: Model) -> dict[str, Any]:
    """Shape and dtype of every parameter by path."""
    return models.flatten(jax.eval_shape(lambda: models.init(config, jax.random.key(0))))


_quantize = jax.jit(quantize, static_argnums=(1, 2))
