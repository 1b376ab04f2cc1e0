"""What layers add to the loss beside the cross-entropy."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import models
from research.config import Mesh, Step
from research.models import block
from research.models.mlp import MLP
from research.sharding import layout
from research.training.step import summed_loss
from tests.models import tiny

LENGTH, FACTOR = 12, 0.3


class Penalised(MLP):
    """An MLP with a loss on the size of its first kernel."""

    def __call__(self, x):
        y, _ = super().__call__(x)
        return y, FACTOR * jnp.sum(self.variables["params"]["up"]["kernel"] ** 2)


@pytest.mark.parametrize("encoder_depth", [0, 1])
def test_an_auxiliary_loss_is_summed_over_layers_and_added_to_the_mean(monkeypatch, encoder_depth):
    """In a rematerialised decoder of 2 layers, with an encoder and without; what is reported is the cross-entropy."""
    model = tiny.model(LENGTH, encoder_depth=encoder_depth, remat="full")
    params = tiny.parameters(model)
    random = np.random.default_rng(0)
    rows = [[tiny.example(random, 7, source=5 if encoder_depth else None)] for _ in range(2)]
    batch = tiny.batch(rows, LENGTH, 8 if encoder_depth else None)
    batch = replace(batch, weights=batch.weights * 0.5)
    one = layout(Mesh(), model, jax.devices()[:1])

    def loss_and_gradient():
        def loss(params):
            return summed_loss(model, Step(loss_chunk=48), one, params, batch, None)

        return jax.device_get(jax.jit(jax.value_and_grad(loss, has_aux=True))(params))

    def penalty(params):
        kernels = [leaf for path, leaf in models.flatten(params).items() if path.endswith("up/kernel")]
        return batch.weights.sum() * FACTOR * sum(jnp.sum(kernel**2) for kernel in kernels)

    (plain, plain_rows), plain_gradient = loss_and_gradient()
    monkeypatch.setattr(block, "MLP", Penalised)
    (total, rows), gradient = loss_and_gradient()
    added, slope = jax.value_and_grad(penalty)(params)
    assert added > 1
    np.testing.assert_allclose(total, plain + added, rtol=1e-5)
    expected = jax.tree.map(jnp.add, plain_gradient, slope)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), gradient, expected)
    np.testing.assert_allclose(rows.losses, plain_rows.losses, rtol=1e-6)
