"""From the metrics of steps to the records of a run, and the guard against a loss that is not finite."""

import time
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
import optax

from research.config import Experiment
from research.data import Corpus
from research.errors import InputError
from research.objectives import Batch
from research.training import flops
from research.runs.log import Log
from research.training.step import Metrics


class Diverged(InputError):
    """The loss is not finite."""


class Meter:
    """Sums what steps report, and records it every `logging.every` steps.

    Speed is that of the steps alone: `pause` leaves out what is done between them, and compiling is not counted.
    """

    def __init__(self, experiment: Experiment, corpus: Corpus, schedule: optax.Schedule, log: Log) -> None:
        self.experiment, self.corpus, self.schedule, self.log = experiment, corpus, schedule, log
        self.names = [objective.name for objective in experiment.objectives]
        rows = experiment.data.batch
        self.tokens = rows * experiment.data.length
        self.utilisation = rows * flops.train_flops(experiment.model, experiment.data)
        self.utilisation /= flops.peak_flops()
        self._reset()
        self.timed_from: float | None = None

    def _reset(self) -> None:
        self.losses, self.weights = np.zeros(len(self.names)), np.zeros(len(self.names))
        self.steps, self.timed_steps, self.seconds, self.waited = 0, 0, 0.0, 0.0

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

    def read(self, number: int, metrics: Metrics) -> None:
        """Fetches the metrics of step `number` (from 0). Raises Diverged if the loss or the gradient is not finite."""
        metrics = jax.device_get(metrics)
        if not np.isfinite(metrics.loss) or not np.isfinite(metrics.gradient_norm):
            raise Diverged(self._report(number, metrics))
        now = time.monotonic()
        if self.timed_from is not None:
            self.seconds += now - self.timed_from
            self.timed_steps += 1
        self.timed_from = now
        objective = self.corpus.objective_of_rows(number)
        self.losses += np.bincount(objective, metrics.rows.losses, len(self.names))
        self.weights += np.bincount(objective, metrics.rows.weights, len(self.names))
        self.steps += 1
        if (number + 1) % self.experiment.logging.every == 0 or number + 1 == self.experiment.schedule.steps:
            self.log.record(self._record(number, metrics))
            self._reset()

    def pause(self) -> None:
        """The time until the next step is read is not its own."""
        self.timed_from = None

    def _record(self, number: int, metrics: Metrics) -> dict[str, Any]:
        speed = self.timed_steps / self.seconds if self.seconds else 0.0  # steps per second
        means = self.losses / np.where(self.weights > 0, self.weights, 1)
        return {
            "kind": "train",
            "step": number + 1,
            "loss": float(self.losses.sum() / max(self.weights.sum(), 1e-9)),
            "losses": {n: float(mean) for n, mean, w in zip(self.names, means, self.weights, strict=True) if w > 0},
            "gradient_norm": float(metrics.gradient_norm),
            "parameter_norm": float(metrics.parameter_norm),
            "learning_rate": float(self.schedule(number)),
            "tokens_per_second": speed * self.tokens,
            "mfu": speed * self.utilisation,
            "waiting": min(self.waited / self.seconds, 1.0) if self.seconds else 0.0,  # share of the time
        }

    def _report(self, number: int, metrics: Metrics) -> str:
        bad = np.flatnonzero(~np.isfinite(metrics.rows.losses))
        rows = self.corpus.documents(number)
        shown = "\n".join(f"  row {row}: {rows[row]}" for row in bad[:8])
        return (
            f"step {number + 1}: the loss is {metrics.loss} and the norm of its gradient {metrics.gradient_norm}; "
            f"{len(bad)} of {len(rows)} rows have a loss that is not finite. The last checkpoint is kept. "
            f"Try a lower learning rate or look at the documents of this batch:\n{shown or '  all losses are finite'}"
        )
