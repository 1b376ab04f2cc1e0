"""Our code and a peer's in alternation, each in a process of its own, so that both meet the same load of the machine.

A side is made by a function that returns (facts, turn): `facts` is what is known before the first turn, and
`turn(count)` does `count` units of work and returns what it measured. While one side has its turn, the other waits in
a system call.
"""

import multiprocessing
import statistics
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from rich.progress import track

Measured = dict[str, Any]
Made = tuple[Measured, Callable[[int], Measured]]


@dataclass
class Side:
    """One of those that are compared, while its process runs."""

    name: str
    facts: Measured
    connection: Connection
    turns: list[Measured] = field(default_factory=list)

    def take(self, count: int) -> None:
        """Does `count` units of work."""
        self.turns.append(_asked(self.connection, self.name, count))


@contextmanager
def side(name: str, make: Callable[..., Made], *arguments: Any) -> Iterator[Side]:
    """Starts a process in which `make(*arguments)` is called; what it needs must be importable.

    Raises:
      RuntimeError: with the other process' traceback, if it fails; here or in `Side.take`.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, make, arguments), daemon=False)
    process.start()
    there.close()
    try:
        yield Side(name, _asked(here, name, None), here)
    finally:
        here.close()
        process.join(30)
        process.kill()


def in_turn(sides: Sequence[Side], rounds: int, count: int) -> None:
    """`rounds` turns of `count` units for each side; who begins changes from round to round. One round before them, to
    warm up, is not kept."""
    for number in track(range(rounds + 1), f"{' and '.join(side.name for side in sides)}, in turn", transient=True):
        for one in sides if number % 2 else reversed(sides):
            one.take(count)
    for one in sides:
        del one.turns[0]


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as the other, by pairs of turns."""

    median: float
    low: float  # of all pairs
    high: float
    pairs: int

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f}, {self.pairs} pairs)"


def ratio(ours: Side, theirs: Side) -> Ratio:
    """Of the speeds: units per second of ours over theirs, turn by turn."""
    each = [mine["rate"] / other["rate"] for mine, other in zip(ours.turns, theirs.turns, strict=True)]
    return Ratio(statistics.median(each), min(each), max(each), len(each))


def median(side: Side, name: str) -> float:
    """Of one of the numbers that each turn measured."""
    return statistics.median(turn[name] for turn in side.turns)


def _asked(connection: Connection, name: str, count: int | None) -> Measured:
    if count is not None:
        connection.send(count)
    try:
        answer = connection.recv()
    except EOFError as error:
        raise RuntimeError(
            f"{name}: the process ended without an answer; there may have been too little memory"
        ) from error
    if isinstance(answer, str):
        raise RuntimeError(f"{name} failed:\n{answer}")
    return answer


def _serve(connection: Connection, make: Callable[..., Made], arguments: tuple[Any, ...]) -> None:
    try:
        facts, turn = make(*arguments)
        connection.send(facts)
        while True:
            connection.send(turn(connection.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except Exception:
        connection.send(traceback.format_exc())
