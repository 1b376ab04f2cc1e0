"""The steps of a run, and what happens between them."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import jax
import numpy as np
import optax

from research import models
from research.config import Experiment
from research.data import Corpus
from research.objectives import Batch
from research.training import checkpoint, partition, held_out_loss, optimizer, state, step
from research import sharding
from research.runs import stopping
from research.runs.log import Log
from research.runs.meter import Meter
from research.sharding import Layout
from research.training.state import TrainState
from research.training.step import EvalStep, Metrics, TrainStep
from research.runs.tracing import Tracer


@dataclass(frozen=True)
class CompiledSteps:
    """What follows from an experiment before there are any arrays. Nothing is compiled until it is called."""

    layout: Layout
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation
    frozen: frozenset[str]  # paths of the parameters that are not trained
    state: TrainState  # shapes, types and shardings
    train_step: TrainStep
    eval_step: EvalStep


def compiled_steps(experiment: Experiment, devices: Sequence[jax.Device] | None = None) -> CompiledSteps:
    """For a resolved experiment, on `devices` (all, if None). Raises InputError if the mesh, the model and the batch do
    not fit each other."""
    layout = sharding.layout(experiment.mesh, experiment.model, devices)
    sharding.check_batch(layout, experiment)
    schedule = optimizer.schedule(experiment.schedule, experiment.optimizer.learning_rate)
    frozen = partition.frozen(experiment)
    trained_axes, _ = partition.partition(models.axes(experiment.model), frozen)
    update = optimizer.optimizer(experiment.optimizer, schedule, trained_axes)
    return CompiledSteps(
        layout=layout,
        schedule=schedule,
        optimizer=update,
        frozen=frozen,
        state=state.abstract(experiment.model, update, layout, frozen),
        train_step=step.make_train_step(experiment.model, update, experiment.step, layout, frozen),
        eval_step=step.make_eval_step(experiment.model, experiment.step, layout),
    )


def train_loop(
    experiment: Experiment,
    corpus: Corpus,
    programs: CompiledSteps,
    run: TrainState,
    checkpoints: checkpoint.Manager,
    log: Log,
    tracer: Tracer,
    look: Callable[[int, models.Params], object],
) -> TrainState:
    """From the step of `run` to the last one; evaluates and saves as the experiment says, and calls `look` with the
    steps taken and the parameters at every evaluation.

    After a SIGTERM or SIGINT, to this process or to another one of the run, it saves and raises SystemExit with 128 +
    the signal's number.

    Raises:
      Diverged: if a loss is not finite; nothing is saved after that.
    """
    meter, clock = Meter(experiment, corpus, programs.schedule, log), log.clock
    steps, every = experiment.schedule.steps, experiment.evaluation.every
    pending: tuple[int, Metrics] | None = None
    begin, rows = int(run.step), programs.layout.rows(experiment.data.batch)
    with stopping.notices() as asked_to_stop, corpus.loader(begin, steps, rows) as loader:
        for number, batch in meter.waiting(loader):
            with clock.on("compiling") if number == begin else nullcontext():
                run, metrics = tracer.take(number + 1, programs.train_step, run, sharding.shard_batch(programs.layout, batch))
            if pending:  # fetched only now that the next step is under way, so that the device never waits
                meter.read(*pending)
            pending, done = (number, metrics), number + 1
            stop = asked_to_stop(done)
            save = stop is not None or done % experiment.checkpoint.every == 0 or done == steps
            evaluate = (every > 0 and done % every == 0 and done < steps) or (save and experiment.checkpoint.keep_best)
            if not (evaluate or save):
                continue
            meter.read(*pending)  # so nothing is saved after a loss that is not finite
            pending, losses = None, None
            if evaluate:
                with clock.on("evaluating"):
                    losses = held_out(experiment, corpus, programs, run.params, experiment.evaluation.batches)
                log.record({"kind": "held_out", "step": done, "losses": losses})
                with clock.on("evaluating"):
                    look(done, run.params)
            if save:
                with clock.on("saving"):
                    log.store()
                    checkpoint.save(checkpoints, run, None if losses is None else float(np.mean(list(losses.values()))))
            if stop is not None:
                with clock.on("saving"):
                    checkpoints.wait_until_finished()
                log.print(f"{stop.name}: saved at step {done:,}; the same command goes on")
                raise SystemExit(128 + stop)
            meter.pause()
    return run


def held_out(
    experiment: Experiment, corpus: Corpus, programs: CompiledSteps, params: models.Params, batches: int | None
) -> dict[str, float]:
    """The mean held-out loss of each objective, over all its held-out data or a number of batches."""
    rows = programs.layout.rows(experiment.data.batch)

    def row_sums(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        return jax.device_get(programs.eval_step(params, sharding.shard_batch(programs.layout, batch)))

    return {
        objective.name: held_out_loss.mean_loss(row_sums, corpus.held_out(objective, rows)[:batches])
        for objective in experiment.objectives
    }
