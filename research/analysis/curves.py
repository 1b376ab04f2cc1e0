"""What a run recorded, as the curves of a page."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from research.analysis.runs import Run

POINTS = 1000  # of a curve, at most
# field of a "train" record -> title, and the factor that makes its values readable
MEASURES = {
    "gradient_norm": ("gradient norm", 1),
    "learning_rate": ("learning rate", 1),
    "parameter_norm": ("parameter norm", 1),
    "tokens_per_second": ("tokens per second", 1),
    "mfu": ("model FLOPs utilisation, %", 100),
    "skipped": ("skipped steps", 1),
    "waiting": ("time waiting for data, %", 100),
}


@dataclass(frozen=True)
class Curve:
    """Values over steps."""

    run: int  # the index of its run
    label: str
    style: str  # train | held_out | baseline
    steps: list[int]
    values: list[float]


@dataclass(frozen=True)
class Chart:
    """Curves of one quantity."""

    title: str
    curves: list[Curve]


def charts(runs: Sequence[Run]) -> list[Chart]:
    """A chart for the loss of each objective, for the score of each task that was asked meanwhile, and for every other
    measure; those without a curve are left out."""
    objectives = dict.fromkeys(objective.name for run in runs for objective in run.experiment.objectives)
    found = [Chart(f"{name}: loss, nats per target", _losses(runs, name)) for name in objectives]
    asked = dict.fromkeys(task for run in runs for record in run.of_kind("tasks") for task in record["scores"])
    for task in asked:
        points = [[record["scores"] | {"step": record["step"]} for record in run.of_kind("tasks")] for run in runs]
        curves = [
            _curve(number, _label(runs, number, ""), "held_out", _points(points[number], task))
            for number in range(len(runs))
        ]
        found.append(Chart(f"score on {task}", curves))
    for field, (title, factor) in MEASURES.items():
        curves = [
            _curve(number, _label(runs, number, ""), "train", _points(run.of_kind("train"), field), factor)
            for number, run in enumerate(runs)
        ]
        found.append(Chart(title, curves))
    shown = (Chart(chart.title, [curve for curve in chart.curves if curve.steps]) for chart in found)
    return [chart for chart in shown if chart.curves]


def hours(run: Run) -> tuple[list[int], list[float]]:
    """Steps, and the hours since the first start that had passed after each, downtime included."""
    passed = [
        (record["step"], sum(record["spent"].values()) / 3600) for record in run.of_kind("train") if "spent" in record
    ]
    curve = _curve(0, "", "", [(0, 0.0), *passed])
    return curve.steps, curve.values


def _losses(runs: Sequence[Run], objective: str) -> list[Curve]:
    curves = []
    for number, run in enumerate(runs):
        for kind, label in (("train", "training"), ("held_out", "held-out")):
            points = _points([record["losses"] | {"step": record["step"]} for record in run.of_kind(kind)], objective)
            curves.append(_curve(number, _label(runs, number, label), kind, points))
        if len(runs) == 1 and run.result is not None and objective in run.result["objectives"]:
            unigram = run.result["objectives"][objective]["unigram"]
            points = [] if unigram is None else [(0, unigram), (run.step, unigram)]
            curves.append(_curve(number, "unigram", "baseline", points))
    return curves


def _points(records: Iterable[dict[str, Any]], field: str) -> list[tuple[int, float]]:
    return [(record["step"], record[field]) for record in records if field in record]


def _label(runs: Sequence[Run], number: int, what: str) -> str:
    return f"{runs[number].name} {what}".strip() if len(runs) > 1 or not what else what


def _curve(run: int, label: str, style: str, points: Sequence[tuple[int, float]], factor: float = 1) -> Curve:
    steps, values = np.array(points, float).reshape(-1, 2).T
    finite = np.isfinite(values)
    kept = thin(values[finite])
    shown = [float(f"{value * factor:.5g}") for value in values[finite][kept]]
    return Curve(run, label, style, steps[finite][kept].astype(int).tolist(), shown)


def thin(values: np.ndarray, most: int = POINTS) -> np.ndarray:
    """The indices of at most `most` values: of equal parts the smallest and the largest, so that no spike is lost."""
    if len(values) <= most:
        return np.arange(len(values))
    parts = np.array_split(np.arange(len(values)), most // 2)
    return np.unique([part[extreme(values[part])] for part in parts for extreme in (np.argmin, np.argmax)])
