"""Checks an experiment as a whole, before the data is read and the devices are asked.

What depends on the tokenizer is checked in `data.open_corpus`, what depends on the devices in `sharding.py`, and what
depends on their memory in `training/memory.py`.
"""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any, get_type_hints

from research.config import Experiment, ranges, storage, typed
from research.errors import InputError

TEXTS = ("prompt", "stop", "continuations", "texts", "unrelated", "prefix")  # options that are texts, and may be empty


def validate(experiment: Experiment) -> None:
    """Raises InputError, naming every wrong field, its value and what would work."""
    wrong = _wrong_types(experiment, "") or _wrong_values(experiment) or _wrong_together(experiment)
    if wrong:
        raise InputError("the experiment cannot run:\n  " + "\n  ".join(wrong))


def _wrong_types(tree: Any, path: str) -> list[str]:
    """A config file is not type-checked by Python: `objectives=Causal()` instead of `(Causal(),)` shows here."""
    wrong = []
    kinds = get_type_hints(type(tree))
    for name in [field.name for field in dataclasses.fields(tree)]:
        value, kind, here = getattr(tree, name), kinds[name], f"{path}{name}"
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


def _wrong_values(experiment: Experiment) -> list[str]:
    """Fields that are wrong by themselves."""
    wrong = [] if experiment.objectives else ["objectives: at least one is needed"]
    wrong += ranges.out_of_range(experiment)
    wrong += [f"{path}: is empty; give a name, or None for none" for path in _empty_names(experiment)]
    held_out = experiment.data.held_out
    if isinstance(held_out, str) and held_out.strip() and ":" not in held_out and held_out != "python-docs":
        share = ranges.RANGES["data.held_out"]
        wrong.append(f"data.held_out: {held_out!r} is neither a number {share} nor a data source, such as text:GLOB")
    for number, objective in enumerate(experiment.objectives):
        wrong += [f"objectives.{number}.{field}: {message}" for field, message in objective.problems()]
        unknown = storage.not_importable(objective)
        wrong += [f"objectives.{number}: {unknown}"] if unknown else []
    return wrong


def _empty_names(experiment: Experiment) -> Iterator[str]:
    """The path of every text that names something, but is empty apart from spaces, as of a variable that is not set."""
    for path, value in ranges.leaves(experiment):
        name = re.sub(r"\.\d+$", "", path).rpartition(".")[2]
        if isinstance(value, str) and not value.strip() and name not in TEXTS:
            yield path


def _wrong_together(experiment: Experiment) -> list[str]:
    """Fields that do not fit each other; each is right by itself."""
    model, data, schedule = experiment.model, experiment.data, experiment.schedule
    attention, positions, accumulation = model.attention, model.positions, experiment.step.accumulation
    heads, kv_heads = attention.heads, attention.kv_heads or attention.heads
    head_width = attention.head_width or model.width // heads
    longest = max(data.length, data.source_length or 0)
    names = [objective.name for objective in experiment.objectives]
    rows_only = [objective.name for objective in experiment.objectives if not objective.has_source]
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
            positions.kind != "rope" or (positions.rotary_width % 2 == 0 and positions.rotary_width <= head_width),
            "model.positions.rotary_width",
            f"{positions.rotary_width} must be even, and at most the width of a head, {head_width}",
        ),
        (
            attention.first_global < max(1, attention.global_every),
            "model.attention.first_global",
            f"{attention.first_global} must be below model.attention.global_every = {attention.global_every}",
        ),
        (
            not model.parallel_residual or (model.norm.placement == "pre" and not model.encoder_depth),
            "model.parallel_residual",
            "needs model.norm.placement pre, and no encoder",
        ),
        (
            model.parallel_residual or not model.norm.shared,
            "model.norm.shared",
            "needs model.parallel_residual",
        ),
        (
            model.embedding.width == 0 or model.head.transform or not model.head.tied,
            "model.embedding.width",
            f"{model.embedding.width} with a tied output layer needs model.head.transform, which leads back to it",
        ),
        (
            positions.kind != "learned"
            or positions.max_length == 0
            or longest + positions.offset <= positions.max_length,
            "data.length",
            f"{longest} is longer than the model's {positions.max_length - positions.offset} learned positions",
        ),
        (
            positions.kind != "relative" or positions.max_distance > positions.buckets // 2,
            "model.positions.max_distance",
            f"{positions.max_distance} must be above half of model.positions.buckets = {positions.buckets}",
        ),
        (
            positions.scaling is None or positions.scaling.low_frequency < positions.scaling.high_frequency,
            "model.positions.scaling.low_frequency",
            "must be below model.positions.scaling.high_frequency",
        ),
        (model.norm.kind == "layernorm" or not model.norm.bias, "model.norm.bias", "rmsnorm has no bias"),
        (
            model.quantization_bits == 32 or (model.lora is not None and experiment.initialize_from is not None),
            "model.quantization_bits",
            f"{model.quantization_bits}-bit kernels are not trained: they need model.lora, and initialize_from for "
            "their values",
        ),
        (
            model.mup is None or experiment.optimizer.name in ("adamw", "lion"),
            "model.mup",
            f"its learning rates are those of optimizer.name adamw and lion, not {experiment.optimizer.name}",
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
            attention.softcap == 0 or attention.implementation not in ("splash", "cudnn"),
            "model.attention.softcap",
            f"{attention.softcap} is not in {attention.implementation}; auto, blocks, scanned and plain have it",
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
