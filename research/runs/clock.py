"""Where the time of a run goes, over all its starts: goodput is the share in which it takes steps that last."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

KINDS = (
    "training",  # steps that last
    "starting",  # opening the data, making or restoring the state
    "compiling",  # the first step
    "waiting",  # for data
    "saving",  # as long as steps stand still for it
    "evaluating",  # with probes
    "repeating",  # steps that a restart had to take again
    "down",  # from the last record of one start to the next start
)


class Clock:
    """Seconds by kind. A record of `metrics.jsonl` carries `now()` and the wall time; with those of earlier starts the
    count goes on."""

    def __init__(self, began: float, records: Sequence[dict[str, Any]], start: int) -> None:
        """`began`: `time.monotonic()` of this start, since the wall clock may jump. `records`: all of earlier starts;
        those after step `start` are lost."""
        stamped = [record for record in records if "spent" in record and "time" in record]
        kept = [record for record in stamped if record["step"] <= start]
        self.began, self.before, self.spent = began, dict.fromkeys(KINDS, 0.0), dict.fromkeys(KINDS, 0.0)
        self.running: tuple[str, float] | None = None
        if kept:
            self.before |= kept[-1]["spent"]
        if stamped:
            wall = time.time() - (time.monotonic() - began)
            until = sum(kept[-1]["spent"].values()) if kept else 0.0
            self.before["repeating"] += max(sum(stamped[-1]["spent"].values()) - until, 0.0)
            self.before["down"] += max(wall - stamped[-1]["time"], 0.0)

    @contextmanager
    def on(self, kind: str) -> Iterator[None]:
        """The time within it is of this kind; one at a time."""
        self.running = kind, time.monotonic()
        try:
            yield
        finally:
            self.spent = self._spent()
            self.running = None

    def now(self) -> dict[str, float]:
        """Seconds by kind until now, over all starts."""
        spent = self._spent()
        spent["training"] = max(time.monotonic() - self.began - sum(spent.values()), 0.0)
        return {kind: self.before[kind] + spent[kind] for kind in KINDS}

    def _spent(self) -> dict[str, float]:
        """On all kinds but training, of this start."""
        if self.running is None:
            return dict(self.spent)
        kind, begin = self.running
        return self.spent | {kind: self.spent[kind] + time.monotonic() - begin}


def share(spent: dict[str, float]) -> float:
    """Goodput: of all time, that of steps that last."""
    return spent["training"] / max(sum(spent.values()), 1e-9)
