"""Where the time of a run went."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from research.analysis.runs import Run


@dataclass(frozen=True)
class Part:
    """Seconds spent on one thing."""

    name: str
    seconds: float
    share: float  # percent of the whole


def time(run: Run) -> list[Part]:
    """The parts of a run's time, as far as it recorded them; empty if it did not."""
    steps = [0, *(record["step"] for record in run.of_kind("train"))]
    timed = [
        (taken, record)
        for (before, step), record in zip(pairwise(steps), run.of_kind("train"), strict=True)
        if (taken := step - before) and record["tokens_per_second"] > 0
    ]
    seconds = sum(_seconds(run, taken, record) for taken, record in timed)
    waiting = sum(_seconds(run, taken, record) * record["waiting"] for taken, record in timed)
    parts = {"training steps": seconds - waiting, "waiting for data": waiting}
    if run.result is not None:
        parts["compiling, evaluating, saving"] = max(run.result["seconds"] - seconds, 0)
    total = sum(parts.values())
    return [Part(name, spent, 100 * spent / total) for name, spent in parts.items() if spent > 0]


def _seconds(run: Run, steps: int, record: dict[str, Any]) -> float:
    return steps * run.tokens_per_step / record["tokens_per_second"]
