"""One step is the same step however it is split: into microbatches, over a mesh, at any seed."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from research import models
from research.config import Mesh, Optimizer, Schedule, Step
from research.models.kernels import blocks
from research.sharding import layout, shard_batch
from research.training import state as states
from research.training.optimizer import optimizer, schedule
from research.training.step import make_eval_step, make_train_step
from tests.models import tiny

ROWS, LENGTH = 16, 12
ONE = Mesh(data=1)
PLAIN = Step(loss_chunk=48, z_loss=1e-3)


def batch():
    """Rows of very different weights, so that a mean of microbatch means would be wrong."""
    made = tiny.random_batch(0, ROWS, LENGTH)
    random = np.random.default_rng(1)
    kept = random.random((ROWS, LENGTH)) < random.random((ROWS, 1))
    return replace(made, weights=(made.weights * kept * random.uniform(0.5, 2, (ROWS, 1))).astype(np.float32))


@cache
def ingredients(dropout=0.0):
    model = tiny.model(dropout=dropout, **{"attention.dropout": dropout})
    # in effect plain descent: with its large epsilon, Adam keeps the size of gradients, and errors are not normed away
    rule = optimizer(Optimizer(epsilon=1.0, clip=0.0), schedule(Schedule(steps=10, warmup=1), 1.0), models.axes(model))
    return model, rule


@cache
def initial():
    """The state before the first step, on the host."""
    model, rule = ingredients()
    return jax.device_get(states.create(model, rule, 0, layout(ONE, model, jax.devices()[:1])))


@cache
def compiled(mesh=ONE, step=PLAIN, dropout=0.0):
    model, rule = ingredients(dropout)
    whole = layout(mesh, model, jax.devices()[:1] if mesh == ONE else None)
    return whole, make_train_step(model, rule, step, whole)


def trained(count=2, data=None, **choices):
    """The state after `count` steps and the metrics of the last, on the host."""
    state, (whole, run) = initial(), compiled(**choices)
    for _ in range(count):
        state, metrics = run(state, shard_batch(whole, batch() if data is None else data))
    return jax.device_get((state, metrics))


def assert_same(ours, theirs, tolerance=2e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), ours, theirs)


def test_accumulated_equals_whole():
    assert_same(trained(step=replace(PLAIN, accumulation=4)), trained())


def test_what_a_causal_batch_saves_changes_nothing(monkeypatch):
    """Neither in a step, in microbatches or not, nor in an evaluation."""
    monkeypatch.setattr(blocks, "SHORTEST", 4)
    random = np.random.default_rng(2)
    plain = tiny.batch([[tiny.example(random, size) for size in (7, 3)] for _ in range(ROWS)], LENGTH)
    causal = replace(plain, causal=True)
    expected = trained(data=plain)
    for step in (PLAIN, replace(PLAIN, accumulation=4)):
        assert_same(trained(step=step, data=causal), expected)
    whole = compiled()[0]
    evaluate, params = make_eval_step(ingredients()[0], PLAIN, whole), initial().params
    assert_same(*(jax.device_get(evaluate(params, shard_batch(whole, data))) for data in (causal, plain)))


def test_rows_come_back_in_the_order_of_the_batch():
    model, state = ingredients()[0], initial()
    data, rows = batch(), trained(count=1)[1].rows
    logits = jax.jit(partial(models.logits, model))(state.params, data)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, data.targets)
    np.testing.assert_allclose(rows.losses, (losses * data.weights).sum(1), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(rows.weights, data.weights.sum(1), rtol=1e-6)
    whole = compiled()[0]
    evaluate = make_eval_step(model, PLAIN, whole)
    assert_same(jax.device_get(evaluate(state.params, shard_batch(whole, data))), rows)


def test_the_loss_is_the_mean_over_all_tokens():
    metrics = trained(count=1)[1]
    np.testing.assert_allclose(metrics.weight, batch().weights.sum(), rtol=1e-6)
    np.testing.assert_allclose(metrics.loss, metrics.rows.losses.sum() / metrics.weight, rtol=1e-6)


def test_a_batch_without_weight_has_no_loss_and_no_gradient():
    data = batch()
    before = initial()
    state, metrics = trained(count=1, data=replace(data, weights=np.zeros_like(data.weights)))
    assert metrics.loss == 0 and metrics.gradient_norm == 0 and state.step == 1
    decay = 1 - 0.1  # decay is not part of the gradient: at the first learning rate, 1, it is the whole update
    np.testing.assert_allclose(state.params["embedding"], decay * before.params["embedding"], rtol=1e-6)


def test_bfloat16_computes_on_float32_masters():
    state, metrics = trained(step=replace(PLAIN, compute_dtype="bfloat16"))
    exact = trained()[1]
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {np.dtype("float32")}
    np.testing.assert_allclose(metrics.loss, exact.loss, rtol=2e-2)
    np.testing.assert_allclose(metrics.gradient_norm, exact.gradient_norm, rtol=5e-2)
    assert np.any(state.params["embedding"] != state.params["embedding"].astype(jnp.bfloat16).astype(np.float32))


def test_dropout_follows_the_seed_and_the_step_alone():
    state, (whole, run) = initial(), compiled(dropout=0.3)
    losses = [
        float(run(replace(state, **change), shard_batch(whole, batch()))[1].loss)
        for change in ({}, {}, {"seed": state.seed + 1}, {"step": state.step + 1})
    ]
    assert losses[0] == losses[1] and len(set(losses)) == 3
