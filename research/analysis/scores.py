"""The scores of evaluated checkpoints with their intervals, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from research.analysis.runs import Run
from research.inference.table import Table

Found = tuple[int, dict[str, Any], dict[str, Any]]  # index of the run, a result of `evaluate`, and one of its metrics


@dataclass(frozen=True)
class Scored:
    """A score of one checkpoint, and where it lies in the picture beside it, from 0 to 100."""

    run: int  # the index of its run
    checkpoint: str
    value: str
    verdict: str
    dot: float
    low: float
    high: float
    mark: float  # chance; where there is none, the best baseline


@dataclass(frozen=True)
class Compared:
    """One metric of one task, for all checkpoints that were asked."""

    task: str
    metric: str
    items: int
    range: tuple[float, float]  # of the pictures
    scores: list[Scored]


def evaluations(runs: Sequence[Run]) -> list[Compared]:
    """The scores of the last evaluated step of every run with their 95 % intervals, those of one metric together."""
    groups: dict[tuple[str, int, int, str, str], list[Found]] = {}
    for number, run in enumerate(runs):
        for result in _latest(run.evaluations):
            for one in result["measured"]:
                if one["estimate"][0] is None or not _baselines(one):  # not a number
                    continue
                key = result["task"], result["shots"], result["items"], one["metric"], result["kind"]
                groups.setdefault(key, []).append((number, result, one))
    return [
        _compared(f"{task}, {shots} shots" if shots else task, f"{metric}, {kind}", items, found)
        for (task, shots, items, metric, kind), found in groups.items()
    ]


def _latest(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of the same questions to the same run, the answers of the last step."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for result in sorted(results, key=_step):
        found[tuple(result[name] for name in ("task", "prompt_format", "shots", "items"))] = result
    return list(found.values())


def _step(result: dict[str, Any]) -> int:
    step = result["checkpoint"].rpartition("@")[2]
    return int(step) if step.isdecimal() else 0


def _compared(task: str, metric: str, items: int, found: Sequence[Found]) -> Compared:
    better = found[0][2]["better"]
    ends = [end for _, _, one in found for end in (*one["estimate"], _mark(one)) if end is not None]
    share = all(one["normalised"] is not None for _, _, one in found)  # then the score is one between 0 and 1
    low, high = (0.0, 1.0) if share else (min(ends), max(ends))
    low, high = (low, high) if high > low else (low - 1, high + 1)

    def place(value: float) -> float:
        return round(100 * (value - low) / (high - low), 2)

    scores = []
    for number, result, one in found:
        value, *bounds = one["estimate"]
        begin, end = (value if bound is None else bound for bound in bounds)
        scores.append(
            Scored(
                run=number,
                checkpoint=f"{result['checkpoint']}, {result['prompt_format']}",
                value=f"{value:.3f} [{begin:.3f}, {end:.3f}]" if None not in bounds else f"{value:.3f}",
                verdict=one["verdict"],
                dot=place(value),
                low=place(begin),
                high=place(end),
                mark=place(_mark(one)),
            )
        )
    return Compared(task, f"{metric} {'↑' if better == 'higher' else '↓'}", items, (low, high), scores)


def _mark(one: dict[str, Any]) -> float:
    best = max if one["better"] == "higher" else min
    found = _baselines(one)
    return found.get("chance", best(found.values()))


def _baselines(one: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in one["baselines"].items() if value is not None}


def table(runs: Sequence[Run]) -> Table:
    """The same for a notebook: a row for each score."""
    rows = [(group, score) for group in evaluations(runs) for score in group.scores]
    return Table(
        {
            "task": [group.task for group, _ in rows],
            "n": [group.items for group, _ in rows],
            "metric": [group.metric for group, _ in rows],
            "checkpoint": [score.checkpoint for _, score in rows],
            "score [95 %]": [score.value for _, score in rows],
            "verdict": [score.verdict for _, score in rows],
        }
    )
