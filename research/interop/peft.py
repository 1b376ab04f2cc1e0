"""Low-rank adapters in the format of `peft`, to be put on the published model that training started from."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from research import models
from research.config import Model
from research.data import cache
from research.errors import InputError
from research.interop import config_json, safetensors
from research.models import Params, adapters


def write(folder: Path, model: Model, params: Params, base: str) -> None:
    """Writes an adapter that `peft` loads, whole or not at all.

    Where a family keeps several of our projections in one, their adapters become one of their summed rank, with the
    blocks of each on the diagonal: exactly the same function.

    Args:
      folder: must not exist.
      model: resolved, with `lora`.
      params: of this model.
      base: the name or folder of the model without the adapter.

    Raises:
      InputError: if the folder exists, the model has no adapters, no family of `transformers` has such a model, or the
        family keeps the rows of an adapted projection in another order.
    """
    if folder.exists():
        raise InputError(f"{folder} exists; choose another name or remove it")
    if model.lora is None:
        raise InputError("the model has no adapters (model.lora)")
    _, names = config_json.write(adapters.plain(model))
    leaves = {path: np.asarray(leaf) for path, leaf in models.flatten(params).items() if adapters.is_adapter(path)}
    fused: dict[str, dict[int, str]] = {}  # their module -> which of its parts have an adapter, and ours
    sizes: dict[str, int] = {}
    for path in leaves:
        module = path.rpartition("/")[0]
        their, _, part = names.modules[module].partition("#")
        number, _, count = (part or "0/1").partition("/")
        unequal = part and "attention" in module and model.attention.kv_heads != model.attention.heads
        if count.endswith("h") or unequal or module in names.interleaved:
            raise InputError(f"adapters of {module} are not written for this family, which orders its rows otherwise")
        fused.setdefault(their, {})[int(number)] = module
        sizes[their] = int(count)
    tensors: dict[str, np.ndarray] = {}
    for their, parts in fused.items():
        for layer in range(len(leaves[f"{parts[min(parts)]}/lora_a"])) if "{layer}" in their else (None,):
            a, b = _block_diagonal(leaves, parts, sizes[their], layer, model.lora.rank)
            stem = f"base_model.model.{their.format(layer=layer)}"
            tensors |= {f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b}
    with cache.building(folder) as partial:
        text = json.dumps(_config(model, fused, names.transposed, base), indent=2)
        (partial / "adapter_config.json").write_text(text, encoding="utf-8")
        shapes = {name: array.shape for name, array in tensors.items()}
        safetensors.write_file(partial / "adapter_model.safetensors", shapes, np.dtype(np.float32), tensors.items())


def _block_diagonal(
    leaves: dict[str, np.ndarray], parts: dict[int, str], count: int, layer: int | None, rank: int
) -> tuple[np.ndarray, np.ndarray]:
    """A `[rank, in]` and B `[out, rank]` of one of their modules, which puts out `count` parts side by side."""

    def leaf(module: str, name: str) -> np.ndarray:
        array = leaves[f"{module}/{name}"]
        return array if layer is None else array[layer]

    a = np.concatenate([leaf(module, "lora_a").reshape(-1, rank).T for _, module in sorted(parts.items())])
    width = leaf(parts[min(parts)], "lora_b").reshape(rank, -1).shape[1]
    b = np.zeros((count * width, len(a)), np.float32)
    for place, (number, module) in enumerate(sorted(parts.items())):
        rows, columns = slice(number * width, (number + 1) * width), slice(place * rank, (place + 1) * rank)
        b[rows, columns] = leaf(module, "lora_b").reshape(rank, -1).T
    return a, b


def _config(model: Model, fused: dict[str, dict[int, str]], transposed: bool, base: str) -> dict[str, Any]:
    assert model.lora is not None
    rank, alpha = model.lora.rank, model.lora.alpha
    patterns = {their: re.escape(their).replace(r"\{layer\}", r"\d+") for their in fused}
    summed = {patterns[their]: len(parts) for their, parts in fused.items() if len(parts) > 1}
    task = "SEQ_2_SEQ_LM" if model.encoder_depth else None if model.norm.embedding else "CAUSAL_LM"
    return {
        "peft_type": "LORA",
        "task_type": task,
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {pattern: count * rank for pattern, count in summed.items()},
        "alpha_pattern": {pattern: count * alpha for pattern, count in summed.items()},
        "target_modules": "|".join(patterns.values()),
        "fan_in_fan_out": not transposed,
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }
