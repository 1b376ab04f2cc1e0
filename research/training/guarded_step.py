"""The training step that leaves the state as it is where a batch would ruin it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from research import config
from research.objectives.batch import Batch
from research.sharding import Layout, logical_rules
from research.training import state as states
from research.training.partition import partition
from research.training.state import TrainState
from research.training.step import Metrics, train_step


class Guarded(NamedTuple):
    """Of one step; on every host."""

    metrics: Metrics
    update_norm: Float[Array, ""]  # of the change of what is trained, had it been made
    skipped: Bool[Array, ""]  # the parameters and the optimizer's state are those of before


GuardedStep = Callable[[TrainState, Batch, Float[Array, "3"]], tuple[TrainState, Guarded]]


def make_guarded_step(
    model: config.Model,
    optimizer: optax.GradientTransformation,
    step: config.Step,
    layout: Layout,
    frozen: frozenset[str] = frozenset(),
) -> GuardedStep:
    """Jits `train_step` with a third argument: the largest loss, gradient norm and norm of the update with which the
    step is made. It is skipped if one of them is larger or not finite; the number of the step advances all the same.
    The state that is passed in is donated."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, states.abstract(model, optimizer, layout, frozen))

    def run(state: TrainState, batch: Batch, limits: Float[Array, "3"]) -> tuple[TrainState, Guarded]:
        with logical_rules(layout):
            new, metrics = train_step(model, optimizer, step, layout, shardings.params, frozen, state, batch)
        after, before = (partition(each.params, frozen)[0] for each in (new, state))
        update_norm = optax.tree.norm(jax.tree.map(jnp.subtract, after, before))
        measured = jnp.stack([metrics.loss, metrics.gradient_norm, update_norm])
        good = jnp.all(jnp.isfinite(measured) & (measured <= limits))
        same = state.advance(state.params, state.optimizer_state)
        chosen = jax.tree.map(lambda made, kept: jnp.where(good, made, kept), new, same)
        return chosen, Guarded(metrics, update_norm, ~good)

    return jax.jit(
        run,
        in_shardings=(shardings, layout.batch, layout.replicated),
        out_shardings=(shardings, layout.replicated),
        donate_argnums=0,
    )
