"""What a training run carries from step to step."""

import zlib
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PRNGKeyArray, UInt32

from research import models
from research.config import Model
from research.models import Params
from research.training.sharding import Layout, optimizer_shardings, parameter_shardings


@partial(jax.tree_util.register_dataclass, data_fields=["step", "params", "optimizer_state", "seed"], meta_fields=[])
@dataclass(frozen=True)
class TrainState:
    """Everything that a step changes, and the seed from which all its randomness is folded."""

    step: Int[Array, ""]  # steps taken
    params: Params  # float32
    optimizer_state: Any
    seed: UInt32[Array, ""]

    def key_for(self, purpose: str) -> PRNGKeyArray:
        """A key for one purpose at this step; another seed, step or purpose gives another."""
        return key(self.seed, self.step, purpose)

    def advance(self, params: Params, optimizer_state: Any) -> "TrainState":
        """The state after one more step."""
        return replace(self, step=self.step + 1, params=params, optimizer_state=optimizer_state)


def key(seed: Int[Array, ""] | int, step: Int[Array, ""] | int, purpose: str) -> PRNGKeyArray:
    """The key for everything random, folded from (seed, step, purpose)."""
    folded = jax.random.fold_in(jax.random.key(seed), step)
    return jax.random.fold_in(folded, zlib.crc32(purpose.encode()))


def create(model: Model, optimizer: optax.GradientTransformation, seed: int, layout: Layout) -> TrainState:
    """The state before the first step. Each device makes only its own part, so the whole need not fit on one."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract(model, optimizer, layout))
    made = jax.jit(_create, static_argnums=(0, 1), out_shardings=shardings)
    return made(model, optimizer, jnp.uint32(seed % 2**32))


def abstract(model: Model, optimizer: optax.GradientTransformation, layout: Layout) -> TrainState:
    """Shapes, types and shardings of the state, without making it."""
    shapes = jax.eval_shape(partial(_create, model, optimizer), jnp.uint32(0))
    params = parameter_shardings(layout, models.axes(model))
    shardings = replace(
        jax.tree.map(lambda _: layout.replicated, shapes),
        params=params,
        optimizer_state=optimizer_shardings(layout, optimizer, shapes.optimizer_state, shapes.params, params),
    )
    return jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding), shapes, shardings
    )


def _create(model: Model, optimizer: optax.GradientTransformation, seed: UInt32[Array, ""]) -> TrainState:
    params = models.init(model, key(seed, 0, "parameters"))
    return TrainState(jnp.int32(0), params, optimizer.init(params), seed)
