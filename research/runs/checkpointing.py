"""When a run is saved, and on which conditions."""

import signal
from contextlib import suppress
from types import TracebackType
from typing import Any

from research.objectives import Batch
from research.runs.intervals import Interval
from research.runs.meter import Meter
from research.runs.owner import Owner
from research.runs.prepared import Prepared
from research.runs.start import local_checkpoints
from research.training import checkpoint
from research.training.state import TrainState


class Checkpointing:
    """A context manager, which waits for the last save; every process of a run opens it."""

    def __init__(self, run: Prepared, owner: Owner | None, first: int) -> None:
        """`owner`: the lock of the run folder, in the process that holds it. `first`: steps that were taken before."""
        self.config, self.last, self.owner = run.experiment.checkpoint, run.experiment.schedule.steps, owner
        self.folder, self.manager = run.folder, checkpoint.manager(run.folder, self.config)
        self.interval = Interval(60 * self.config.minutes, first)
        self.local = local_checkpoints(run)
        self.local_interval = Interval(60 * self.config.local_minutes, first)

    def __enter__(self) -> "Checkpointing":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.manager.close()
        if self.local is not None:
            with suppress(OSError):  # what ends here is saved in the run folder, too
                self.local.wait()

    def due(self, done: int) -> bool:
        """Whether the run is saved after so many steps; every process asks after every step."""
        return done % self.config.every == 0 or done == self.last or self.interval.due(done)

    def due_locally(self, done: int) -> bool:
        """Whether it is saved on the hosts' own disks after so many steps, where it is not saved anyway."""
        return self.local is not None and self.local_interval.due(done)

    def finished(self) -> list[int]:
        """Waits for what is being saved. Returns the steps of all checkpoints."""
        self.manager.wait_until_finished()
        return checkpoint.steps(self.folder)

    def save(self, state: TrainState, batch: Batch, meter: Meter, loss: float | None) -> None:
        """Saves a state with which the run can go on, in the background, after what was recorded before it.

        Args:
          state: after the step of `batch`; its own loss must not be ruined.
          loss: on held-out data, by which the best checkpoint is known.

        Raises:
          Diverged: if the state is ruined.
          InputError: if another process has taken over the run.
        """
        if self.owner:
            self.owner.check()
        with meter.log.clock.on("saving"):
            meter.guard.check_own_loss(int(state.step), state, batch)
            meter.log.store()
            checkpoint.save(self.manager, state, loss, _progress(meter))
        self.interval.reset(int(state.step))
        self.local_interval.reset(int(state.step))

    def save_locally(self, state: TrainState, batch: Batch, meter: Meter) -> None:
        """As `save`, on the hosts' own disks. What cannot be written there is said, and training goes on."""
        assert self.local is not None
        with meter.log.clock.on("saving"):
            meter.guard.check_own_loss(int(state.step), state, batch)
            meter.log.store()
            try:
                self.local.save(state, _progress(meter))
            except OSError as error:
                meter.log.print(f"checkpoint.local: {self.local.folder} could not be written: {error}")
        self.local_interval.reset(int(state.step))

    def stop(self, reason: signal.Signals, meter: Meter, done: int) -> None:
        """Ends the process, whose run is saved. Raises SystemExit."""
        with meter.log.clock.on("saving"):
            self.manager.wait_until_finished()
        meter.log.print(f"{reason.name}: saved at step {done:,}; rerun the same command to resume")
        raise SystemExit(128 + reason)


def _progress(meter: Meter) -> dict[str, Any]:
    """What the run carries on the host."""
    return {"guard": meter.guard.progress(), "meter": meter.progress()}
