"""The chunked cross-entropy is the plain one, in value and gradients, and never holds the logits of a whole batch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from research.training.loss import cross_entropy

BATCH, LENGTH, WIDTH, VOCABULARY = 4, 11, 6, 32


def arrays(bias: bool = True, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 5)
    hidden = jax.random.normal(keys[0], (BATCH, LENGTH, WIDTH)).astype(dtype)
    kernel = jax.random.normal(keys[1], (WIDTH, VOCABULARY)).astype(dtype)
    shift = jax.random.normal(keys[2], (VOCABULARY,)).astype(dtype) if bias else None
    targets = jax.random.randint(keys[3], (BATCH, LENGTH), 0, VOCABULARY)
    weights = jnp.maximum(jax.random.uniform(keys[4], (BATCH, LENGTH), minval=-0.5, maxval=2.0), 0)
    return hidden, kernel, shift, targets, weights


def plain(hidden, kernel, bias, targets, weights, z_loss=0.0):
    logits = jnp.asarray(hidden, jnp.float32) @ jnp.asarray(kernel, jnp.float32) + (0 if bias is None else bias)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return jnp.sum(weights * (losses + z_loss * jax.nn.logsumexp(logits, axis=-1) ** 2)), losses


def gradients(function, hidden, kernel, bias, *rest):
    """The total and the losses of places, and the gradients of a multiple of the total."""

    def scaled(*of):
        total, losses = function(*of, *rest)
        return total / 7, losses

    return jax.jit(jax.value_and_grad(scaled, argnums=(0, 1, 2), has_aux=True))(hidden, kernel, bias)


# one position a chunk, a multiple and a non-multiple of the rows, everything at once
@pytest.mark.parametrize(("chunk", "bias"), [(1, True), (12, False), (21, True), (1000, True)])
def test_chunked_equals_plain(chunk, bias):
    inputs = arrays(bias)
    ours, theirs = gradients(cross_entropy, *inputs, chunk, 1e-2), gradients(plain, *inputs, 1e-2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, theirs)
    total, losses = jax.jit(cross_entropy, static_argnums=(5, 6))(*inputs, chunk, 1e-2)  # without any gradient
    np.testing.assert_allclose(total / 7, ours[0][0], rtol=1e-5)
    np.testing.assert_allclose(losses, ours[0][1], rtol=1e-5, atol=1e-6)


def test_capped_logits_have_their_loss_and_gradients():
    cap, inputs = 3.0, arrays()

    def capped(hidden, kernel, bias, targets, weights):
        logits = cap * jnp.tanh((hidden @ kernel + bias) / cap)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        return jnp.sum(weights * losses), losses

    ours, theirs = gradients(cross_entropy, *inputs, 12, 0.0, cap), gradients(capped, *inputs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, theirs)


def test_places_without_weight_cost_nothing():
    hidden, kernel, bias, targets, weights = arrays()
    idle = weights == 0
    assert idle.any()
    other = jnp.where(idle, (targets + 1) % VOCABULARY, targets)
    (ours, _), gradient = gradients(cross_entropy, hidden, kernel, bias, targets, weights, 12)
    (theirs, _), same = gradients(cross_entropy, hidden, kernel, bias, other, weights, 12)
    jax.tree.map(np.testing.assert_array_equal, (ours, gradient), (theirs, same))
    assert not np.any(np.asarray(gradient[0])[idle])


def test_no_gradient_flows_through_the_losses_of_places():
    hidden, kernel, bias, targets, weights = arrays()
    gradient = jax.jit(jax.grad(lambda h: cross_entropy(h, kernel, bias, targets, weights, 12)[1].sum()))(hidden)
    assert not np.any(gradient)


def test_bfloat16_features_give_float32_losses_and_near_gradients():
    inputs = arrays(dtype=jnp.bfloat16)
    (values, ours), (expected, theirs) = gradients(cross_entropy, *inputs, 12), gradients(plain, *inputs)
    assert values[0].dtype == values[1].dtype == jnp.float32
    np.testing.assert_allclose(values[0], expected[0], rtol=1e-5)  # products of bfloat16 are exact in float32
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == jnp.bfloat16
        a, b = (np.asarray(x, np.float32) for x in (a, b))
        assert np.linalg.norm(a - b) < 0.02 * np.linalg.norm(b)


def test_logits_of_more_than_a_chunk_never_exist():
    inputs, chunk = arrays(), 8

    def largest(jaxpr) -> int:
        sizes = [v.aval.size for e in jaxpr.eqns for v in e.outvars if v.aval.shape[-1:] == (VOCABULARY,)]
        inner = [p for e in jaxpr.eqns for p in jax.tree.leaves(list(e.params.values()), is_leaf=lambda x: x is None)]
        inner = [getattr(p, "jaxpr", p) for p in inner]
        return max(sizes + [largest(p) for p in inner if hasattr(p, "eqns")], default=0)

    taken = jax.make_jaxpr(lambda *of: gradients(cross_entropy, *of, chunk))(*inputs)
    assert largest(taken.jaxpr) == max(chunk, WIDTH) * VOCABULARY
    whole = jax.make_jaxpr(lambda *of: gradients(plain, *of))(*inputs)
    assert largest(whole.jaxpr) == BATCH * LENGTH * VOCABULARY
