"""The training step: one jitted, sharded function that never asks which objective made its batch."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from research import config, models
from research.models import Params
from research.objectives.batch import Batch
from research.sharding import Layout, logical_rules, parameter_shardings
from research.training import state as states
from research.training.loss import cross_entropy
from research.training.partition import combine, partition
from research.training.state import TrainState


class Rows(NamedTuple):
    """Sums over each row of a batch, in its order; on every host. The host knows which objective made a row."""

    losses: Float[Array, " batch"]  # of weights * cross-entropy in nats
    weights: Float[Array, " batch"]


class Metrics(NamedTuple):
    """Of one step; on every host."""

    loss: Float[Array, ""]  # weighted mean cross-entropy over all tokens of the global batch, in nats; 0 without any
    weight: Float[Array, ""]  # summed weights of the global batch
    gradient_norm: Float[Array, ""]  # before clipping
    parameter_norm: Float[Array, ""]  # of what is trained, before the update
    rows: Rows


TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
EvalStep = Callable[[Params, Batch], Rows]


def make_train_step(
    model: config.Model,
    optimizer: optax.GradientTransformation,
    step: config.Step,
    layout: Layout,
    frozen: frozenset[str] = frozenset(),
) -> TrainStep:
    """Jits `train_step`, which leaves the parameters at the paths `frozen` as they are. The state that is passed in is
    donated: its memory becomes the new state's. Batches that differ in `causal` have programs of their own.

    The result also has `lower`, for compiling ahead of time from shapes.
    """
    shardings = jax.tree.map(lambda leaf: leaf.sharding, states.abstract(model, optimizer, layout, frozen))

    def run(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        with logical_rules(layout):
            return train_step(model, optimizer, step, layout, shardings.params, frozen, state, batch)

    return jax.jit(
        run,
        in_shardings=(shardings, layout.batch),
        out_shardings=(shardings, layout.replicated),
        donate_argnums=0,
    )


def make_eval_step(model: config.Model, step: config.Step, layout: Layout) -> EvalStep:
    """Jits the sums of a batch's rows alone, without dropout."""

    def run(params: Params, batch: Batch) -> Rows:
        with logical_rules(layout):
            return summed_loss(model, step, layout, _cast(params, step.compute_dtype), batch, None)[1]

    shardings = parameter_shardings(layout, models.axes(model))
    return jax.jit(run, in_shardings=(shardings, layout.batch), out_shardings=layout.replicated)


def train_step(
    model: config.Model,
    optimizer: optax.GradientTransformation,
    step: config.Step,
    layout: Layout,
    shardings: Any,
    frozen: frozenset[str],
    state: TrainState,
    batch: Batch,
) -> tuple[TrainState, Metrics]:
    """One optimizer step on the gradient of the weighted mean loss over the global batch.

    A batch without any weight has loss and gradient 0. The masters stay float32; what is differentiated is their copy
    in `step.compute_dtype`, made once for all microbatches.
    """
    trained, fixed = partition(state.params, frozen)
    compute, fixed_compute, key = (
        _cast(trained, step.compute_dtype),
        _cast(fixed, step.compute_dtype),
        state.key_for("dropout"),
    )
    differentiate = partial(_gradients, model, step, layout, partition(shardings, frozen)[0], compute, fixed_compute)
    gradients, rows = _accumulated(differentiate, step, key, batch)
    weight = jnp.sum(rows.weights)
    scale = 1 / jnp.where(weight > 0, weight, 1)
    gradients = jax.tree.map(lambda gradient: gradient * scale, gradients)
    updates, optimizer_state = optimizer.update(gradients, state.optimizer_state, trained)
    metrics = Metrics(
        loss=jnp.sum(rows.losses) * scale,
        weight=weight,
        gradient_norm=optax.tree.norm(gradients),
        parameter_norm=optax.tree.norm(trained),
        rows=rows,
    )
    return state.advance(combine(optax.apply_updates(trained, updates), fixed), optimizer_state), metrics


def summed_loss(
    model: config.Model,
    step: config.Step,
    layout: Layout,
    params: Params,
    batch: Batch,
    key: PRNGKeyArray | None,
) -> tuple[Float[Array, ""], Rows]:
    """The loss to be minimised, summed over the batch, and the cross-entropy by row. An auxiliary loss of the layers
    counts once for each unit of the batch's weight, so that in the mean over any split of the batch it counts once."""
    hidden, auxiliary = models.forward(model, params, batch, key)
    kernel, bias = models.output(model, params)
    chunk = step.loss_chunk * layout.extent("batch") * layout.extent("length")
    total, losses = cross_entropy(
        hidden, kernel, bias, batch.targets, batch.weights, chunk, step.z_loss, model.head.softcap
    )
    if auxiliary is not None:
        total = total + auxiliary * jnp.sum(batch.weights)
    return total, Rows(jnp.sum(losses * batch.weights, axis=1), jnp.sum(batch.weights, axis=1))


def _gradients(
    model: config.Model,
    step: config.Step,
    layout: Layout,
    shardings: Any,
    params: Params,
    fixed: Params,
    batch: Batch,
    key: PRNGKeyArray,
) -> tuple[Params, Rows]:
    """Float32 gradients of the summed loss with respect to `params`, split as these are; `fixed` are the others."""
    key_or_none = key if model.has_dropout else None
    (_, rows), gradients = jax.value_and_grad(
        lambda params: summed_loss(model, step, layout, combine(params, fixed), batch, key_or_none),
        has_aux=True,
    )(params)
    gradients = jax.tree.map(lambda gradient: gradient.astype(jnp.float32), gradients)
    return lax.with_sharding_constraint(gradients, shardings), rows


def _accumulated(
    gradients: Callable[[Batch, PRNGKeyArray], tuple[Params, Rows]], step: config.Step, key: PRNGKeyArray, batch: Batch
) -> tuple[Params, Rows]:
    """The sum of `gradients` over microbatches, and the rows in the batch's order.

    Microbatch `i` of `n` has the rows `i, i + n, …`: each device holds a block of neighbouring rows, so every
    microbatch takes its share from every device, and none is moved.
    """
    count = step.accumulation
    if count == 1:
        return gradients(batch, key)
    parts = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, count, *x.shape[1:]), 1, 0), batch)

    def add(total: Params, part: tuple[Batch, Any]) -> tuple[Params, Rows]:
        microbatch, index = part
        more, rows = gradients(microbatch, jax.random.fold_in(key, index))
        return jax.tree.map(jnp.add, total, more), rows

    shapes = jax.eval_shape(lambda: gradients(jax.tree.map(lambda x: x[0], parts), key)[0])
    zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
    total, rows = lax.scan(add, zeros, (parts, jnp.arange(count)))
    return total, jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(-1), rows)


def _cast(params: Params, dtype: str) -> Params:
    return jax.tree.map(lambda p: p.astype(dtype) if jnp.issubdtype(p.dtype, jnp.floating) else p, params)
