"""What a run keeps of itself, also where its folder is a mounted bucket."""

import io
import time
from pathlib import Path

from rich.console import Console

from research import config
from research.data.crc32c import masked_crc32c
from research.runs import records
from research.runs.clock import Clock
from research.runs.log import Log
from research.runs.records import FILE, read
from research.runs.side_channels import TensorBoard


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


def test_records_and_events_are_in_a_bucket_a_minute_later(tmp_path, monkeypatch):
    """Both files are closed then; the event file is one that its own reader takes."""
    monkeypatch.setattr(records, "STORED", -1.0)
    original, late = Path.open, lambda self, mode="r", **_: Late(self)
    with monkeypatch.context() as bucket:
        bucket.setattr(Path, "open", lambda self, mode="r", **_: late(self) if mode == "a" else original(self, mode))
        with log(tmp_path) as first:
            record(first, 1)
            assert steps(tmp_path) == [1]
    board = TensorBoard(tmp_path, 0, 0)
    for step in (1, 2):
        board.write(step, {"loss": 0.5 / step})
    board.close()
    (path,) = (tmp_path / "tensorboard").iterdir()
    events, content = [], path.read_bytes()
    while content:
        size = int.from_bytes(content[:8], "little")
        header, data = content[:12], content[12 : 12 + size]
        assert int.from_bytes(header[8:], "little") == masked_crc32c(header[:8])
        assert int.from_bytes(content[12 + size : 16 + size], "little") == masked_crc32c(data)
        events.append(board.event.FromString(data))
        content = content[16 + size :]
    assert events[0].file_version == "brain.Event:2" and events[1].step == 1
    assert [(e.step, e.summary.value[0].simple_value) for e in events[2:]] == [(1, 0.5), (2, 0.25)]
