"""Bounds on what a file from elsewhere can make this process do: time, memory, and the size of what it unpacks.

A template or a regular expression in a task file is a small program, and a few bytes of gzip can stand for gigabytes.
"""

import bz2
import gzip
import io
import lzma
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from types import FrameType
from typing import Any, BinaryIO, TypeVar

from research.errors import InputError, requires

T = TypeVar("T")

RATIO = 200  # decompressed over compressed bytes; text has 3 to 20, the most repetitive logs about 100
ALWAYS = 1 << 24  # bytes that any compressed file may become


def largest_ratio() -> int:
    """How many times its size a compressed file may become: $RESEARCH_DECOMPRESSION_RATIO, or RATIO.

    Raises:
      InputError: if the variable is no positive integer.
    """
    text = os.environ.get("RESEARCH_DECOMPRESSION_RATIO", str(RATIO))
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"RESEARCH_DECOMPRESSION_RATIO is {text!r}; it must be a positive integer such as {RATIO}")
    return int(text)


class _Overtime(BaseException):
    """Not an Exception: Jinja takes those, where it computes constants, for a sign to compute them later."""


def limited(seconds: float, memory: int, work: Callable[[], T]) -> T:
    """What some work gives within a time limit, and with at most `memory` bytes more than the process has now.

    The time is kept by a signal, so only in the main thread; regular expressions look for signals while they backtrack.
    The memory is kept by the operating system where it has the limit (Linux), for the whole process. (A function and no
    context: the time may be over just when a block is, outside of what the context could catch.)

    Raises:
      TimeoutError: when the time is over.
      MemoryError: where an allocation exceeds the limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    bound = _address_space(int(time.monotonic())) + memory
    narrower = sys.platform == "linux" and (soft == resource.RLIM_INFINITY or bound < soft)
    timed = threading.current_thread() is threading.main_thread()

    def stop(number: int, frame: FrameType | None) -> None:
        raise _Overtime

    before = signal.signal(signal.SIGALRM, stop) if timed else None
    try:
        try:
            if timed:
                signal.setitimer(signal.ITIMER_REAL, seconds)
            if narrower:
                resource.setrlimit(resource.RLIMIT_AS, (bound, hard))
            return work()
        finally:
            if timed:
                signal.setitimer(signal.ITIMER_REAL, 0)
    except _Overtime:
        raise TimeoutError(f"it takes more than {seconds:g} seconds") from None
    finally:
        if timed:
            signal.signal(signal.SIGALRM, before)
        if narrower:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@lru_cache(maxsize=1)
def _address_space(second: int) -> int:
    """Bytes of this process's address space, looked up once a second: expressions may run for every record."""
    if sys.platform != "linux":
        return 0
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def decompressed(file: BinaryIO, name: str, size: int) -> BinaryIO:
    """A file as its suffix says (.gz, .bz2, .xz, .zst; else as it is), read as a stream.

    Args:
      file: the file as it is stored.
      name: its name, for the suffix and for messages.
      size: bytes that are stored.

    Raises:
      InputError: while it is read, if it becomes more than `largest_ratio` times its size.
    """
    stream: Any
    suffix = name.rpartition(".")[2]
    if suffix == "zst":
        with requires("parquet", "a file compressed by zstd"):
            import pyarrow  # takes a moment to import
        stream = pyarrow.CompressedInputStream(file, "zstd")
    elif suffix in ("gz", "bz2", "xz"):
        opened: dict[str, Any] = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open}
        stream = opened[suffix](file)
    else:
        return file
    ratio = largest_ratio()
    return io.BufferedReader(_Bounded(stream, max(ALWAYS, ratio * size), name, ratio), 1 << 16)


class _Bounded(io.RawIOBase):
    """A stream that may have at most `left` bytes."""

    def __init__(self, stream: Any, left: int, name: str, ratio: int) -> None:
        self._stream, self._left, self._name, self._ratio = stream, left, name, ratio

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        self._left -= len(data)
        if self._left < 0:
            raise InputError(
                f"{self._name} becomes more than {self._ratio} times as large when it is decompressed; if that is "
                "right, set RESEARCH_DECOMPRESSION_RATIO to a larger number"
            )
        buffer[: len(data)] = data
        return len(data)
