"""Results for people (tables) and for programs (JSON, one row an example)."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from research.data.json_forms import fields, read_json, sequence
from research.evaluation.comparison import Comparison
from research.evaluation.suite import Measured, Result
from research.inference.requests import Outcome, Score

RESULT = ("checkpoint", "task", "manner", "shots", "items")  # what makes a result the same one again
COMPARISON = ("first", "other", "task", "metric", "shots", "items")


def tables(results: Sequence[Result]) -> RenderableType:
    """One table for each checkpoint and prompt format; scores of different kinds are never in one table."""
    subjects = dict.fromkeys((result.checkpoint, result.manner, result.kind) for result in results)
    return Group(*(_table(*one, [r for r in results if (r.checkpoint, r.manner, r.kind) == one]) for one in subjects))


def _table(checkpoint: str, manner: str, kind: str, results: Sequence[Result]) -> Table:
    table = Table(title=f"{checkpoint}, {manner} prompt format: {kind} scores", title_justify="left")
    table.add_column("task", overflow="fold")
    table.add_column("n", justify="right")
    table.add_column("metric", overflow="fold")
    for heading in ("score [95 %]", "chance", "above chance"):
        table.add_column(heading, justify="right", overflow="fold")
    table.add_column("best baseline")
    table.add_column("verdict")
    for result in results:
        documents = "" if result.documents == result.items else f" in {result.documents}"
        shown = [result.label, f"{result.items}{documents}"]
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


def comparisons(found: Sequence[Comparison]) -> RenderableType:
    """A table for each pair of checkpoints."""
    pairs = dict.fromkeys((one.first, one.other, one.kind) for one in found)
    return Group(*(_differences(*pair, [c for c in found if (c.first, c.other, c.kind) == pair]) for pair in pairs))


def _differences(first: str, other: str, kind: str, found: Sequence[Comparison]) -> Table:
    table = Table(title=f"{other} minus {first}, paired: {kind} scores", title_justify="left")
    for heading in ("task", "metric", "difference [95 %]", "verdict"):
        table.add_column(heading)
    for one in found:
        value, low, high = one.difference
        table.add_row(one.task, one.metric, f"{value:+.4f} [{low:+.4f}, {high:+.4f}]", one.verdict)
    return table


def write_results(folder: Path, results: Sequence[Result], found: Sequence[Comparison]) -> None:
    """`results.json` and `comparisons.json`, merged with the results of earlier evaluations."""
    _merge(folder / "results.json", [result.to_json() for result in results], RESULT)
    if found:
        _merge(folder / "comparisons.json", [one.to_json() for one in found], COMPARISON)


def _merge(path: Path, new: Sequence[dict[str, Any]], identity: Sequence[str]) -> None:
    def key(entry: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(entry[name] for name in identity)

    old = read_json(path, sequence(fields(dict.fromkeys(identity, _name)))) or []
    replaced = set(map(key, new))
    merged = [entry for entry in old if key(entry) not in replaced] + list(new)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(merged, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(path)


def _name(value: Any) -> str:
    return "" if isinstance(value, str | int) else " is neither text nor a number"


def write_rows(folder: Path, result: Result, outcomes: Sequence[Outcome]) -> None:
    """One line for each item, in `rows/CHECKPOINT/FORMAT/TASK.jsonl`: the question, the right answer, and the model's
    scores or output."""
    path = folder / "rows" / result.checkpoint / result.manner / f"{result.label}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for number, outcome in enumerate(outcomes):
            file.write(json.dumps({"item": number, **_row(outcome)}, ensure_ascii=False) + "\n")


def _row(outcome: Outcome) -> dict[str, Any]:
    item = outcome.item
    if item.generation is not None:
        asked = {"document": item.document, "context": item.generation.context, "references": item.references}
        return {**asked, "output": outcome.output, **(_facts(outcome.scores[0]) if outcome.scores else {})}
    options = [
        {**request._asdict(), **_facts(score)} for request, score in zip(item.options, outcome.scores, strict=True)
    ]
    neutral = [score.log_probability for score in outcome.neutral]
    return {
        "document": item.document,
        "gold": item.gold,
        "options": options,
        **({"neutral": neutral} if neutral else {}),
    }


def _facts(score: Score) -> dict[str, Any]:
    return {
        "log_probability": score.log_probability,
        "tokens": len(score.log_probabilities),
        "bytes": score.bytes,
        "greedy": score.greedy,
        "truncated": score.truncated,
    }
