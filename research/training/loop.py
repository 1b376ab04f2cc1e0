"""The steps of a run, and what happens between them."""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax

from research import models, objectives
from research.config import Experiment
from research.data import Corpus
from research.objectives import Batch
from research.training import checkpoint, freezing, heldout, optimizer, sharding, state, step
from research.training.log import Log
from research.training.meter import Meter
from research.training.sharding import Layout
from research.training.state import TrainState
from research.training.step import EvalStep, Metrics, TrainStep


@dataclass(frozen=True)
class Programs:
    """What follows from an experiment before there are any arrays. Nothing is compiled until it is called."""

    layout: Layout
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation
    frozen: frozenset[str]  # paths of the parameters that are not trained
    state: TrainState  # shapes, types and shardings
    train_step: TrainStep
    eval_step: EvalStep


def programs(experiment: Experiment, devices: Sequence[jax.Device] | None = None) -> Programs:
    """For a resolved experiment, on `devices` (all, if None). Raises InputError if the mesh, the model and the batch do
    not fit each other."""
    layout = sharding.layout(experiment.mesh, experiment.model, devices)
    sharding.check_batch(layout, experiment.data.batch, experiment.step.accumulation)
    schedule = optimizer.schedule(experiment.schedule, experiment.optimizer.learning_rate)
    frozen = freezing.frozen(experiment)
    trained_axes, _ = freezing.split(models.axes(experiment.model), frozen)
    causal = objectives.causal_only(experiment.objectives, experiment.model.encoder_depth > 0)
    update = optimizer.optimizer(experiment.optimizer, schedule, trained_axes)
    return Programs(
        layout=layout,
        schedule=schedule,
        optimizer=update,
        frozen=frozen,
        state=state.abstract(experiment.model, update, layout, frozen),
        train_step=step.make_train_step(experiment.model, update, experiment.step, layout, frozen, causal),
        eval_step=step.make_eval_step(experiment.model, experiment.step, layout, causal),
    )


def take_steps(
    experiment: Experiment,
    corpus: Corpus,
    programs: Programs,
    run: TrainState,
    checkpoints: checkpoint.Manager,
    log: Log,
    look: Callable[[int, models.Params], object],
) -> TrainState:
    """From the step of `run` to the last one; evaluates and saves as the experiment says, and calls `look` with the
    steps taken and the parameters at every evaluation.

    After a SIGTERM or SIGINT it saves and raises SystemExit with 128 + the signal's number.

    Raises:
      Diverged: if a loss is not finite; nothing is saved after that.
    """
    meter = Meter(experiment, corpus, programs.schedule, log)
    steps, every = experiment.schedule.steps, experiment.evaluation.every
    pending: tuple[int, Metrics] | None = None
    rows = host_rows(experiment.data.batch)
    with _signals() as received, corpus.loader(int(run.step), steps, rows) as loader:
        for number, batch in meter.waiting(loader):
            run, metrics = programs.train_step(run, sharding.put(programs.layout, batch))
            if pending:  # fetched only now that the next step is under way, so that the device never waits
                meter.read(*pending)
            pending, done = (number, metrics), number + 1
            save = bool(received) or done % experiment.checkpoint.every == 0 or done == steps
            evaluate = (every > 0 and done % every == 0 and done < steps) or (save and experiment.checkpoint.keep_best)
            if not (evaluate or save):
                continue
            meter.read(*pending)  # so nothing is saved after a loss that is not finite
            pending, losses = None, None
            if evaluate:
                losses = held_out(experiment, corpus, programs, run.params, experiment.evaluation.batches)
                log.record({"kind": "held_out", "step": done, "losses": losses})
                look(done, run.params)
            if save:
                checkpoint.save(checkpoints, run, None if losses is None else float(np.mean(list(losses.values()))))
            if received:
                checkpoints.wait_until_finished()
                log.print(f"{signal.Signals(received[0]).name}: saved at step {done:,}; the same command goes on")
                raise SystemExit(128 + received[0])
            meter.pause()
    return run


def held_out(
    experiment: Experiment, corpus: Corpus, programs: Programs, params: models.Params, batches: int | None
) -> dict[str, float]:
    """The mean held-out loss of each objective, over all its held-out data or a number of batches."""
    rows = host_rows(experiment.data.batch)

    def row_sums(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        return jax.device_get(programs.eval_step(params, sharding.put(programs.layout, batch)))

    return {
        objective.name: heldout.mean_loss(row_sums, corpus.held_out(objective, rows)[:batches])
        for objective in experiment.objectives
    }


def host_rows(batch: int) -> slice:
    """The rows of a global batch that this process reads."""
    share = batch // jax.process_count()
    return slice(jax.process_index() * share, (jax.process_index() + 1) * share)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The SIGTERM and SIGINT that arrived meanwhile; they no longer end the process at once."""
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
