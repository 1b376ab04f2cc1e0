"""Experiments that an earlier version has stored: their fields under the names of today."""

from collections.abc import Mapping
from typing import Any

FORMAT = 2  # of experiment.json; raised with every change that `upgraded` has to know

_MOVED = {  # field of format 1 -> its path today
    "compiled": ("compilation_cache_dir",),
    "step.compute": ("step.compute_dtype",),
    "model.heads": ("model.attention.heads",),
    "model.kv_heads": ("model.attention.kv_heads",),
    "model.head_width": ("model.attention.head_width",),
    "model.attention_scale": ("model.attention.scale",),
    "model.qkv_bias": ("model.attention.qkv_bias",),
    "model.attention_bias": ("model.attention.output_bias",),
    "model.qk_norm": ("model.attention.qk_norm",),
    "model.window": ("model.attention.window",),
    "model.global_every": ("model.attention.global_every",),
    "model.attention": ("model.attention.implementation",),
    "model.dropout": ("model.dropout", "model.attention.dropout"),
    "model.mlp_width": ("model.mlp.width",),
    "model.activation": ("model.mlp.activation",),
    "model.gated": ("model.mlp.gated",),
    "model.mlp_bias": ("model.mlp.bias",),
    "model.norm": ("model.norm.kind",),
    "model.norm_epsilon": ("model.norm.epsilon",),
    "model.norm_bias": ("model.norm.bias",),
    "model.norm_placement": ("model.norm.placement",),
    "model.embedding_norm": ("model.norm.embedding",),
    "model.first_norm": ("model.norm.first",),
    "model.positions": ("model.positions.kind",),
    "model.max_positions": ("model.positions.max_length",),
    "model.position_offset": ("model.positions.offset",),
    "model.rotary_theta": ("model.positions.theta",),
    "model.window_theta": ("model.positions.local_theta",),
    "model.rotary_scaling": ("model.positions.scaling",),
    "model.relative_buckets": ("model.positions.buckets",),
    "model.relative_distance": ("model.positions.max_distance",),
    "model.token_types": ("model.embedding.token_types",),
    "model.embedding_scale": ("model.embedding.initial_scale",),
    "model.tied": ("model.head.tied",),
    "model.head_bias": ("model.head.bias",),
    "model.head_transform": ("model.head.transform",),
    "model.logits_scale": ("model.head.logits_scale",),
    "model.bits": ("model.quantization_bits",),
}
_RENAMED = {("model.positions", "rotary"): "rope"}  # (field of format 1, its value) -> the value today


def upgraded(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON tree of an experiment of format 1 as one of today's format. Fields that it does not have stay missing,
    unknown ones stay as they are: both are judged by `from_dict`."""
    out: dict[str, Any] = {}
    for name, value in tree.items():
        if name not in ("model", "step") or not isinstance(value, Mapping):
            _put(out, name, value)
            continue
        for field, inner in value.items():
            _put(out, f"{name}.{field}", inner)
    return out


def _put(out: dict[str, Any], old: str, value: Any) -> None:
    if isinstance(value, str):
        value = _RENAMED.get((old, value), value)
    for path in _MOVED.get(old, (old,)):
        *parents, last = path.split(".")
        node = out
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
