"""The guard against ruined numbers: what is not finite, or far beyond the last steps, is neither kept nor saved."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from research.errors import InputError
from research.objectives import Batch
from research.runs.prepared import Prepared
from research.training.guarded_step import Guarded
from research.training.state import TrainState
from research.training.step import Metrics

RECENT = 64  # steps whose medians are the measure
ENOUGH = 16  # of them, before there is a bound of norms, which move in the first steps
FLOORS = (1.0, 1.0, 0.0)  # medians of the loss and the norms count at least as much
SHOWN = 8  # rows of a bad batch


class Diverged(InputError):
    """The numbers of a run are ruined; nothing is saved after that."""


class Measured(NamedTuple):
    """What is judged of a step."""

    loss: float
    gradient_norm: float
    norm: float  # of the update where steps can be skipped, else of the parameters before it


class Guard:
    """Takes steps and judges them by the step before the last one, so that the device never waits for the host."""

    def __init__(self, run: Prepared, saved: Callable[[], Sequence[int]], progress: dict[str, Any]) -> None:
        """`saved`: waits for what is being saved, and returns the steps of all checkpoints. `progress`: from `progress`
        of an earlier start, or {}."""
        self.saved, self.policy = saved, run.experiment.bad_steps
        self.compiled, self.corpus = run.compiled, run.corpus
        self.guarded_step = run.compiled.make_guarded_step() if self.policy.policy == "skip" else None
        self.recent: deque[list[Any]] = deque(progress.get("recent", []), RECENT + 1)  # [step, *Measured]
        self.in_a_row: int = progress.get("in_a_row", 0)
        self.skipped: int = progress.get("skipped", 0)  # over the whole run

    def progress(self) -> dict[str, Any]:
        """What a checkpoint keeps, so that a resumed run judges as an uninterrupted one."""
        return {"recent": [list(each) for each in self.recent], "in_a_row": self.in_a_row, "skipped": self.skipped}

    def take(self, number: int, state: TrainState, batch: Batch) -> tuple[TrainState, Guarded | Metrics]:
        """Step `number` (from 0), which is skipped on the device if it is bad and steps can be."""
        if self.guarded_step is None:
            return self.compiled.train_step(state, batch)
        limits = jax.device_put(np.array(self._limits(number), np.float32), self.compiled.layout.replicated)
        return self.guarded_step(state, batch, limits)

    def judge(self, number: int, report: Guarded | Metrics) -> Metrics | None:
        """The metrics of step `number`, on the host; None: it was skipped. Raises Diverged if the run cannot go on."""
        if isinstance(report, Guarded):
            metrics, norm, skipped = report.metrics, report.update_norm, bool(report.skipped)
        else:
            metrics, norm, skipped = report, report.parameter_norm, False
        measured = Measured(float(metrics.loss), float(metrics.gradient_norm), float(norm))
        limits = self._limits(number)
        if skipped:
            self.skipped += 1
            self.in_a_row += 1
            if self.in_a_row > self.policy.in_a_row:
                message = self._message(number, metrics, measured, limits)
                raise Diverged(f"{self.in_a_row} steps in a row had to be skipped; the last one: {message}")
            return None
        if self.guarded_step is None and not _within(measured, limits):
            raise Diverged(self._message(number, metrics, measured, limits))
        self.recent.append([number, *measured])
        self.in_a_row = 0
        return metrics

    def check_own_loss(self, step: int, state: TrainState, batch: Batch) -> None:
        """Raises Diverged if the loss of a state, after `step` steps, is not one with which it may be saved."""
        rows = jax.device_get(self.compiled.eval_step(state.params, batch))
        loss = float(rows.losses.sum(dtype=np.float64) / max(rows.weights.sum(dtype=np.float64), 1e-9))
        limit = self._limits(step + 1)[0]
        if not np.isfinite(loss) or loss > limit:
            raise Diverged(
                f"step {step}: the parameters after it have a loss of {loss:.4g} on the batch of this step (limit "
                f"{limit:.4g}), so they are not saved. {self._advice(step)}"
            )

    def _limits(self, number: int) -> Measured:
        """Of the loss and the norms of step `number`, from steps that the host has seen when it begins."""
        seen = [each[1:] for each in self.recent if each[0] <= number - 2][-RECENT:]
        none = float(np.finfo(np.float32).max)
        if not self.policy.bound or not seen:
            return Measured(none, none, none)
        loss, gradient_norm, norm = self.policy.bound * np.maximum(np.median(seen, axis=0), FLOORS)
        return Measured(loss, gradient_norm, norm) if len(seen) >= ENOUGH else Measured(loss, none, none)

    def _message(self, number: int, metrics: Metrics, measured: Measured, limits: Measured) -> str:
        name = "parameters" if self.guarded_step is None else "update"
        said = (
            f"step {number + 1}: the loss is {measured.loss:.4g}, its gradient's norm {measured.gradient_norm:.4g} "
            f"and that of the {name} {measured.norm:.4g}"
        )
        if np.isfinite(measured).all():
            said += f"; {', '.join(f'{limit:.4g}' for limit in limits)} are the limits"
        rows, bad = self.corpus.documents(number), np.flatnonzero(~np.isfinite(metrics.rows.losses))
        if not len(bad):  # then no document is known to be the cause
            return said + f"; every row of the batch has a finite loss. {self._advice(number + 1)}"
        said += f"; {len(bad)} of {len(rows)} rows have a loss that is not finite"
        return said + f". {self._advice(number + 1)}. The documents of these rows:\n{_listed(rows, bad)}"

    def _advice(self, step: int) -> str:
        before = [each for each in self.saved() if each < step]
        back = f"Go back with --resume-from {max(before)}" if before else "Nothing is saved yet: start again with"
        return (
            f"{back} --bad-steps.policy skip, or try a lower learning rate in another --workdir; --replay {step} shows "
            "the batch once more"
        )


def _within(measured: Sequence[float], limits: Sequence[float]) -> bool:
    return bool(np.isfinite(measured).all() and np.less_equal(measured, limits).all())


def _listed(rows: Sequence[Any], chosen: np.ndarray) -> str:
    more = f"\n  and {len(chosen) - SHOWN} more" if len(chosen) > SHOWN else ""
    return "\n".join(f"  row {row}: {rows[row]}" for row in chosen[:SHOWN]) + more
