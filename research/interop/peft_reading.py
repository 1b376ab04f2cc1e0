"""Low-rank adapters in the format of `peft`, put on the tensors of their model as these are read."""

import functools
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from research.config import Model
from research.data import json_files
from research.errors import InputError
from research.interop import mapping, safetensors
from research.interop.mapping import Tensor
from research.interop.names import Names, canonical

FILE = "adapter_model.safetensors"
ROOT = "base_model.model."
NAME = re.compile(r"\^?(\w|-|\\?\.)+\$?")  # of modules: no expression that repeats, which might never end
# what the merged kernel depends on beside rank and alpha: refused unless it is false, empty or none
_REFUSED = (
    *("use_dora", "use_qalora", "use_bdlora", "lora_bias", "layer_replication", "trainable_token_indices"),
    *("target_parameters", "alora_invocation_tokens", "arrow_config", "monteclora_config", "megatron_config"),
    "kasa_config",
)
_OTHER_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")  # initialisations that change the model itself


def merged(folder: Path, model: Model, names: Names, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a model with the adapter of a folder: W + scale * B A for each pair of it, where scale is
    alpha / rank, or with rsLoRA alpha / sqrt(rank) (Kalajdzievski 2023); others of the adapter (`modules_to_save`,
    biases) take the place of the model's.

    Raises:
      InputError: if the adapter is of another kind, has a tensor that the model lacks, or one of another shape.
    """
    config = json_files.read_object(folder / "adapter_config.json")
    _check(folder, config)
    known = set(mapping.shapes(model, names)) | {name for copy in names.copies for name in copy}
    out = {canonical(names, name, known): tensor for name, tensor in tensors.items()}
    pairs: dict[str, dict[str, Tensor]] = {}
    changed: set[str] = set()
    for full, tensor in safetensors.open_file(folder / FILE).items():
        if ".original_module." in full:  # what `modules_to_save` has taken the place of
            continue
        # the first is how a trained bias of a linear map is called, the second the same in `modules_to_save`
        name = full.removeprefix(ROOT).replace(".base_layer.", ".").replace(".modules_to_save.", ".")
        module, _, letter = name.removesuffix(".weight").rpartition(".lora_")
        if module and letter in ("A", "B"):
            pairs.setdefault(module, {})[letter] = tensor
        elif ".lora_" in name:
            raise InputError(f"{folder / FILE}: {full} is not supported, only lora_A and lora_B of linear maps")
        else:
            target = canonical(names, name, known)
            if target not in out or out[target].shape != tensor.shape:
                raise InputError(f"{folder / FILE}: the model has nothing in whose place {full} could be")
            out[target] = tensor
            changed.add(target)
    for module, pair in pairs.items():
        target = canonical(names, f"{module}.weight", known)
        if target not in out or pair.keys() != {"A", "B"}:
            raise InputError(f"{folder / FILE}: {module} has no kernel in the model, or only one of lora_A and lora_B")
        base, (a, b) = out[target], (pair["A"], pair["B"])
        shape = (b.shape[0], a.shape[-1])
        turned = bool(config.get("fan_in_fan_out"))
        if a.shape[0] != b.shape[-1] or base.shape != (shape[::-1] if turned else shape):
            raise InputError(f"{folder / FILE}: {module} is of {list(shape)}, its kernel of {list(base.shape)}")
        scale = _scale(config, module, a.shape[0])
        read = functools.partial(_sum, base, a, b, scale, turned)
        out[target] = Tensor(base.shape, np.dtype(np.float32), read)
        changed.add(target)
    for one, other in names.copies if model.head.tied else ():
        if one in changed and other not in changed:  # which peft leaves as it was
            raise InputError(
                f"{folder / FILE}: it changes {one}, but not {other}, which is tied to it; merge it with peft"
            )
    return out


def _sum(base: Tensor, a: Tensor, b: Tensor, scale: float, turned: bool) -> np.ndarray:
    product = b.read().astype(np.float32) @ a.read().astype(np.float32)
    return base.read().astype(np.float32) + np.float32(scale) * (product.T if turned else product)


def _scale(config: dict[str, Any], module: str, rank: int) -> float:
    """Of a module: its alpha is of the first pattern that is the end of its name."""
    patterns = config.get("alpha_pattern") or {}
    found = (value for key, value in patterns.items() if re.fullmatch(rf"(.*\.)?({key})", module))
    alpha = next(found, config.get("lora_alpha", 8))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _check(folder: Path, config: dict[str, Any]) -> None:
    """Raises InputError if the adapter is not such a sum."""
    path = folder / "adapter_config.json"
    if config.get("peft_type") != "LORA":
        raise InputError(f"{path}: peft_type is {config.get('peft_type')!r}; only LORA is supported")
    for key in _REFUSED:
        if config.get(key):
            raise InputError(f"{path}: {key} = {str(config[key])[:60]} is not supported; merge it with peft")
    initial = config.get("init_lora_weights")
    if isinstance(initial, str) and initial.startswith(_OTHER_BASE):
        raise InputError(f"{path}: init_lora_weights = {initial!r} changes the model itself, so its own is not enough")
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict) or not all(map(NAME.fullmatch, patterns)):
        raise InputError(f"{path}: alpha_pattern {str(patterns)[:60]} is not of names of modules; merge it with peft")
    numbers = [config.get("lora_alpha", 8), *patterns.values()]
    if not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
        raise InputError(f"{path}: lora_alpha and alpha_pattern are {numbers}, not numbers")
    if not (folder / FILE).exists():
        raise InputError(f"{folder} has no {FILE}; an adapter in a pickle (*.bin) is not read")
