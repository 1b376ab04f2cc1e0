"""From the metrics of steps to the records of a run."""

import time
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from research.objectives import Batch
from research.runs.guard import Guard
from research.runs.log import Log
from research.runs.prepared import Prepared
from research.training import flops
from research.training.guarded_step import Guarded
from research.training.step import Metrics


class Meter:
    """Sums what steps report, and records it every `logging.every` steps.

    Speed is that of the steps alone: `pause` leaves out what is done between them, and compiling is not counted.
    """

    def __init__(self, run: Prepared, guard: Guard, log: Log, progress: dict[str, Any]) -> None:
        """`progress`: from `progress` of an earlier start, or {}."""
        self.experiment, self.corpus, self.schedule = run.experiment, run.corpus, run.compiled.schedule
        self.guard, self.log = guard, log
        experiment = run.experiment
        self.names = [objective.name for objective in experiment.objectives]
        rows = experiment.data.batch
        self.tokens = rows * experiment.data.length
        self.utilisation = rows * flops.train_flops(experiment.model, experiment.data)
        self.utilisation /= flops.peak_flops()
        self.pending: tuple[int, Guarded | Metrics] | None = None
        self.timed_from: float | None = None
        self._reset(progress)

    def _reset(self, progress: dict[str, Any]) -> None:
        nothing = [0.0] * len(self.names)
        self.losses: np.ndarray = np.array(progress.get("losses", nothing))
        self.weights: np.ndarray = np.array(progress.get("weights", nothing))
        self.skipped: int = progress.get("skipped", 0)
        self.timed_steps, self.seconds, self.waited = 0, 0.0, 0.0

    def progress(self) -> dict[str, Any]:
        """What a checkpoint keeps, so that a resumed run has the records of an uninterrupted one."""
        return {"losses": self.losses.tolist(), "weights": self.weights.tolist(), "skipped": self.skipped}

    def waiting(self, batches: Iterable[tuple[int, Batch]]) -> Iterator[tuple[int, Batch]]:
        """The same batches; the time until each is there counts as waiting for data."""
        iterator = iter(batches)
        while True:
            begin = time.monotonic()
            with self.log.clock.on("waiting"):
                item = next(iterator, None)
            self.waited += time.monotonic() - begin
            if item is None:
                return
            yield item

    def note(self, number: int, report: Guarded | Metrics) -> None:
        """What step `number` (from 0) will report. It is read only when the next step is under way, so that the device
        never waits. Raises Diverged if the step before it was bad."""
        before, self.pending = self.pending, (number, report)
        if before:
            self._read(*before)

    def catch_up(self) -> None:
        """Reads the report of the last step. Raises Diverged if that was bad."""
        if self.pending:
            self._read(*self.pending)
        self.pending = None

    def pause(self) -> None:
        """The time until the next step is read is not its own."""
        self.timed_from = None

    def _read(self, number: int, report: Guarded | Metrics) -> None:
        metrics = self.guard.judge(number, jax.device_get(report))
        now = time.monotonic()
        if self.timed_from is not None:
            self.seconds += now - self.timed_from
            self.timed_steps += 1
        self.timed_from = now
        if metrics is None:
            self.skipped += 1
            self.log.print(f"step {number + 1:,} is skipped: its loss, gradient or update is not finite or too large")
        else:
            objective = self.corpus.objective_of_rows(number)
            self.losses += np.bincount(objective, metrics.rows.losses, len(self.names))
            self.weights += np.bincount(objective, metrics.rows.weights, len(self.names))
        if (number + 1) % self.experiment.logging.every == 0 or number + 1 == self.experiment.schedule.steps:
            self.log.record(self._record(number, metrics))
            self._reset({})

    def _record(self, number: int, metrics: Metrics | None) -> dict[str, Any]:
        speed = self.timed_steps / self.seconds if self.seconds else 0.0  # steps per second
        means = self.losses / np.where(self.weights > 0, self.weights, 1)
        norms = {} if metrics is None else {"gradient_norm": float(metrics.gradient_norm)}
        norms |= {} if metrics is None else {"parameter_norm": float(metrics.parameter_norm)}
        return {
            "kind": "train",
            "step": number + 1,
            "loss": float(self.losses.sum() / max(self.weights.sum(), 1e-9)),
            "losses": {n: float(mean) for n, mean, w in zip(self.names, means, self.weights, strict=True) if w > 0},
            **norms,
            "learning_rate": float(self.schedule(number)),
            **({"skipped": self.skipped} if self.skipped else {}),
            "tokens_per_second": speed * self.tokens,
            "mfu": speed * self.utilisation,
            "waiting": min(self.waited / self.seconds, 1.0) if self.seconds else 0.0,  # share of the time
        }
