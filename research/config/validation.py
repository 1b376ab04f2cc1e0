"""Checks an experiment as a whole, before the data is read and the devices are asked.

What depends on the tokenizer is checked in `data.open`, what depends on the devices in `training/sharding.py`.
"""

import dataclasses
from typing import Any, get_type_hints

from research.config import Causal, Experiment, Masked, SpanCorruption, get_field, typed
from research.errors import InputError


def validate(experiment: Experiment) -> None:
    """Raises InputError, naming every wrong field, its value and what would work."""
    wrong = _wrong_types(experiment, "") or _wrong_values(experiment) or _wrong_together(experiment)
    if wrong:
        raise InputError("the experiment cannot run:\n  " + "\n  ".join(wrong))


def _wrong_types(tree: Any, path: str) -> list[str]:
    """A config file is not type-checked by Python: `objectives=Causal()` instead of `(Causal(),)` shows here."""
    wrong = []
    for name, kind in get_type_hints(type(tree)).items():
        value, here = getattr(tree, name), f"{path}{name}"
        try:
            typed(value, kind)
        except ValueError as error:
            wrong.append(f"{here}: {error}")
            continue
        parts = {here: value} if dataclasses.is_dataclass(value) else {}
        if name == "objectives":
            parts = {f"{here}.{number}": part for number, part in enumerate(value)}
        wrong += [line for where, part in parts.items() for line in _wrong_types(part, f"{where}.")]
    return wrong


_MINIMA = {  # path of a part -> its fields -> their smallest values
    "model": {"width": 1, "depth": 1, "unroll": 1, "vocabulary": 0, "encoder_depth": 0, "dropout": 0},
    "model.attention": {"heads": 1, "global_every": 1, "kv_heads": 0, "head_width": 0, "window": 0, "dropout": 0},
    "model.mlp": {"width": 0},
    "model.norm": {"epsilon": 0},
    "model.positions": {"buckets": 1, "max_length": 0, "offset": 0},
    "model.embedding": {"token_types": 0},
    "data": {"length": 2, "source_length": 2, "batch": 1, "workers": 0},
    "optimizer": dict.fromkeys(("weight_decay", "b1", "b2", "epsilon", "clip"), 0),
    "schedule": {"steps": 1, "warmup": 0, "decay": 0, "final": 0},
    "step": {"accumulation": 1, "z_loss": 0, "loss_chunk": 1},
    "checkpoint": {"every": 1, "keep_last": 1, "keep_every": 1},
    "evaluation": {"every": 0, "batches": 1, "final_batches": 1},
    "logging": {"every": 1},
}


def _wrong_values(experiment: Experiment) -> list[str]:
    """Fields that are wrong by themselves."""
    minima = [
        (value >= least, f"{part}.{name}", f"{value} must be at least {least}")
        for part, names in _MINIMA.items()
        for name, least in names.items()
        if (value := get_field(experiment, f"{part}.{name}")) is not None
    ]
    model, data, optimizer, mesh = experiment.model, experiment.data, experiment.optimizer, experiment.mesh
    sizes = ("data", "fsdp", "tensor", "context", "slices")
    rules = [
        *minima,
        (model.lora is None or model.lora.rank >= 1, "model.lora.rank", "must be at least 1"),
        (model.dropout < 1, "model.dropout", f"{model.dropout} must be below 1"),
        (model.attention.dropout < 1, "model.attention.dropout", f"{model.attention.dropout} must be below 1"),
        (max(optimizer.b1, optimizer.b2) < 1, "optimizer", f"b1 {optimizer.b1} and b2 {optimizer.b2} must be below 1"),
        (optimizer.learning_rate > 0, "optimizer.learning_rate", f"{optimizer.learning_rate} must be positive"),
        (
            isinstance(data.held_out, str) or 0 < data.held_out < 1,
            "data.held_out",
            f"{data.held_out} is neither a source nor a fraction between 0 and 1",
        ),
        (
            all(getattr(mesh, name) > 0 or getattr(mesh, name) == -1 for name in sizes),
            "mesh",
            f"{', '.join(f'{name} {getattr(mesh, name)}' for name in sizes)} must be positive, or -1 for what is left",
        ),
        (len(experiment.objectives) > 0, "objectives", "at least one is needed"),
        (experiment.seed >= 0, "seed", f"{experiment.seed} must be at least 0"),
    ]
    for number, objective in enumerate(experiment.objectives):
        here = f"objectives.{number}"
        rules += [
            (objective.rate > 0, f"{here}.rate", f"{objective.rate} must be positive"),
            (objective.weight > 0, f"{here}.weight", f"{objective.weight} must be positive"),
        ]
        if isinstance(objective, Masked):
            rate = objective.mask_rate
            rules.append((0 < rate < 1, f"{here}.mask_rate", f"{rate} is not between 0 and 1"))
        if isinstance(objective, SpanCorruption):
            rate, span = objective.noise_rate, objective.mean_span
            rules.append((0 < rate < 1, f"{here}.noise_rate", f"{rate} is not between 0 and 1"))
            rules.append((span >= 1, f"{here}.mean_span", f"{span} must be at least 1"))
    return [f"{name}: {message}" for holds, name, message in rules if not holds]


def _wrong_together(experiment: Experiment) -> list[str]:
    """Fields that do not fit each other; each is right by itself."""
    model, data, schedule = experiment.model, experiment.data, experiment.schedule
    attention, positions, accumulation = model.attention, model.positions, experiment.step.accumulation
    heads, kv_heads = attention.heads, attention.kv_heads or attention.heads
    head_width = attention.head_width or model.width // heads
    longest = max(data.length, data.source_length or 0)
    names = [objective.name for objective in experiment.objectives]
    rows_only = [o.name for o in experiment.objectives if isinstance(o, Causal | Masked)]
    rules = [
        (
            attention.head_width > 0 or model.width % heads == 0,
            "model.attention.heads",
            f"{heads} heads do not divide width {model.width}; choose a divisor or set model.attention.head_width",
        ),
        (
            heads % kv_heads == 0,
            "model.attention.kv_heads",
            f"{kv_heads} does not divide model.attention.heads = {heads}",
        ),
        (
            positions.kind != "rope" or head_width % 2 == 0,
            "model.attention.head_width",
            f"{head_width} is odd; rope rotates pairs",
        ),
        (
            positions.kind != "learned"
            or positions.max_length == 0
            or longest + positions.offset <= positions.max_length,
            "data.length",
            f"{longest} is longer than the model's {positions.max_length - positions.offset} learned positions",
        ),
        (model.norm.kind == "layernorm" or not model.norm.bias, "model.norm.bias", "rmsnorm has no bias"),
        (
            model.quantization_bits == 32 or (model.lora is not None and experiment.initialize_from is not None),
            "model.quantization_bits",
            f"{model.quantization_bits}-bit kernels are not trained: they need model.lora, and initialize_from for "
            "their values",
        ),
        (
            attention.implementation != "cudnn" or experiment.step.compute_dtype == "bfloat16",
            "model.attention.implementation",
            "cudnn computes in 16 bits; set step.compute_dtype to bfloat16",
        ),
        (
            attention.implementation != "splash" or positions.kind != "relative",
            "model.attention.implementation",
            "splash has no relative bias; auto and scanned have",
        ),
        (
            attention.dropout == 0 or attention.implementation in ("auto", "plain"),
            "model.attention.dropout",
            f"{attention.dropout} needs model.attention.implementation auto or plain, not {attention.implementation}",
        ),
        (len(set(names)) == len(names), "objectives", f"names must differ, not {names}; give each a name"),
        (
            not (model.encoder_depth and rows_only),
            "objectives",
            f"{rows_only} have no source side; an encoder-decoder trains on Prefix, SpanCorruption or TextToText",
        ),
        (
            data.batch % accumulation == 0,
            "step.accumulation",
            f"{accumulation} does not divide data.batch = {data.batch}",
        ),
        (
            schedule.warmup <= schedule.steps,
            "schedule.warmup",
            f"{schedule.warmup} is longer than schedule.steps = {schedule.steps}",
        ),
    ]
    return [f"{name}: {message}" for holds, name, message in rules if not holds]
