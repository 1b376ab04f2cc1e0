"""The compiled steps of an experiment, and what they are made from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import optax

from research import models, sharding
from research.config import Experiment
from research.sharding import Layout
from research.training import guarded_step, optimizer, partition, state, step
from research.training.guarded_step import GuardedStep
from research.training.state import TrainState
from research.training.step import EvalStep, TrainStep


@dataclass(frozen=True)
class CompiledSteps:
    """What follows from an experiment before there are any arrays. Nothing is compiled until it is called."""

    layout: Layout
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation
    frozen: frozenset[str]  # paths of the parameters that are not trained
    state: TrainState  # shapes, types and shardings
    train_step: TrainStep
    make_guarded_step: Callable[[], GuardedStep]  # for runs whose bad steps are skipped
    eval_step: EvalStep


def compiled_steps(experiment: Experiment, devices: Sequence[jax.Device] | None = None) -> CompiledSteps:
    """For a resolved experiment, on `devices` (all, if None). Raises InputError if the mesh, the model and the batch do
    not fit each other."""
    layout = sharding.layout(experiment.mesh, experiment.model, devices)
    sharding.check_batch(layout, experiment)
    schedule = optimizer.schedule(experiment.schedule, experiment.optimizer.learning_rate)
    frozen = partition.frozen(experiment)
    trained_axes, _ = partition.partition(models.axes(experiment.model), frozen)
    update = optimizer.optimizer(experiment.optimizer, schedule, trained_axes, experiment.model.width_ratio)
    return CompiledSteps(
        layout=layout,
        schedule=schedule,
        optimizer=update,
        frozen=frozen,
        state=state.abstract(experiment.model, update, layout, frozen),
        train_step=step.make_train_step(experiment.model, update, experiment.step, layout, frozen),
        make_guarded_step=partial(
            guarded_step.make_guarded_step, experiment.model, update, experiment.step, layout, frozen
        ),
        eval_step=step.make_eval_step(experiment.model, experiment.step, layout),
    )
