"""Schedules reach what they promise; decay touches kernels and tables alone; Muon sees matrices as matrices."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from research import models
from research.config import Optimizer, Schedule
from research.errors import InputError
from research.training.optimizer import MUON_RMS, is_matrix, optimizer, schedule
from tests.models import tiny

NAMES = ("adamw", "adafactor", "muon", "lion")
PEAK = 2e-3
MODELS = {
    "gpt2": {
        "positions.kind": "learned",
        "norm.kind": "layernorm",
        "norm.bias": True,
        "mlp.gated": False,
        "attention.qkv_bias": True,
    }
    | {"attention.output_bias": True, "mlp.bias": True, "head.tied": True},
    "bert": {
        "positions.kind": "learned",
        "norm.kind": "layernorm",
        "norm.bias": True,
        "embedding.token_types": 2,
        "norm.embedding": True,
    }
    | {"head.bias": True, "head.transform": True, "attention.qkv_bias": True},
    "t5": {"positions.kind": "relative", "encoder_depth": 2, "attention.qk_norm": True},
}
SIZES = {"vocab": 12, "layers": 2, "embed": 8, "heads": 2, "head": 4, "mlp": 6}
AXES = {
    "table": ("vocab", "embed"),
    "query": ("layers", "embed", "heads", "head"),
    "query_bias": ("layers", "heads", "head"),
    "query_norm": ("layers", "head"),
    "out": ("layers", "heads", "head", "embed"),
    "down": ("layers", "mlp", "embed"),
    "down_bias": ("layers", "embed"),
    "norm": ("embed",),
}


def rates(**settings):
    config = Schedule(**settings)
    return jax.vmap(schedule(config, PEAK))(np.arange(config.steps)).tolist()


def filled(axes, seed):
    random = np.random.default_rng(seed)
    return {key: random.normal(size=[SIZES[name] for name in each]).astype(np.float32) for key, each in axes.items()}


def updated(config, axes, params, gradients, rate=1.0):
    rule = optimizer(config, lambda _: rate, axes)
    return jax.jit(lambda params, gradients: rule.update(gradients, rule.init(params), params)[0])(params, gradients)


def named(tree):
    flat = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: isinstance(x, tuple))[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}


@pytest.mark.parametrize("name", ["cosine", "linear", "stable_decay"])
def test_schedules_rise_to_the_peak_and_end_at_the_final_rate(name):
    course = rates(name=name, steps=50, warmup=10, final=0.1)
    np.testing.assert_allclose(course[:10], PEAK * np.arange(1, 11) / 10, rtol=1e-5)
    np.testing.assert_allclose(course[-1], 0.1 * PEAK, rtol=1e-5)
    assert all(late <= early * (1 + 1e-6) for early, late in pairwise(course[9:]))
    assert min(rates(name=name, steps=50, warmup=0, final=0.0)[:-1]) > 0


def test_courses_between():
    stable = rates(name="stable_decay", steps=50, warmup=10, decay=5, final=0.0)
    np.testing.assert_allclose(stable[9:45], PEAK, rtol=1e-6)
    np.testing.assert_allclose(stable[45:], PEAK * np.arange(4, -1, -1) / 5, atol=1e-9)
    cosine = rates(name="cosine", steps=50, warmup=10, final=0.2)
    np.testing.assert_allclose(cosine[29], PEAK * 0.6, rtol=1e-5)  # half-way
    root = rates(name="inverse_square_root", steps=50, warmup=10)
    np.testing.assert_allclose(root[9:], PEAK * (10 / np.arange(10, 51)) ** 0.5, rtol=1e-5)
    assert rates(name="cosine", steps=3, warmup=3)[-1] == pytest.approx(PEAK)


def test_a_decay_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match="at most 40"):
        rates(name="stable_decay", steps=50, warmup=10, decay=41)


@pytest.mark.parametrize("family", MODELS)
def test_kernels_and_tables_are_matrices_and_nothing_else(family):
    axes = named(models.axes(tiny.model(**MODELS[family])))
    vectors = {path for path in axes if path.endswith(("bias", "scale")) and not path.endswith("relative_bias")}
    assert vectors and {path for path, each in axes.items() if not is_matrix(each)} == vectors


@pytest.mark.parametrize("name", NAMES)
def test_exactly_matrices_decay(name):
    params = filled(AXES, seed=0)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates = updated(Optimizer(name=name, weight_decay=0.5), AXES, params, zeros, rate=0.1)
    for key, value in params.items():
        expected = -0.1 * 0.5 * value if key in ("table", "query", "out", "down") else np.zeros_like(value)
        np.testing.assert_allclose(updates[key], expected, rtol=1e-6, err_msg=key)


def test_the_whole_gradient_is_clipped_to_its_norm():
    axes = {"a": ("embed",), "b": ("embed", "mlp")}
    gradients = {"a": jnp.full(4, 3.0), "b": jnp.full((4, 2), -4.0)}
    params = jax.tree.map(jnp.zeros_like, gradients)
    norm = float(optax.tree.norm(gradients))
    config = {"epsilon": 1e6}  # so large that the update is linear in the gradient
    free = updated(Optimizer(**config, clip=0), axes, params, gradients)
    clipped = updated(Optimizer(**config, clip=2.0), axes, params, gradients)
    loose = updated(Optimizer(**config, clip=norm * 1.01), axes, params, gradients)
    for key in axes:
        np.testing.assert_allclose(clipped[key], free[key] * 2.0 / norm, rtol=1e-4)
        np.testing.assert_allclose(loose[key], free[key], rtol=1e-6)


def test_muon_updates_each_layer_of_a_stack_as_the_matrix_it_is():
    config = Optimizer(name="muon", weight_decay=0.0, clip=0)
    axes = {key: AXES[key] for key in ("query", "out", "down")}
    inputs = {"query": SIZES["embed"], "out": SIZES["heads"] * SIZES["head"], "down": SIZES["mlp"]}
    gradients = filled(axes, seed=0)
    stacked = updated(config, axes, gradients, gradients)
    layers = {f"{key}{i}": x.reshape(inputs[key], -1) for key in axes for i, x in enumerate(gradients[key])}
    alone = updated(config, dict.fromkeys(layers, ("embed", "mlp")), layers, layers)
    for key in axes:
        for i, update in enumerate(stacked[key]):
            matrix = alone[f"{key}{i}"]
            np.testing.assert_allclose(update.reshape(matrix.shape), matrix, rtol=1e-4, atol=1e-6)
            values = np.linalg.svd(matrix, compute_uv=False) / (MUON_RMS * max(matrix.shape) ** 0.5)
            assert values.max() < 1.3 and np.median(values) > 0.6  # nearly orthogonal, as Newton-Schulz leaves it


def test_muon_leaves_tables_and_vectors_to_adamw():
    params, gradients = filled(AXES, seed=0), filled(AXES, seed=1)
    muon, adamw = (updated(Optimizer(name=name), AXES, params, gradients) for name in ("muon", "adamw"))
    alike = {key for key in AXES if np.allclose(muon[key], adamw[key], rtol=1e-5, atol=1e-7)}
    assert set(AXES) - alike == {"query", "out", "down"}
