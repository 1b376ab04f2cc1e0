"""The loop over layers: scanned, unrolled, rematerialised or written out, the same numbers and gradients."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import models
from research.config import replace_fields
from research.models import rope
from research.models.attention import Context
from research.models.block import Block
from research.models.kernels import intervals
from research.models.norm import Norm
from tests.models.tiny import hidden, model, parameters, random_batch

LENGTH = 12
CONFIG = model(LENGTH, depth=4)
BATCH = random_batch(0, rows=2, length=LENGTH)


def loss_and_gradients(config, params):
    def loss(params):
        return jnp.sin(models.hidden(config, params, BATCH)).sum()

    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.fixture(scope="module")
def scanned():
    params = parameters(CONFIG)
    return params, loss_and_gradients(CONFIG, params)


@pytest.mark.parametrize("change", [{"unroll": 2}, {"unroll": 4}, {"unroll": 9}, {"remat": "dots"}, {"remat": "full"}])
def test_unrolled_and_rematerialised_are_scanned(scanned, change):
    params, expected = scanned
    got = loss_and_gradients(replace(CONFIG, **change), params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4), got, expected)


def test_scanned_is_a_python_loop():
    params = parameters(CONFIG)
    stack = params["decoder"]
    place = jnp.asarray(BATCH.positions)
    frequencies = rope.frequencies(CONFIG.attention.head_width, CONFIG.positions.theta, None)
    seen = intervals.from_segments(jnp.asarray(BATCH.segments), jnp.asarray(BATCH.levels))
    context = Context(seen, rope.rope(place, frequencies))
    x = params["embedding"][BATCH.tokens]
    for layer in range(CONFIG.depth):
        weights = jax.tree.map(lambda stacked, layer=layer: stacked[layer], stack["layers"])
        x, _ = Block(CONFIG).apply({"params": weights}, x, context, None)
    x = Norm(CONFIG.norm).apply({"params": stack["norm"]}, x)
    np.testing.assert_allclose(hidden(CONFIG, params, BATCH), x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("unroll", [1, 4])
def test_rematerialisation_computes_again(unroll):
    """Counted in the compiled program, so that no common subexpression undoes it."""
    params = parameters(CONFIG)

    def flops(remat):
        config = replace(CONFIG, unroll=unroll, remat=remat)
        program = jax.jit(jax.grad(lambda p: jnp.sin(models.hidden(config, p, BATCH)).sum())).lower(params).compile()
        return program.cost_analysis()["flops"]

    assert flops("full") > 1.1 * flops("none")


def test_the_attention_and_the_residual_stream_of_each_layer_can_be_recorded():
    params = parameters(CONFIG)
    names = frozenset({"decoder/attention/weights", "decoder/residual"})
    _, recorded = jax.jit(models.run, static_argnums=(0, 3))(CONFIG, params, BATCH, names)
    assert recorded.keys() == names
    weights, residual = recorded["decoder/attention/weights"], recorded["decoder/residual"]
    assert weights.shape == (4, 2, CONFIG.attention.heads, LENGTH, LENGTH)
    seen = intervals.from_segments(jnp.asarray(BATCH.segments), jnp.asarray(BATCH.levels))
    unseen = ~np.broadcast_to(np.asarray(intervals.mask(seen, LENGTH))[:, None], weights.shape[1:])
    assert all((np.asarray(layer)[unseen] == 0).all() for layer in weights)
    final = Norm(CONFIG.norm).apply({"params": params["decoder"]["norm"]}, residual[-1])
    np.testing.assert_allclose(final, hidden(CONFIG, params, BATCH), rtol=1e-5, atol=1e-5)


def test_windows_narrow_the_layers_between_global_ones():
    config = replace_fields(CONFIG, {"attention.window": 2, "attention.global_every": 2})
    params = parameters(config)
    name = "decoder/attention/weights"
    weights = jax.jit(models.run, static_argnums=(0, 3))(config, params, BATCH, frozenset({name}))[1][name]
    seen = intervals.from_segments(jnp.asarray(BATCH.segments), jnp.asarray(BATCH.levels))
    near = intervals.in_window(seen, jnp.arange(LENGTH)[None], 2)
    for layer, visible in enumerate((seen, near, seen, near)):
        expected = np.broadcast_to(np.asarray(intervals.mask(visible, LENGTH))[:, None], weights.shape[1:])
        np.testing.assert_array_equal(np.asarray(weights[layer]) > 0, expected)


def test_every_parameter_has_an_axis_name_for_each_dimension():
    config = model(
        LENGTH,
        encoder_depth=2,
        **{"positions.kind": "relative", "attention.qkv_bias": True, "attention.qk_norm": True, "head.bias": True},
    )
    shapes = jax.eval_shape(lambda: models.init(config, jax.random.key(0)))
    names = models.axes(config)
    checked = jax.tree.map(lambda leaf, axes: len(leaf.shape) == len(axes), shapes, names)
    assert all(jax.tree.leaves(checked))
    assert names["decoder"]["layers"]["mlp"]["up"]["kernel"] == ("layers", "embed", "mlp")
