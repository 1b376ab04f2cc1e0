"""How two checkpoints differ on the same items."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from research.evaluation import metrics, statistics
from research.evaluation.items import Outcome
from research.evaluation.statistics import Estimate
from research.evaluation.suite import Result, without_nan


@dataclass(frozen=True)
class Comparison:
    """A metric of `other` minus that of `first`, by items that both answered."""

    task: str
    metric: str
    first: str  # checkpoint and prompt format
    other: str
    kind: str  # exact or pseudo, of both
    shots: int
    items: int
    difference: Estimate
    verdict: str

    def to_json(self) -> dict[str, Any]:
        return without_nan(asdict(self))


def compare(
    first: Result, other: Result, first_outcomes: Sequence[Outcome], other_outcomes: Sequence[Outcome]
) -> tuple[Comparison, ...]:
    """Two results on one task, metric by metric, with the outcomes of each."""
    assert (first.task, first.kind) == (other.task, other.kind), "only scores of one kind are compared"
    same = first.prompt_format == other.prompt_format
    names = [one.checkpoint if same else f"{one.checkpoint} as {one.prompt_format}" for one in (first, other)]

    def each(name: str) -> Comparison:
        gain = statistics.difference(metrics.sums(name, other_outcomes), metrics.sums(name, first_outcomes))
        sign = 1 if metrics.METRICS[name].better == "higher" else -1
        low, high = sorted((sign * gain.low, sign * gain.high))
        if math.isnan(gain.value):
            verdict = statistics.NO_VERDICT
        else:
            verdict = (
                f"{names[1]} is better" if low > 0 else f"{names[0]} is better" if high < 0 else "no difference shown"
            )
        return Comparison(first.task, name, names[0], names[1], first.kind, first.shots, first.items, gain, verdict)

    return tuple(each(measured.metric) for measured in first.measured)
