"""A trace of some steps, for xprof and `jax.profiler.ProfileData`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax

from research.errors import InputError

FOLDER = "profile"
Result = TypeVar("Result")


def steps(text: str | None, last: int) -> range:
    """The steps of "FIRST:LAST", numbered from 1 as they are shown, both included; None: no steps.

    Raises:
      InputError: if that is not what the text says, or the run of `last` steps does not have them.
    """
    if text is None:
        return range(0)
    first, colon, end = text.partition(":")
    if not (first.isdigit() and end.isdigit() and colon and 1 <= int(first) <= int(end) <= last):
        raise InputError(f"--profile {text}: steps are given as FIRST:LAST, as 10:15, between 1 and {last}")
    return range(int(first), int(end) + 1)


class Tracer:
    """A context manager that traces `steps` into the run's folder."""

    def __init__(self, run: Path, steps: range) -> None:
        self.folder, self.steps, self.running = run / FOLDER, steps, False

    def __enter__(self) -> "Tracer":
        return self

    def __exit__(self, *_: object) -> None:
        if self.running:
            jax.profiler.stop_trace()

    def take(self, number: int, step: Callable[..., Result], *arguments: Any) -> Result:
        """`step(*arguments)`, which is step `number`, counted from 1."""
        if number not in self.steps:
            return step(*arguments)
        if not self.running:
            jax.profiler.start_trace(str(self.folder))
            self.running = True
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            result = step(*arguments)
        if number == self.steps[-1]:
            jax.block_until_ready(result)
            jax.profiler.stop_trace()
            self.running = False
        return result
