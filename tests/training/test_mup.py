"""muP, by the rules of table 8 of Yang et al. 2022: what a kernel between layers, an output layer and all else have at
four times the base width, and that the base width is the standard parametrisation itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.config import Attention, Experiment, Head, Model, Mup, Optimizer, resolve
from research.config.validation import validate
from research.errors import InputError
from research.models.projection import initial_deviation
from research.training.optimizer import optimizer
from tests.training.test_optimizer import AXES, filled

BASE = Model(width=64, attention=Attention(heads=4), mup=Mup(base_width=64))
WIDE = Model(width=256, attention=Attention(heads=16), mup=Mup(base_width=64))
HIDDEN = ("query", "out", "down")  # of AXES: kernels between layers


def test_the_base_width_is_the_standard_parametrisation():
    standard = Model(width=64, attention=Attention(heads=4))
    assert BASE.width_ratio == standard.width_ratio == 1
    assert resolve(BASE, 100, 32).attention == resolve(standard, 100, 32).attention
    for residual in (False, True):
        assert initial_deviation(BASE, 64, residual) == initial_deviation(standard, 64, residual)


@pytest.mark.parametrize("scale", [0.02, None])
def test_initial_kernels_shrink_with_the_root_of_the_width_and_the_output_layer_does_not(scale):
    base, wide = (Model(**{**vars(model), "initial_scale": scale, "head": Head(tied=False)}) for model in (BASE, WIDE))
    assert initial_deviation(wide, 256) == pytest.approx(initial_deviation(base, 64) / 2)
    outputs = (initial_deviation(each, each.width) * each.width_ratio**0.5 for each in (base, wide))
    assert next(outputs) == pytest.approx(next(outputs))


def test_attention_is_scaled_by_the_width_of_heads_not_by_its_root():
    wide = Model(width=256, attention=Attention(heads=4), mup=Mup(base_width=64, base_head_width=16))
    assert resolve(wide, 100, 32).attention.scale == pytest.approx(16**0.5 / 64)
    assert resolve(resolve(wide, 100, 32), 100, 32) == resolve(wide, 100, 32)


@pytest.mark.parametrize("name", ["adamw", "lion"])
def test_learning_rates_of_kernels_between_layers_fall_with_the_width_and_decay_does_not(name):
    params, gradients = filled(AXES, 0), filled(AXES, 1)

    def update(ratio: float, decay: float) -> dict[str, np.ndarray]:
        made = optimizer(Optimizer(name=name, weight_decay=decay, clip=0), lambda step: jnp.float32(0.1), AXES, ratio)
        return jax.tree.map(np.asarray, made.update(gradients, made.init(params), params)[0])

    base, wide, decayed = update(1, 0), update(4, 0), update(4, 0.5)
    for path in AXES:
        np.testing.assert_allclose(wide[path], base[path] / (4 if path in HIDDEN else 1), rtol=1e-5, atol=1e-8)
        if path in HIDDEN:
            np.testing.assert_allclose(decayed[path] - wide[path], -0.05 * params[path], rtol=1e-3, atol=1e-5)


def test_other_optimizers_are_refused():
    with pytest.raises(InputError, match=r"model\.mup: .* adamw and lion, not muon"):
        validate(Experiment(model=BASE, optimizer=Optimizer(name="muon")))
