"""What a benchmark shows and keeps: a table with a column for each side, and JSON with every number of every turn."""

import json
import os
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from research.benchmarks import pairs
from research.benchmarks.pairs import Side


def flops(side: Side) -> float:
    """Of a second, of the model alone."""
    return pairs.median(side, "rate") / side.facts["tokens"] * side.facts["flops"]


def show(console: Console, sides: list[Side], rows: list[tuple[str, list[str]]], out: Path | None) -> None:
    """Prints the rows below the names of the sides, and writes everything to `out`."""
    table = Table("", title=_machine(), title_justify="left")
    for side in sides:
        table.add_column(Text(side.name))
    for heading, cells in rows:
        table.add_row(heading, *cells)
    console.print(table)
    result: dict[str, Any] = {"machine": _machine(), "sides": {s.name: {**s.facts, "turns": s.turns} for s in sides}}
    if len(sides) == 2 and sides[0].turns and sides[0].name == "ours":
        ratio = pairs.ratio(*sides)
        console.print(Text(f"ours over {sides[1].name}: {ratio}"))
        result["ratio"] = asdict(ratio)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _machine() -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in ("jax", "flax"))
    python, processor = platform.python_version(), platform.processor() or platform.machine()
    return f"{os.cpu_count()} x {processor}, Python {python}, {versions}"
