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


def tables(results: Sequence[Result]) -> RenderableType:
    """A table for each checkpoint and manner of asking: scores of different kinds are never in one."""
    subjects = dict.fromkeys((result.checkpoint, result.manner, result.kind) for result in results)
    return Group(*(_table(*one, [r for r in results if (r.checkpoint, r.manner, r.kind) == one]) for one in subjects))


def _table(checkpoint: str, manner: str, kind: str, results: Sequence[Result]) -> Table:
    table = Table(title=f"{checkpoint}, asked as {manner}: {kind} scores", title_justify="left")
    table.add_column("task", overflow="fold")
    table.add_column("n", justify="right")
    table.add_column("metric", overflow="fold")
    for heading in ("score [95 %]", "chance", "above chance"):
        table.add_column(heading, justify="right", overflow="fold")
    table.add_column("best baseline")
    table.add_column("verdict")
    for result in results:
        task = f"{result.task}, {result.shots} shots" if result.shots else result.task
        documents = "" if result.documents == result.items else f" in {result.documents}"
        shown = [task, f"{result.items}{documents}"]
        if not result.measured:
            table.add_row(*shown, "", "n/a", "", "", "", result.note, end_section=True)
        for number, one in enumerate(result.measured):
            cells = _cells(one)
            if number == 0 and result.truncated:
                cells[-1] += f"; {result.truncated} contexts were cut"
            table.add_row(*(shown if number == 0 else ["", ""]), *cells, end_section=one is result.measured[-1])
    return table


def _cells(one: Measured) -> list[str]:
    sign = 1 if one.better == "higher" else -1
    others = {name: value for name, value in one.baselines.items() if name != "chance"}
    best = max(others, key=lambda name: sign * others[name])
    return [
        f"{one.metric} {'↑' if sign > 0 else '↓'}",
        f"{_number(one.estimate.value)} [{_number(one.estimate.low)}, {_number(one.estimate.high)}]",
        _number(one.baselines["chance"]) if "chance" in one.baselines else "",
        "" if one.normalised is None else f"{one.normalised:+.3f}",
        f"{best} {_number(others[best])}",
        one.verdict,
    ]


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}"


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
