"""The state that a run begins with: that of a checkpoint, or the one before the first step."""

from typing import Any

from research.runs.checks import Checked
from research.runs.prepared import Prepared
from research.runtime import processes
from research.training import checkpoint, state
from research.training.state import TrainState


def start(run: Prepared, checked: Checked) -> tuple[TrainState, dict[str, Any]]:
    """The state, and what the run carried on the host when it was saved; {} at the beginning. Where a step to resume
    from was asked for, later checkpoints are deleted.

    Raises:
      InputError: if the checkpoint is damaged or of another run.
    """
    steps = checkpoint.steps(run.folder)
    if not steps:
        return first_state(run, checked), {}
    step = steps[-1] if checked.resume_from is None else checked.resume_from
    restored = checkpoint.restore(run.folder, run.compiled.state, step)
    progress = checkpoint.read_progress(run.folder, step)
    if checked.resume_from is not None and processes.is_main_process():
        checkpoint.drop_after(run.folder, step)
    processes.wait_for_all("checkpoints")
    return restored, progress


def first_state(run: Prepared, checked: Checked) -> TrainState:
    """Before the first step."""
    experiment, compiled = run.experiment, run.compiled
    if checked.source is None:
        return state.create(experiment.model, compiled.optimizer, experiment.seed, compiled.layout, compiled.frozen)
    params = checked.source.params(experiment.model, compiled.layout, experiment.seed)
    return state.begin(params, compiled.optimizer, experiment.seed, compiled.state, compiled.frozen)
