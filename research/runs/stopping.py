"""Being asked to stop: by a signal to this process, or to another process of the same run."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
from jax.experimental import multihost_utils

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def notices() -> Iterator[Callable[[int], signal.Signals | None]]:
    """Within it, SIGTERM and SIGINT no longer end the process. What it gives is to be called after every step with the
    number of steps, by every process of a run; it tells whether to save and stop, the same at the same step to all of
    them, and because of which signal."""
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        received.append(number)

    def forward(number: int, frame: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    def alone(step: int) -> signal.Signals | None:
        return signal.Signals(received[0]) if received else None

    def together(step: int) -> signal.Signals | None:
        return signal.SIGTERM if multihost_utils.reached_preemption_sync_point(step) else None

    several = jax.process_count() > 1  # then JAX itself catches SIGTERM, and lets the processes agree on a step
    handlers = {signal.SIGINT: forward} if several else dict.fromkeys(SIGNALS, note)
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield together if several else alone
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
