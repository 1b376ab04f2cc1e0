"""The state that a run begins with: that of a checkpoint, or the one before the first step."""

import time
from typing import Any, NamedTuple

from research.runs.checks import Checked
from research.runs.prepared import Prepared
from research.runtime import files, processes
from research.training import checkpoint, state
from research.training.local_checkpoint import LocalCheckpoints
from research.training.state import TrainState


class Start(NamedTuple):
    """Where a run begins."""

    state: TrainState
    progress: dict[str, Any]  # what the run carried on the host when it was saved; {} at the beginning
    saved: str  # when and where that was, in words; empty at the beginning


def start(run: Prepared, checked: Checked) -> Start:
    """Of the newest checkpoint, be it in the run folder or on the hosts' own disks, or of the step that was asked for;
    then later ones are deleted.

    Raises:
      InputError: if the checkpoint is damaged or of another run.
    """
    steps, local = checkpoint.steps(run.folder), local_checkpoints(run)
    newest = steps[-1] if steps else 0
    found = None if local is None or checked.resume_from is not None else local.restore(run.compiled.state, newest)
    if local is not None and found is not None:
        return Start(*found, f", saved {_ago(local.saved_at(int(found[0].step)))} on this host's disk")
    if not steps:
        first = Start(first_state(run, checked), {}, "")
    else:
        step = steps[-1] if checked.resume_from is None else checked.resume_from
        restored = checkpoint.restore(run.folder, run.compiled.state, step)
        saved = f", saved {_ago(checkpoint.saved_at(run.folder, step))}"
        first = Start(restored, checkpoint.read_progress(run.folder, step), saved)
        if checked.resume_from is not None and processes.is_main_process():
            checkpoint.drop_after(run.folder, step)
    if local is not None:  # what is there and later is of another mesh, damaged, or not wanted
        local.drop_after(int(first.state.step))
    processes.wait_for_all("checkpoints")
    return first


def local_checkpoints(run: Prepared) -> LocalCheckpoints | None:
    """The second tier, if there is one."""
    folder, identity = run.experiment.checkpoint.local, checkpoint.identity(run.folder)
    return None if folder is None or identity is None else LocalCheckpoints(files.expanded(folder), identity)


def _ago(then: float) -> str:
    minutes = max(time.time() - then, 0) / 60
    return f"{minutes:.0f} minutes ago" if minutes < 100 else f"{minutes / 60:.0f} hours ago"


def first_state(run: Prepared, checked: Checked) -> TrainState:
    """Before the first step."""
    experiment, compiled = run.experiment, run.compiled
    if checked.source is None:
        return state.create(experiment.model, compiled.optimizer, experiment.seed, compiled.layout, compiled.frozen)
    params = checked.source.params(experiment.model, compiled.layout, experiment.seed)
    return state.begin(params, compiled.optimizer, experiment.seed, compiled.state, compiled.frozen)
