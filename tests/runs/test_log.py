"""What a run keeps of itself, also where its folder is a mounted bucket."""

import io
import time
from pathlib import Path

from rich.console import Console

from research import config
from research.runs.clock import Clock
from research.runs.log import Log
from research.runs.records import FILE, read


class Late(io.StringIO):
    """A file in a mounted bucket: what is written to it is there when it is closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.name = path, str(path)

    def close(self) -> None:
        if not self.closed:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(self.getvalue())
        super().close()


def log(folder: Path, start: int = 0) -> Log:
    clock, console = Clock(time.monotonic(), read(folder / FILE), start), Console(file=io.StringIO())
    return Log(folder, config.Logging(tensorboard=False), start, 10, console, clock)


def record(to: Log, step: int) -> None:
    to.record({"kind": "held_out", "step": step, "losses": {"causal": 1.0}})


def steps(folder: Path) -> list[int]:
    return [each["step"] for each in read(folder / FILE)]


def test_a_killed_run_has_its_records_up_to_the_last_checkpoint(tmp_path, monkeypatch):
    original = Path.open
    monkeypatch.setattr(Path, "open", lambda self, mode="r", **_: Late(self) if mode == "a" else original(self, mode))
    with log(tmp_path) as first:
        record(first, 1)
        record(first, 2)
        assert steps(tmp_path) == []
        first.store()
        record(first, 3)
        assert steps(tmp_path) == [1, 2]


def test_records_are_there_at_once_and_those_after_the_checkpoint_are_dropped(tmp_path):
    with log(tmp_path) as first:
        for step in (1, 2, 3):
            record(first, step)
        assert steps(tmp_path) == [1, 2, 3]
    with log(tmp_path, start=2) as second:
        record(second, 3)
        assert steps(tmp_path) == [1, 2, 3]
        second.store()
        record(second, 4)
    assert steps(tmp_path) == [1, 2, 3, 4]
