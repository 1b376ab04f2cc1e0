"""Results for people (tables) and for programs (JSON, one row an example)."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from research.data.json_forms import Form, fields, read_json, sequence
from research.errors import InputError
from research.evaluation.comparison import Comparison
from research.evaluation.items import Outcome
from research.evaluation.suite import Measured, Result
from research.inference.requests import Score
from research.runtime import files

RESULT = ("checkpoint", "task", "prompt_format", "shots", "items")  # what makes a result the same one again
COMPARISON = ("first", "other", "task", "metric", "shots", "items")


def tables(results: Sequence[Result]) -> RenderableType:
    """A table for each checkpoint and prompt format: scores of different kinds are never in one."""
    together: dict[tuple[str, str, str], list[Result]] = {}
    for result in results:
        together.setdefault((result.checkpoint, result.prompt_format, result.kind), []).append(result)
    return Group(*(_table(*title, rows) for title, rows in together.items()))


def _table(checkpoint: str, prompt_format: str, kind: str, results: Sequence[Result]) -> Table:
    title = Text(f"{checkpoint}, {prompt_format} prompt format: {kind} scores", style="table.title")
    table = Table(title=title, title_justify="left")
    table.add_column("task", overflow="fold")
    table.add_column("n", justify="right")
    table.add_column("metric", overflow="fold")
    for heading in ("score [95 %]", "chance", "above chance"):
        table.add_column(heading, justify="right", overflow="fold")
    table.add_column("best baseline")
    table.add_column("verdict")
    for result in results:
        documents = "" if result.documents == result.items else f" in {result.documents}"
        shown: list[str | Text] = [Text(result.label), f"{result.items}{documents}"]
        if not result.measured:
            table.add_row(*shown, "", "n/a", "", "", "", Text(result.note), end_section=True)
        for number, one in enumerate(result.measured):
            cells = _cells(one)
            if number == 0 and result.truncated:
                cells[-1] += f"; {result.truncated} contexts were cut"
            said = map(Text, cells)  # "[nan, nan]" is no markup
            table.add_row(*(shown if number == 0 else ["", ""]), *said, end_section=one is result.measured[-1])
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
    title = Text(f"{other} minus {first}, paired: {kind} scores", style="table.title")
    table = Table(title=title, title_justify="left")
    for heading in ("task", "metric", "difference [95 %]", "verdict"):
        table.add_column(heading)
    for one in found:
        value, low, high = one.difference
        table.add_row(Text(one.task), one.metric, Text(f"{value:+.4f} [{low:+.4f}, {high:+.4f}]"), Text(one.verdict))
    return table


def write_results(folder: Path, results: Sequence[Result], found: Sequence[Comparison]) -> None:
    """`results.json` and `comparisons.json`, merged with the results of earlier evaluations."""
    _merge(folder / "results.json", [result.to_json() for result in results], RESULT)
    if found:
        _merge(folder / "comparisons.json", [one.to_json() for one in found], COMPARISON)


def write_checkpoints(folder: Path, checkpoints: Sequence[dict[str, Any]]) -> None:
    """`checkpoints.json`: what is known of each checkpoint beside its results; those of earlier evaluations stay."""
    path = folder / "checkpoints.json"
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    merged = {one["checkpoint"]: one for one in (*earlier, *checkpoints)}
    files.write_atomically(path, json.dumps(list(merged.values()), indent=1) + "\n")


def read(path: Path, form: Form) -> list[dict[str, Any]]:
    """What `results.json` or `comparisons.json` holds, each entry of a form; nothing, if there is no file.

    Raises:
      InputError: if an entry is of another form.
    """
    entries: list[dict[str, Any]] = read_json(path, sequence(fields({}))) or []
    for entry in entries:
        if "manner" in entry:  # as the field was called in files of older versions
            entry["prompt_format"] = entry.pop("manner")
    if wrong := sequence(form)(entries):
        raise InputError(f"{path}: {wrong.lstrip('.')}")
    return entries


def _merge(path: Path, new: Sequence[dict[str, Any]], identity: Sequence[str]) -> None:
    def key(entry: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(entry[name] for name in identity)

    old = read(path, fields(dict.fromkeys(identity, _name)))
    replaced = set(map(key, new))
    merged = [entry for entry in old if key(entry) not in replaced] + list(new)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(path, json.dumps(merged, indent=1) + "\n")


def _name(value: Any) -> str:
    return "" if isinstance(value, str | int) else " is neither text nor a number"


def write_rows(folder: Path, result: Result, outcomes: Sequence[Outcome]) -> None:
    """One line for each item, in `rows/CHECKPOINT/PROMPT_FORMAT/TASK.jsonl`: what was asked, what was right,
    and what the model made of it."""
    path = folder / "rows" / result.checkpoint / result.prompt_format / f"{result.label}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = enumerate(map(_row, outcomes))
    lines = (json.dumps({"item": number, **row}, ensure_ascii=False) + "\n" for number, row in rows)
    files.write_atomically(path, "".join(lines))


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
