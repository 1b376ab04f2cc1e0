"""Results for people (tables) and for programs (JSON, one row an example)."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from research.evaluation import metrics, statistics
from research.evaluation.requests import Outcome
from research.evaluation.suite import Measured, Result
from research.evaluation.tasks import Questions

KINDS = {
    "exact": "exact scores: log-probabilities of texts",
    "pseudo": "pseudo scores of masked models: sums over hidden tokens, comparable only among themselves",
}


def tables(results: Sequence[Result]) -> RenderableType:
    """A table for each kind of score."""
    parts = []
    for kind, title in KINDS.items():
        of_kind = [result for result in results if result.kind == kind]
        if of_kind:
            parts.append(_table(of_kind, title))
    return Group(*parts)


def _table(results: Sequence[Result], title: str) -> Table:
    table = Table(title=f"{title}; [95 % interval]", title_justify="left")
    for heading in ("task", "checkpoint", "asked as", "metric"):
        table.add_column(heading, overflow="fold")
    for heading in ("n", "score", "normalised"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("baselines", overflow="fold")
    table.add_column("verdict", overflow="fold")
    for result in results:
        shown = [
            f"{result.task}, {result.shots} shots" if result.shots else result.task,
            result.checkpoint,
            result.manner,
        ]
        if not result.measured:
            table.add_row(*shown, "", str(result.items), "n/a", "", "", result.note)
        for number, one in enumerate(result.measured):
            cells = shown if number == 0 else ["", "", ""]
            table.add_row(*cells, *_cells(result, one), end_section=number == len(result.measured) - 1)
    return table


def _cells(result: Result, one: Measured) -> list[str]:
    baselines = ", ".join(f"{name} {_number(value)}" for name, value in one.baselines.items())
    truncated = f"; {result.truncated} contexts cut" if result.truncated else ""
    documents = f" ({result.documents} documents)" if result.documents != result.items else ""
    normalised = "" if one.normalised is None else f"{one.normalised:+.3f}"
    interval = f"[{_number(one.estimate.low)}, {_number(one.estimate.high)}]"
    return [
        f"{one.metric} {'↑' if one.better == 'higher' else '↓'}",
        f"{result.items}{documents}",
        f"{_number(one.estimate.value)} {interval}",
        normalised,
        baselines,
        one.verdict + truncated,
    ]


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:.3g}"


def comparison(
    questions: Questions, first: str, other: str, ours: Sequence[Outcome], theirs: Sequence[Outcome]
) -> Table:
    """How two checkpoints differ on the same items, metric by metric."""
    table = Table(title=f"{questions.task.name}: {other} minus {first}, paired", title_justify="left")
    for heading in ("metric", "difference [95 %]", "verdict"):
        table.add_column(heading)
    for name in questions.task.metrics:
        gain = statistics.difference(metrics.sums(name, theirs), metrics.sums(name, ours))
        higher = metrics.METRICS[name].better == "higher"
        better = (gain.low > 0) if higher else (gain.high < 0)
        worse = (gain.high < 0) if higher else (gain.low > 0)
        verdict = f"{other} is better" if better else f"{first} is better" if worse else "no difference shown"
        table.add_row(name, f"{gain.value:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]", verdict)
    return table


def write(folder: Path, results: Sequence[Result]) -> Path:
    """`results.json`, with the results of earlier evaluations that are not among these."""
    path = folder / "results.json"
    old = json.loads(path.read_text()) if path.exists() else []
    new = [result.to_json() for result in results]
    replaced = set(map(_identity, new))
    merged = [entry for entry in old if _identity(entry) not in replaced] + new
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(merged, indent=1) + "\n")
    unfinished.replace(path)
    return path


def _identity(result: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(result[name] for name in ("checkpoint", "task", "manner", "shots", "items"))


def write_rows(path: Path, outcomes: Sequence[Outcome]) -> None:
    """One line for each item: what was asked, what was right, and what the model made of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        for number, outcome in enumerate(outcomes):
            file.write(json.dumps({"item": number, **_row(outcome)}, ensure_ascii=False) + "\n")


def _row(outcome: Outcome) -> dict[str, Any]:
    item = outcome.item
    if item.generation is not None:
        context = item.generation.context
        return {"document": item.document, "context": context, "output": outcome.output, "references": item.references}
    options = [
        {
            **request._asdict(),
            "log_probability": score.log_probability,
            "tokens": len(score.log_probabilities),
            "bytes": score.bytes,
            "greedy": score.greedy,
            "truncated": score.truncated,
        }
        for request, score in zip(item.options, outcome.scores, strict=True)
    ]
    neutral = [score.log_probability for score in outcome.neutral]
    return {
        "document": item.document,
        "gold": item.gold,
        "options": options,
        **({"neutral": neutral} if neutral else {}),
    }
