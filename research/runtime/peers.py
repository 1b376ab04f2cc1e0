"""The other processes of a run: each gives signs of life, so that when one is killed or stands still, the rest end and
name it with its host.

The signs are counters in the key-value store of JAX's coordination service, which runs in process 0; if the store
itself does not answer, process 0 is the one that is gone. A process that merely computes, compiles or waits for the
others still gives signs, from a thread. JAX aborts a process, with a stack trace, once it knows by itself that another
one is gone; such an abort waits here for the name.
"""

import atexit
import ctypes
import os
import platform
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import Any

BEAT = 2.0  # seconds between signs of life
SILENT = 20.0  # seconds without one after which a process counts as dead or stalled
PREFIX = "research/peers/"
ENDED = "ended"  # instead of a counter: in order, or "ended: " and why
_watch: "Watch | None" = None


class Watch:
    """Signs of life of this process and of the others."""

    def __init__(self, client: Any, index: int, count: int, end: int) -> None:
        """`client`: of the coordination service. `end`: the exit code with which this process ends if another one
        is gone."""
        self.client, self.index, self.count, self.end = client, index, count, end
        self.names = {number: f"process {number}" for number in range(count)}
        self.signs: dict[int, str] = {}
        self.heard = dict.fromkeys(range(count), time.monotonic())
        self.done, self.saying = threading.Event(), threading.Lock()
        client.key_value_set(f"{PREFIX}name/{index}", f"{platform.node()}, process id {os.getpid()}")
        self.threads = [threading.Thread(target=work, daemon=True) for work in (self._beat, self._look)]
        for thread in self.threads:
            thread.start()

    def meet(self) -> None:
        """Learns where the others are, before anything can happen to them. All have joined, so it takes no time, unless
        one of them has gone since."""
        deadline = time.monotonic() + SILENT
        for number in self.names:
            left = max(int(1000 * (deadline - time.monotonic())), 1)  # milliseconds
            try:
                self._name(number, self.client.blocking_key_value_get(f"{PREFIX}name/{number}", left))
            except Exception:  # it will be known by its number
                continue

    def culprit(self, patience: float = 0.0) -> str | None:
        """Which process is gone, and why if that is known; waits so many seconds until one is."""
        deadline = time.monotonic() + patience
        while True:
            failed = [n for n, sign in self.signs.items() if n != self.index and sign.startswith(f"{ENDED}: ")]
            if failed:
                return f"{self.names[failed[0]]} has ended: {self.signs[failed[0]].removeprefix(f'{ENDED}: ')}"
            now = time.monotonic()
            silent = [
                number
                for number, since in self.heard.items()
                if number != self.index and now - since > SILENT and self.signs.get(number) != ENDED
            ]
            if 0 in silent:  # then the others could not be heard
                silent = [0]
            if silent:
                return f"{self.names[silent[0]]} gave no sign of life for {SILENT:.0f} s: it was killed or stands still"
            if now >= deadline:
                return None
            time.sleep(0.2)

    def leave(self, why: str | None = None) -> None:
        """Tells the others that this process ends, in order (None) or not."""
        if not self.done.is_set():
            self.done.set()
            said = threading.Thread(target=self._say, args=(f"{ENDED}: {why}" if why else ENDED,), daemon=True)
            said.start()
            said.join(BEAT)

    def _name(self, number: int, place: str) -> None:
        self.names[number] = f"process {number} on {place}"

    def _say(self, sign: str) -> None:
        with self.saying:
            if not self.done.is_set() or sign.startswith(ENDED):  # a counter must not follow the end
                with suppress(Exception):  # the store is gone: nobody is left to hear it
                    self.client.key_value_set(f"{PREFIX}sign/{self.index}", sign, allow_overwrite=True)

    def _beat(self) -> None:
        number = 0
        while not self.done.wait(BEAT if number else 0.0):
            number += 1
            try:
                self._say(str(number))
                found = [dict(self.client.key_value_dir_get(f"{PREFIX}{kind}/")) for kind in ("name", "sign")]
            except Exception:  # the store is gone: process 0 is not heard from now on
                continue
            now = time.monotonic()
            for path, place in found[0].items():
                self._name(int(path.rpartition("/")[2]), place)
            for path, sign in found[1].items():
                index = int(path.rpartition("/")[2])
                if self.signs.get(index) != sign:
                    self.signs[index], self.heard[index] = sign, now

    def _look(self) -> None:
        last = time.monotonic()
        while not self.done.wait(BEAT / 2):
            now = time.monotonic()
            if now - last > SILENT / 2:  # it was this process that stood still
                self.heard = dict.fromkeys(self.heard, now)
            last = now
            if found := self.culprit():
                if self.done.wait(2 * BEAT):  # with an error of its own, such as a mistake that all of them find
                    return
                print(f"error: {message(found)}", file=sys.stderr, flush=True)
                self.end_now()

    def end_now(self) -> None:
        """Ends this process, without waiting for the others."""
        if self.index == 0:  # its store is what the others know this from
            time.sleep(2 * BEAT)
        os._exit(self.end)


def watch(end: int) -> None:
    """Begins to give signs of life and to look for those of the others, in a process that is one of several."""
    global _watch
    import jax
    from jax._src import distributed  # there is no public way to the store

    _watch = Watch(distributed.global_state.client, jax.process_index(), jax.process_count(), end)
    atexit.register(_watch.leave)
    ctypes.CDLL(None).signal(int(signal.SIGABRT), _on_abort)
    _watch.meet()


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _on_abort(number: int) -> None:
    """A thread of JAX's calls this when it learns that another process is gone. Python's own signal handlers would wait
    for the main thread, and that waits for the other process."""
    ctypes.CDLL(None).signal(number, 0)  # the default: a second one aborts
    if _watch and (found := _watch.culprit(SILENT + 2 * BEAT)):
        print(f"error: {message(found)}", file=sys.stderr, flush=True)
        _watch.end_now()


def message(culprit: str | None) -> str:
    """What to print when another process is gone."""
    named = culprit or "another process of this run has ended or cannot be reached; its own output says why"
    return f"{named}. Rerun the same command for all of them to resume from the last checkpoint"


def lost() -> str:
    """What to print after an error of communication: the process that is gone is named as soon as it is known."""
    return message(_watch.culprit(SILENT + 2 * BEAT) if _watch else None)


def leave(why: str) -> None:
    """Tells the other processes, if there are any, that this one ends with an error."""
    if _watch:
        _watch.leave(why)


def stay() -> None:
    """In process 0, gives the others time to learn what this one knows, before the store ends with it."""
    if _watch and _watch.index == 0:
        time.sleep(2 * BEAT)
