"""TensorBoard and Weights & Biases: each is fed from a thread of its own, so that neither can block or end training."""

import importlib.util
import itertools
import json
import netrc
import os
import platform
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlparse

from research import config
from research.data.crc32c import masked_crc32c
from research.errors import InputError, install
from research.runs import records

KEPT = 10_000  # records that wait for a channel at most; the oldest give way
RETRY = 5.0  # seconds
PATIENCE = 10.0  # seconds that the end of a run waits for a channel


class Sink(Protocol):
    """Where numbers go; any method may raise anything."""

    def write(self, step: int, numbers: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class Channel:
    """Hands numbers to a sink, which is opened again after it has failed."""

    def __init__(self, name: str, open: Callable[[], Sink], say: Callable[[str], None]) -> None:
        self.name, self.open, self.say = name, open, say
        self.waiting: deque[tuple[int, dict[str, float]]] = deque(maxlen=KEPT)
        self.news, self.closing = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def write(self, step: int, numbers: dict[str, float]) -> None:
        """Never waits."""
        self.waiting.append((step, numbers))
        self.news.set()

    def close(self) -> None:
        """Waits PATIENCE seconds for what is not yet written."""
        self.closing.set()
        self.news.set()
        self.thread.join(PATIENCE)
        if self.waiting:
            self.say(f"{self.name}: {len(self.waiting):,} records could not be written")

    def _work(self) -> None:
        sink: Sink | None = None
        failed = False
        while True:
            self.news.wait()
            self.news.clear()
            while self.waiting:
                item = self.waiting[0]
                try:
                    sink = sink or self.open()
                    sink.write(*item)
                except Exception as error:
                    if not failed:
                        self.say(f"{self.name} failed and is tried again later: {type(error).__name__}: {error}")
                    failed = True
                    _close(sink)
                    sink = None
                    if self.closing.wait(RETRY):
                        return
                    continue
                if failed:
                    self.say(f"{self.name} goes on")
                    failed = False
                with suppress(IndexError):
                    if self.waiting[0] is item:
                        self.waiting.popleft()
            if self.closing.is_set():
                _close(sink)
                return


def _close(sink: Sink | None) -> None:
    if sink is not None:
        with suppress(Exception):
            sink.close()


def open_channels(folder: Path, logging: config.Logging, start: int, say: Callable[[str], None]) -> list[Channel]:
    """Those that the experiment asks for, of a run that begins at step `start`."""
    channels = []
    if logging.tensorboard:
        numbers = itertools.count()
        channels.append(Channel("TensorBoard", lambda: TensorBoard(folder, start, next(numbers)), say))
    if logging.wandb is not None:
        project = logging.wandb
        channels.append(Channel("Weights & Biases", lambda: WeightsAndBiases(folder, project), say))
    return channels


class TensorBoard:
    """An event file, closed every `records.STORED` seconds, since a mounted bucket has what is in closed files. (The
    writer of tensorboardX would begin another file each time, and has a queue that blocks for ever once its thread has
    died.)"""

    def __init__(self, folder: Path, start: int, number: int) -> None:
        from tensorboardX.proto import event_pb2

        self.event = event_pb2.Event
        (folder / "tensorboard").mkdir(exist_ok=True)
        name = f"events.out.tfevents.{time.time():.0f}.{platform.node()}.{os.getpid()}.{number}"
        self.path = folder / "tensorboard" / name
        self.file, self.opened = self.path.open("ab"), time.monotonic()
        self._append(self.event(wall_time=time.time(), file_version="brain.Event:2"))
        if number == 0:  # what was shown of later steps gives way to what will be
            session = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._append(self.event(wall_time=time.time(), step=start + 1, session_log=session))

    def write(self, step: int, numbers: dict[str, float]) -> None:
        event = self.event(step=step, wall_time=time.time())
        for name, value in numbers.items():
            event.summary.value.add(tag=name, simple_value=value)
        self._append(event)

    def close(self) -> None:
        self.file.close()

    def _append(self, event: Any) -> None:
        """A record as TFRecord has it."""
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        checksums = [struct.pack("<I", masked_crc32c(part)) for part in (length, data)]
        if time.monotonic() - self.opened > records.STORED:
            self.file.close()
            self.file, self.opened = self.path.open("ab"), time.monotonic()
        self.file.write(length + checksums[0] + data + checksums[1])
        self.file.flush()


class WeightsAndBiases:
    """The run in a project, by the identity that its folder has, with its resolved experiment."""

    def __init__(self, folder: Path, project: str) -> None:
        import wandb

        stored = json.loads((folder / "experiment.json").read_text(encoding="utf-8"))
        self.run: Any = wandb.init(
            project=project,
            name=folder.name,
            id=stored.get("run") or folder.name,  # the name alone may be that of another run of the project
            config=stored["experiment"],
            dir=str(folder),
            resume="allow",
        )

    def write(self, step: int, numbers: dict[str, float]) -> None:
        self.run.log(numbers, step=step)

    def close(self) -> None:
        self.run.finish()


def check(logging: config.Logging) -> None:
    """Raises InputError if Weights & Biases is asked for, but is not installed or nobody is logged in."""
    if logging.wandb is None:
        return
    if importlib.util.find_spec("wandb") is None:
        raise InputError(f"logging.wandb needs the package wandb: {install('wandb')}")
    if os.environ.get("WANDB_MODE", "online") != "online" or os.environ.get("WANDB_API_KEY"):
        return
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    with suppress(OSError, netrc.NetrcParseError):
        if netrc.netrc().authenticators(host):
            return
    raise InputError("logging.wandb: nobody is logged in; run `wandb login`, set WANDB_API_KEY, or WANDB_MODE=offline")
