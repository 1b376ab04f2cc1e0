"""What a run shows and keeps: a progress line, `metrics.jsonl`, and side channels that cannot disturb it."""

import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from research.config import Logging
from research.runs import clock, records, side_channels
from research.runs.clock import Clock

PLAIN_SECONDS = 10  # between lines where the output is not a terminal
ASIDE = ("time", "step", "final")  # numbers of a record that are no measure


class Log:
    """A context manager; records are dictionaries with a "kind" and a "step", as in `records`.

    On resuming at `start`, records that will be made again are dropped. With `keeps` False, as in all processes of a
    run but one, nothing is kept.
    """

    def __init__(
        self, folder: Path, config: Logging, start: int, steps: int, console: Console, clock: Clock, keeps: bool = True
    ) -> None:
        self.console, self.steps, self.clock = console, steps, clock
        self.file = records.RecordFile(folder / records.FILE, start, self.print) if keeps else None
        self.channels = side_channels.open_channels(folder, config, start, self.print) if keeps else []
        columns = (TextColumn("{task.fields[line]}", markup=False), BarColumn(None), TimeRemainingColumn(compact=True))
        self.progress = Progress(*columns, console=console, expand=True, disable=not console.is_terminal)
        self.task = self.progress.add_task("", total=steps, completed=start, line="compiling the step …")
        self.begin, self.start, self.last_line = time.monotonic(), start, 0.0

    def __enter__(self) -> "Log":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
        if self.file:
            self.file.close()
        for channel in self.channels:
            channel.close()

    def print(self, text: str) -> None:
        """A line above the progress line."""
        self.console.print(Text(text), soft_wrap=True)

    def record(self, record: dict[str, Any]) -> None:
        """Keeps a record everywhere, with the time and what it was spent on until now, and shows it."""
        spent = self.clock.now()
        record = record | {"time": time.time(), "goodput": clock.share(spent), "spent": spent}
        if self.file:
            self.file.write(record)
        flat = {f"{record['kind']}/{name}": value for name, value in _numbers(record) if name not in ASIDE}
        for channel in self.channels:
            channel.write(record["step"], flat)
        if record["kind"] == "train":
            self._show(record)
        elif record["kind"] == "held_out":
            self.print(f"step {record['step']:,}: held-out loss {_losses(record)}")
        elif record["kind"] == "tasks":
            self.print(f"step {record['step']:,}: {_listed(record['scores'])}")

    def store(self) -> None:
        """What was recorded lasts, as it must when a checkpoint is saved."""
        if self.file:
            self.file.store()

    def _show(self, record: dict[str, Any]) -> None:
        step = record["step"]
        speed = f"{record['tokens_per_second']:,.0f} tokens/s, MFU {record['mfu']:.1%}"
        line = f"step {step:,}/{self.steps:,}  loss {_losses(record)}  {speed}"
        self.progress.update(self.task, completed=step, line=line)
        now = time.monotonic()
        if not self.console.is_terminal and (now - self.last_line >= PLAIN_SECONDS or step == self.steps):
            left = (self.steps - step) * (now - self.begin) / max(step - self.start, 1)
            self.print(f"{line}, {left:,.0f} s left")
            self.last_line = now


def _numbers(record: dict[str, Any]) -> list[tuple[str, float]]:
    pairs: list[tuple[str, Any]] = []
    for name, value in record.items():
        pairs += (
            [(f"{name}/{key}", inner) for key, inner in value.items()] if isinstance(value, dict) else [(name, value)]
        )
    return [(name, value) for name, value in pairs if isinstance(value, int | float)]


def _losses(record: dict[str, Any]) -> str:
    return _listed(record["losses"])


def _listed(numbers: dict[str, float]) -> str:
    return "  ".join(f"{name} {number:.3f}" for name, number in numbers.items())
