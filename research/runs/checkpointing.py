"""When a run is saved, and on which conditions."""

import signal
from types import TracebackType

from research.objectives import Batch
from research.runs.meter import Meter
from research.runs.owner import Owner
from research.runs.prepared import Prepared
from research.training import checkpoint
from research.training.state import TrainState


class Checkpointing:
    """A context manager, which waits for the last save; every process of a run opens it."""

    def __init__(self, run: Prepared, owner: Owner | None) -> None:
        """`owner`: the lock of the run folder, in the process that holds it."""
        self.config, self.last, self.owner = run.experiment.checkpoint, run.experiment.schedule.steps, owner
        self.folder, self.manager = run.folder, checkpoint.manager(run.folder, self.config)

    def __enter__(self) -> "Checkpointing":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.manager.close()

    def due(self, done: int) -> bool:
        """Whether the run is saved after so many steps."""
        return done % self.config.every == 0 or done == self.last

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
            progress = {"guard": meter.guard.progress(), "meter": meter.progress()}
            checkpoint.save(self.manager, state, loss, progress)

    def stop(self, reason: signal.Signals, meter: Meter, done: int) -> None:
        """Ends the process, whose run is saved. Raises SystemExit."""
        with meter.log.clock.on("saving"):
            self.manager.wait_until_finished()
        meter.log.print(f"{reason.name}: saved at step {done:,}; rerun the same command to resume")
        raise SystemExit(128 + reason)
