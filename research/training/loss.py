"""Weighted cross-entropy of features under an output layer, without ever holding the logits of a whole batch.

The backward pass of a cross-entropy needs nothing but the softmax, so both gradients are taken in the forward pass,
chunk by chunk, while a chunk's logits exist. What is kept for the backward pass is one array of the features' shape
and one of the kernel's.

A chunk holds some positions of *every* row, never some rows of the batch: rows are split over the devices, so a chunk
of rows would leave most of them idle, and flattening rows and positions would move features between them. Of `n`
chunks, chunk `i` holds the positions `i, i + n, i + 2n, …`, so that a length split over devices stays split as well.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from research import models


def cross_entropy(
    hidden: Float[Array, "batch length width"],
    kernel: Float[Array, "width vocabulary"],
    bias: Float[Array, " vocabulary"] | None,
    targets: Int[Array | np.ndarray, "batch length"],
    weights: Float[Array | np.ndarray, "batch length"],
    chunk: int,
    z_loss: float = 0.0,
    softcap: float = 0.0,
) -> tuple[Float[Array, ""], Float[Array, "batch length"]]:
    """The summed loss to be minimised, and the cross-entropy of every place in nats.

    Logits and both results are float32, whatever the dtype of `hidden` and `kernel`.

    Args:
      hidden: features.
      kernel: of the output layer.
      bias: of the output layer.
      targets: ids; those of places with weight 0 do not matter, as long as they are in the vocabulary.
      weights: of each place in the sum.
      chunk: places whose logits exist at once, over all devices; at least one position of every row does.
      z_loss: factor on the squared log-partition (PaLM, section 5).
      softcap: a logit l is softcap * tanh(l / softcap) (Gemma 2); 0: as it is.

    Returns:
      The sum of `weights * (cross-entropy + z_loss * log-partition ** 2)`, to be divided by the weight of the global
      batch; and the cross-entropies alone, unweighted, through which no gradient flows.
    """
    batch, length, _ = hidden.shape
    pieces = -(-length // max(1, chunk // batch))
    parts = models.extent("length")
    size = -(-length // (pieces * parts)) * parts

    def split(x: Array | np.ndarray) -> Array:
        x = jnp.pad(jnp.asarray(x), ((0, 0), (0, pieces * size - length)) + ((0, 0),) * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(batch, size, pieces, *x.shape[2:]), 2, 0)

    hidden = models.with_logical_constraint(hidden, ("batch", "length", "residual"))
    # one gathering of the kernel for all chunks, where it is split over devices along its width
    kernel = models.with_logical_constraint(kernel, (None, "vocab"))
    total, losses = _summed((z_loss, softcap), split(hidden), kernel, bias, split(targets), split(weights))
    return total, jnp.moveaxis(losses, 0, 2).reshape(batch, pieces * size)[:, :length]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _summed(settings, hidden, kernel, bias, targets, weights):
    """The summed loss and the cross-entropies of `[pieces, batch, size, …]`."""
    z_loss, softcap = settings

    def piece(total, part):
        hidden, targets, weights = part
        _, partition, losses = _losses(softcap, hidden, kernel, bias, targets)
        return total + jnp.sum(weights * (losses + z_loss * partition**2)), losses

    return lax.scan(piece, jnp.float32(0), (hidden, targets, weights))


def _losses(softcap, hidden, kernel, bias, targets):
    """Logits, log-partition and cross-entropy of one piece, float32."""
    logits = jnp.einsum("blw,wv->blv", hidden, kernel, preferred_element_type=jnp.float32)
    logits = models.with_logical_constraint(logits, ("batch", "length", "vocab"))
    if bias is not None:
        logits = logits + bias.astype(jnp.float32)
    logits = models.softcapped(logits, softcap)
    partition = jax.nn.logsumexp(logits, axis=-1)
    # a masked sum, not a gather: each device sums over its own part of the vocabulary
    picked = jnp.sum(jnp.where(_chosen(targets, logits), logits, 0), axis=-1)
    return logits, partition, partition - picked


def _chosen(targets, logits):
    return targets[..., None] == lax.broadcasted_iota(targets.dtype, logits.shape, logits.ndim - 1)


def _forward(settings, hidden, kernel, bias, targets, weights):
    z_loss, softcap = settings

    def piece(carry, part):
        total, kernel_gradient, bias_gradient = carry
        hidden, targets, weights = part
        logits, partition, losses = _losses(softcap, hidden, kernel, bias, targets)
        total = total + jnp.sum(weights * (losses + z_loss * partition**2))
        probabilities = jnp.exp(logits - partition[..., None])
        gradient = (1 + 2 * z_loss * partition)[..., None] * probabilities - _chosen(targets, logits)
        gradient = weights[..., None] * gradient
        if softcap:
            gradient = gradient * (1 - (logits / softcap) ** 2)
        if bias is not None:
            bias_gradient = bias_gradient + jnp.sum(gradient, axis=(0, 1))
        # in the features' dtype, so that both products run at its speed; they are accumulated in float32
        gradient = gradient.astype(hidden.dtype)
        hidden_gradient = jnp.einsum("blv,wv->blw", gradient, kernel, preferred_element_type=jnp.float32)
        kernel_gradient = kernel_gradient + jnp.einsum(
            "blw,blv->wv", hidden, gradient, preferred_element_type=jnp.float32
        )
        return (total, kernel_gradient, bias_gradient), (losses, hidden_gradient.astype(hidden.dtype))

    zeros = models.with_logical_constraint(jnp.zeros(kernel.shape, jnp.float32), (None, "vocab"))
    bias_zeros = None if bias is None else jnp.zeros(bias.shape, jnp.float32)
    start = (jnp.float32(0), zeros, bias_zeros)
    (total, kernel_gradient, bias_gradient), (losses, hidden_gradient) = lax.scan(
        piece, start, (hidden, targets, weights)
    )
    bias_gradient = None if bias is None else bias_gradient.astype(bias.dtype)
    return (total, losses), (hidden_gradient, kernel_gradient.astype(kernel.dtype), bias_gradient)


def _backward(settings, gradients, cotangents):
    scale, _ = cotangents
    hidden, kernel, bias = jax.tree.map(lambda gradient: gradient * scale.astype(gradient.dtype), gradients)
    return hidden, kernel, bias, None, None


_summed.defvjp(_forward, _backward)
