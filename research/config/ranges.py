"""The range of every number of an experiment and of every option of a command: checked first, and shown by `--help`.

The bounds are not what is sensible, but what can be meant: beyond them is a typing mistake, a unit, or a value from
which only NaN follows.
"""

import dataclasses
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Range:
    """Numbers from `least` to `most`, in which a bound that is `open` is not contained, and `also` single values."""

    least: float
    most: float
    open: str = ""  # "(" the lower bound, ")" the upper one, "()" both
    also: tuple[int, ...] = ()

    def __contains__(self, value: float) -> bool:
        above = value > self.least if "(" in self.open else value >= self.least
        below = value < self.most if ")" in self.open else value <= self.most
        return value in self.also or (above and below and math.isfinite(value))

    def __str__(self) -> str:
        lower = f"above {_shown(self.least)}" if "(" in self.open else f"from {_shown(self.least)}"
        upper = f"below {_shown(self.most)}" if ")" in self.open else f"to {_shown(self.most)}"
        return "".join(f"{value}, or " for value in self.also) + f"{lower} {upper}"


def _shown(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"


LARGEST = 2**31 - 1  # of what becomes an int32
STEPS = 10**9
POSITIONS = 2**24  # places of a row
SHARE = Range(0, 1, "()")

RANGES = {
    "model.vocabulary": Range(0, 2**24),
    "model.width": Range(1, 2**20),
    "model.depth": Range(1, 10_000),
    "model.encoder_depth": Range(0, 10_000),
    "model.attention.heads": Range(1, 2**16),
    "model.attention.kv_heads": Range(0, 2**16),
    "model.attention.head_width": Range(0, 2**16),
    "model.mlp.width": Range(0, 2**24),
    "model.positions.max_length": Range(0, POSITIONS),
    "model.positions.offset": Range(0, POSITIONS),
    "model.positions.theta": Range(1, 1e12),
    "model.positions.scaling.factor": Range(1, 1e6),
    "model.positions.scaling.low_frequency": Range(0, 1e6, "("),
    "model.positions.scaling.high_frequency": Range(0, 1e6, "("),
    "model.positions.scaling.original_length": Range(1, POSITIONS),
    "model.positions.scaling.magnitude": Range(0, 1e3, "("),
    "model.positions.rotary_width": Range(0, 2**16),
    "model.positions.skip_every": Range(0, 10_000),
    "model.positions.buckets": Range(4, 2**16),
    "model.positions.max_distance": Range(2, POSITIONS),
    "model.attention.window": Range(0, POSITIONS),
    "model.attention.global_every": Range(0, 10_000),
    "model.attention.first_global": Range(0, 10_000),
    "model.attention.softcap": Range(0, 1e6),
    "model.positions.local_theta": Range(1, 1e12, also=(0,)),
    "model.norm.epsilon": Range(0, 1),
    "model.embedding.token_types": Range(0, 2**16),
    "model.embedding.width": Range(0, 2**20),
    "model.embedding.scale": Range(0, 1e6, "("),
    "model.attention.scale": Range(0, 1e6),
    "model.head.logits_scale": Range(0, 1e6, "("),
    "model.head.softcap": Range(0, 1e6),
    "model.dropout": Range(0, 1, ")"),
    "model.attention.dropout": Range(0, 1, ")"),
    "model.initial_scale": Range(0, 100),
    "model.embedding.initial_scale": Range(0, 100),
    "model.mup.base_width": Range(1, 2**20),
    "model.mup.base_head_width": Range(0, 2**16),
    "model.lora.rank": Range(1, 2**16),
    "model.lora.alpha": Range(0, 1e6, "("),
    "model.unroll": Range(1, 10_000),
    "objectives.*.rate": Range(0, 1e6, "("),
    "objectives.*.weight": Range(0, 1e6, "("),
    "objectives.*.mask_rate": SHARE,
    "objectives.*.noise_rate": SHARE,
    "objectives.*.mean_span": Range(1, 10_000),
    "data.held_out": Range(0, 0.99, "("),
    "data.length": Range(2, POSITIONS),
    "data.source_length": Range(2, POSITIONS),
    "data.batch": Range(1, 2**24),
    "data.workers": Range(0, 1024),
    "optimizer.learning_rate": Range(0, 10, "("),
    "optimizer.weight_decay": Range(0, 10),
    "optimizer.b1": Range(0, 1, ")"),
    "optimizer.b2": Range(0, 1, ")"),
    "optimizer.epsilon": Range(0, 1),
    "optimizer.clip": Range(0, 1e6),
    "schedule.steps": Range(1, STEPS),
    "schedule.warmup": Range(0, STEPS),
    "schedule.decay": Range(0, STEPS),
    "schedule.final": Range(0, 1),
    "mesh.data": Range(1, 2**20, also=(-1,)),
    "mesh.fsdp": Range(1, 2**20, also=(-1,)),
    "mesh.tensor": Range(1, 2**20, also=(-1,)),
    "mesh.context": Range(1, 2**20, also=(-1,)),
    "mesh.slices": Range(1, 2**20, also=(-1,)),
    "step.accumulation": Range(1, 2**24),
    "step.z_loss": Range(0, 1),
    "step.loss_chunk": Range(1, LARGEST),
    "checkpoint.every": Range(1, STEPS),
    "checkpoint.minutes": Range(0, 10**6),
    "checkpoint.local_minutes": Range(0, 10**6, "("),
    "checkpoint.keep_last": Range(1, 10**6),
    "checkpoint.keep_every": Range(1, STEPS),
    "evaluation.every": Range(0, STEPS),
    "evaluation.tasks_every": Range(0, STEPS),
    "evaluation.samples_every": Range(0, STEPS),
    "evaluation.probes_every": Range(0, STEPS),
    "evaluation.batches": Range(1, STEPS),
    "evaluation.final_batches": Range(1, STEPS),
    "evaluation.limit": Range(1, STEPS),
    "bad_steps.in_a_row": Range(0, STEPS),
    "bad_steps.bound": Range(0, 1e9),
    "logging.every": Range(1, STEPS),
    "seed": Range(0, 2**32 - 1),
}
OPTIONS = {  # of commands, which stand in no part of an experiment
    "resume_from": Range(0, STEPS),
    "replay": Range(1, STEPS),
    "samples": Range(1, 10**6),
    "candidates": Range(1, 2**24),
    "tokens": Range(1, POSITIONS),
    "least": Range(0, POSITIONS),
    "temperature": Range(0, 1e6),
    "top_k": Range(0, 2**24),
    "top_p": Range(0, 1, "("),
    "shots": Range(0, 10_000),
    "limit": Range(1, STEPS),
    "length": Range(2, POSITIONS),
    "every": Range(0, 1e6, "("),
    "rounds": Range(1, 10**6),
    "count": Range(1, 10**6),
    "batch": Range(1, 2**24),
    "items": Range(1, STEPS),
    "alternatives": Range(0, 10**6),
}


def range_of(path: str) -> Range | None:
    """The range of an option, or of a field by its path, in which the number of an objective stands for any."""
    return RANGES.get(re.sub(r"\.\d+\.", ".*.", path)) or OPTIONS.get(path)


def out_of_range(tree: Any) -> list[str]:
    """A line for each number of the tree that is not in its range, with the field, its value and the range."""
    found = []
    for path, value in leaves(tree):
        range_ = range_of(path)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and range_ is not None and value not in range_:
            found.append(f"{path}: {value} is not {range_}")
    return found


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Path and value of everything in a tree of dataclasses and tuples that is neither."""
    for each in dataclasses.fields(tree):
        value, here = getattr(tree, each.name), f"{path}{each.name}"
        parts = {here: value}
        if isinstance(value, tuple):
            parts = {f"{here}.{number}": part for number, part in enumerate(value)}
        for where, part in parts.items():
            if dataclasses.is_dataclass(part):
                yield from leaves(part, f"{where}.")
            else:
                yield where, part
