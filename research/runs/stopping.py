"""Being asked to stop: by a signal to this process, or to another process of the same run.

SIGTERM and SIGINT end a command with the exit codes 143 and 130, without a traceback, at any moment. While steps are
taken, the run is saved first. A second SIGINT ends the process at once, whatever it does.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
from jax.experimental import multihost_utils

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def exits() -> Iterator[None]:
    """Within it, SIGTERM ends the process in order, as SIGINT does, and a second SIGINT at once. Of several processes,
    JAX itself catches SIGTERM."""

    def end(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.getsignal(signal.SIGTERM)
    if jax.process_count() == 1:
        signal.signal(signal.SIGTERM, end)
    try:
        with _second_interrupt():
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _second_interrupt() -> Iterator[None]:
    """Python runs handlers between its own instructions alone, which a compilation delays by minutes; but it notes
    every signal at once in a pipe, which a thread reads here."""
    out, into = os.pipe()
    os.set_blocking(into, False)
    before = signal.set_wakeup_fd(into, warn_on_full_buffer=False)

    def watch() -> None:
        interrupts = 0
        while numbers := os.read(out, 64):
            if 0 in numbers:
                return
            interrupts += numbers.count(signal.SIGINT)
            if interrupts > 1:
                if sys.stderr.isatty():
                    os.write(2, b"\x1b[?25h\n")  # the cursor, which a progress line has hidden
                os._exit(128 + signal.SIGINT)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.write(into, b"\0")
        thread.join()
        os.close(into)
        os.close(out)


@contextmanager
def notices() -> Iterator[Callable[[int], signal.Signals | None]]:
    """Within it, the first SIGTERM or SIGINT does not end the process. What it gives is to be called after every step
    with the number of steps, by every process of a run; it returns whether to save and stop, the same at the same step
    in all of them, and because of which signal."""
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
    if received:  # after the last step, of which the loop was not told any more
        raise SystemExit(128 + received[0])
