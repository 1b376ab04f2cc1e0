"""What a run shows and keeps: a progress line, `metrics.jsonl`, TensorBoard events, and Weights & Biases if asked."""

import json
import time
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from research.config import Logging
from research.errors import InputError
from research.runs import clock
from research.runs.clock import Clock
from research.runs.records import read_records

FILE = "metrics.jsonl"
PLAIN_SECONDS = 10  # between lines where the output is not a terminal


class Log:
    """A context manager; records are dictionaries with a "kind" ("train", "held_out", "tasks" or "samples") and a
    "step".

    On resuming at `start`, records of later steps are dropped: those steps will be taken again. With `keeps` False, as
    in all processes of a run but one, nothing is kept.
    """

    def __init__(
        self, folder: Path, config: Logging, start: int, steps: int, console: Console, clock: Clock, keeps: bool = True
    ) -> None:
        self.console, self.steps, self.clock = console, steps, clock
        self.file = _reopened(folder / FILE, start) if keeps else None
        self.tensorboard = _tensorboard(folder, start) if keeps and config.tensorboard else None
        self.wandb = _wandb(folder, config.wandb) if keeps and config.wandb else None
        columns = (TextColumn("{task.fields[line]}"), BarColumn(None), TimeRemainingColumn(compact=True))
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
        if self.tensorboard:
            self.tensorboard.close()
        if self.wandb:
            self.wandb.finish()

    def print(self, text: str) -> None:
        """A line above the progress line."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def record(self, record: dict[str, Any]) -> None:
        """Keeps a record everywhere, with the time and what it was spent on until now, and shows it."""
        spent = self.clock.now()
        record = record | {"time": time.time(), "goodput": clock.share(spent), "spent": spent}
        if self.file:
            self.file.write(json.dumps(record) + "\n")
            self.file.flush()
        flat = {f"{record['kind']}/{name}": value for name, value in _numbers(record) if name not in ("time", "step")}
        if self.tensorboard:
            for name, value in flat.items():
                self.tensorboard.add_scalar(name, value, record["step"])
        if self.wandb:
            self.wandb.log(flat, step=record["step"])
        if record["kind"] == "train":
            self._show(record)
        elif record["kind"] == "held_out":
            self.print(f"step {record['step']:,}: held-out loss {_losses(record)}")
        elif record["kind"] == "tasks":
            self.print(f"step {record['step']:,}: {_listed(record['scores'])}")

    def store(self) -> None:
        """What was recorded lasts, as it must when a checkpoint is saved: a mounted bucket may lose what was written to
        a file that is not yet closed."""
        if self.file:
            self.file.close()
            self.file = _appending(Path(self.file.name))

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


def _reopened(path: Path, start: int) -> TextIO:
    kept = [record for record in read_records(path) if record["step"] <= start]
    path.write_text("".join(json.dumps(record) + "\n" for record in kept))
    return _appending(path)


def _appending(path: Path) -> TextIO:
    return path.open("a")


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


def _tensorboard(folder: Path, start: int) -> Any:
    from tensorboardX import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)


def _wandb(folder: Path, project: str) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise InputError("logging.wandb needs the package wandb: pip install -e '.[wandb]'") from error
    return wandb.init(project=project, name=folder.name, dir=str(folder), resume="allow", id=folder.name)
