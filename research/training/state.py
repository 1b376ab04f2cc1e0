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
from research.sharding import Layout, optimizer_shardings, parameter_shardings
from research.training.partition import partition


@partial(jax.tree_util.register_dataclass, data_fields=["step", "params", "optimizer_state", "seed"], meta_fields=[])
@dataclass(frozen=True)
class TrainState:
    """Everything that a step changes, and the seed from which all its randomness is folded."""

    step: Int[Array, ""]  # steps taken
    params: Params  # float32 (integers in a quantised base)
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


def create(
    model: Model,
    optimizer: optax.GradientTransformation,
    seed: int,
    layout: Layout,
    frozen: frozenset[str] = frozenset(),
) -> TrainState:
    """The state before the first step, with random parameters. Each device makes only its own part, so the whole need
    not fit on one."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract(model, optimizer, layout, frozen))
    made = jax.jit(_create, static_argnums=(0, 1, 2), out_shardings=shardings)
    return made(model, optimizer, frozen, jnp.uint32(seed % 2**32))


def begin(
    params: Params, optimizer: optax.GradientTransformation, seed: int, like: TrainState, frozen: frozenset[str]
) -> TrainState:
    """The state before the first step, with given parameters. `like` is from `abstract`."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, like.optimizer_state)
    optimizer_state = jax.jit(optimizer.init, out_shardings=shardings)(partition(params, frozen)[0])
    rest = {"step": jnp.int32(0), "seed": jnp.uint32(seed % 2**32)}
    placed = {name: jax.device_put(value, getattr(like, name).sharding) for name, value in rest.items()}
    return TrainState(params=params, optimizer_state=optimizer_state, **placed)


def abstract(
    model: Model, optimizer: optax.GradientTransformation, layout: Layout, frozen: frozenset[str] = frozenset()
) -> TrainState:
    """Shapes, types and shardings of the state, without making it. The optimizer has a state for what is not in
    `frozen`, the paths of parameters that are not trained."""
    shapes = jax.eval_shape(partial(_create, model, optimizer, frozen), jnp.uint32(0))
    params = parameter_shardings(layout, models.axes(model))
    trained, shardings_of_trained = (partition(tree, frozen)[0] for tree in (shapes.params, params))
    shardings = replace(
        jax.tree.map(lambda _: layout.replicated, shapes),
        params=params,
        optimizer_state=optimizer_shardings(layout, optimizer, shapes.optimizer_state, trained, shardings_of_trained),
    )
    return jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding), shapes, shardings
    )


def _create(
    model: Model, optimizer: optax.GradientTransformation, frozen: frozenset[str], seed: UInt32[Array, ""]
) -> TrainState:
    params = models.init(model, key(seed, 0, "parameters"))
    return TrainState(jnp.int32(0), params, optimizer.init(partition(params, frozen)[0]), seed)
