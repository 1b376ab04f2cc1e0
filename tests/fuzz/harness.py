"""Runs a reader on mutated inputs in a forked process, with a bound on its memory and on the time of each input.

Allowed is a value, or InputError; everything else is a failure, as is a process that dies or does not come back. A
process tries many inputs, for it imports the reader first, which takes seconds; inputs are made in memory where there
is a file system for that.
"""

import hashlib
import os
import random
import resource
import select
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from research.errors import InputError
from tests.fuzz.mutations import mutate
from tests.fuzz.readers import READERS, Reader

BATCH = 10_000  # inputs of one process, at most
IMPORTING = 120  # seconds that a process may take before its first input, on a busy machine
FULL = b"\0"  # of a process that has kept much of many inputs, which must not count as the memory of one
MEMORY = Path("/dev/shm")  # files that are no disk's


@dataclass(frozen=True)
class Failure:
    """An input with another outcome than those that are allowed."""

    reader: str
    seed: str  # of its mutation: the same one makes the same input
    outcome: str  # the exception and where it was raised, or how the process ended


def inputs(name: str, first: int, stop: int, seed: int, deadline: float) -> Iterator[tuple[int, list[Failure]]]:
    """Tries the inputs numbered from `first` to `stop - 1`, batch by batch, until the deadline (`time.monotonic()`).
    Gives how many inputs of a batch were tried, and the failures among them."""
    reader = READERS[name]
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as parent:
        valid = Path(parent) / "valid"
        valid.mkdir()
        _forked(lambda: reader.make(valid))
        while first < stop and time.monotonic() < deadline:
            last = min(first + BATCH, stop)
            done, failures = _batch(name, valid, Path(parent) / "input", first, last, seed, deadline)
            yield done, failures
            first += done


def _forked(work: Callable[[], None]) -> None:
    """Does some work in a process of its own, so that no threads are there when others are forked."""
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # progress of what makes a dataset
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    if os.waitpid(child, 0)[1]:
        raise RuntimeError("the valid input could not be made")


def outcome(reader: Reader, folder: Path) -> str:
    """What reading comes to: "" if that is allowed."""
    try:
        reader.read(folder)
    except InputError:
        return ""
    except BaseException as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/research/" in frame.filename]
        place = f" {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
        return f"{type(error).__module__}.{type(error).__name__}{place}: {str(error)[:100]}"
    return ""


def _batch(
    name: str, valid: Path, folder: Path, first: int, last: int, seed: int, until: float
) -> tuple[int, list[Failure]]:
    """How many inputs were tried until then, and the failures among them. A process that ends takes the rest with
    it."""
    reader = READERS[name]
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _child(name, reader, valid, folder, range(first, last), seed, writing)
    os.close(writing)
    failures: list[Failure] = []
    number, buffer, ended = first, b"", ""
    deadline = time.monotonic() + reader.seconds + IMPORTING
    while number < last and not ended and (number == first or time.monotonic() < until):
        if not select.select([reading], [], [], max(deadline - time.monotonic(), 0))[0]:
            ended = f"takes more than {reader.seconds:g} seconds"
            break
        received = os.read(reading, 1 << 16)
        ended = "" if received else "the process has ended"
        *lines, buffer = (buffer + received).split(b"\n")
        for line in lines:
            if line == FULL:
                last = number
                break
            if line:
                failures.append(Failure(name, key(name, number, seed), line.decode(errors="replace")))
            number += 1
            deadline = time.monotonic() + reader.seconds
    os.close(reading)
    if ended != "the process has ended":
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if ended and number < last:
        how = f" with {os.waitstatus_to_exitcode(status)}" if ended == "the process has ended" else ""
        failures.append(Failure(name, key(name, number, seed), ended + how))
        number += 1
    shutil.rmtree(folder, ignore_errors=True)
    return number - first, failures


def key(name: str, number: int, seed: int) -> str:
    return f"{name}/{seed}/{number}"


def make_input(valid: Path, folder: Path, seed: str) -> None:
    """The mutated input of a seed."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(valid, folder)
    mutate(folder, random.Random(hashlib.sha256(seed.encode()).digest()))


def _child(name: str, reader: Reader, valid: Path, folder: Path, numbers: range, seed: int, writing: int) -> None:
    """Tries inputs and writes a line for each: empty, or what went wrong. Does not return."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    try:
        reader.read(valid)  # imports, and whatever is kept
        start = _address_space()
        resource.setrlimit(resource.RLIMIT_AS, (start + reader.memory, start + reader.memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for number in numbers:
            make_input(valid, folder, key(name, number, seed))
            line = outcome(reader, folder).replace("\n", " ")
            os.write(writing, line.encode(errors="replace") + b"\n")
            if number % 256 == 255 and _address_space() > start + reader.memory // 2:
                os.write(writing, FULL + b"\n")
                break
    except BaseException as error:
        os.write(writing, f"the valid input fails: {error}\n".encode(errors="replace"))
    finally:
        os._exit(0)


def _address_space() -> int:
    """Bytes of this process."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
