"""Sizes and initial statistics of the parameters, dropout, and the output layer."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import config, models
from research.config import replace_fields
from research.errors import InputError
from research.models import families
from tests.models.tiny import hidden, init, model, parameters, random_batch

logits = jax.jit(models.logits, static_argnums=0)

# of the released checkpoints, as `transformers` counts them: language models with their heads, without poolers
PUBLISHED = {
    ("gpt2", "124m"): 124_439_808,
    ("gpt2", "355m"): 354_823_168,
    ("gpt2", "774m"): 774_030_080,
    ("gpt2", "1.5b"): 1_557_611_200,
    ("llama", "1b"): 1_235_814_400,
    ("llama", "8b"): 8_030_261_248,
    ("llama", "70b"): 70_553_706_496,
    ("bert", "base"): 109_514_298,
    ("bert", "large"): 335_174_458,
    ("roberta", "base"): 124_697_433,
    ("roberta", "large"): 355_412_057,
    ("t5", "small"): 76_961_152,
    ("t5", "base"): 247_577_856,
    ("t5", "large"): 783_150_080,
}


@pytest.mark.parametrize(("family", "size"), PUBLISHED)
def test_families_have_the_parameters_of_the_released_checkpoints(family, size):
    resolved = config.resolve(getattr(families, family)(size), 0, 512)
    shapes = jax.eval_shape(lambda: models.init(resolved, jax.random.key(0)))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == PUBLISHED[family, size]


def test_an_unknown_size_is_answered_with_those_that_exist():
    with pytest.raises(InputError, match=r"'124M'.*124m, 355m"):
        families.gpt2("124M")


def deviation(array):
    return float(jnp.std(array))


def test_initial_parameters_have_the_scales_of_the_config():
    wide = model(
        width=128,
        initial_scale=0.02,
        **{
            "attention.heads": 8,
            "attention.kv_heads": 8,
            "mlp.width": 256,
            "embedding.initial_scale": 0.05,
            "mlp.bias": True,
        },
    )
    params = init(wide, jax.random.key(0))
    layers = params["decoder"]["layers"]
    assert np.isclose(deviation(params["embedding"]), 0.05, rtol=0.05)
    assert np.isclose(deviation(params["output"]), 0.02, rtol=0.05)
    for kernel in (layers["attention"]["query"]["kernel"], layers["mlp"]["up"]["kernel"]):
        assert np.isclose(deviation(kernel), 0.02, rtol=0.05)
    for kernel in (layers["attention"]["out"]["kernel"], layers["mlp"]["down"]["kernel"]):
        assert np.isclose(deviation(kernel), 0.02 / math.sqrt(2 * wide.depth), rtol=0.05)
    assert (layers["mlp"]["up"]["bias"] == 0).all() and (params["decoder"]["norm"]["scale"] == 1).all()
    first, second = layers["mlp"]["up"]["kernel"]
    assert abs(first - second).max() > 0.01  # layers differ


def test_without_a_scale_kernels_follow_their_fan_in():
    layers = init(model(width=128, initial_scale=None, **{"mlp.width": 256}), jax.random.key(0))["decoder"]["layers"]
    assert np.isclose(deviation(layers["mlp"]["up"]["kernel"]), 128**-0.5, rtol=0.05)
    assert np.isclose(deviation(layers["mlp"]["down"]["kernel"]), 256**-0.5, rtol=0.05)
    assert np.isclose(deviation(layers["attention"]["out"]["kernel"]), 128**-0.5, rtol=0.05)


def test_another_key_gives_other_parameters_and_the_same_key_the_same():
    first, same, other = (init(model(), jax.random.key(seed))["embedding"] for seed in (0, 0, 1))
    assert (first == same).all() and (first != other).all()


def test_dropout_needs_a_key_and_follows_it():
    packed = random_batch(0, 2, 24)
    dropping, plain = model(dropout=0.3), model()
    params = parameters(plain)
    without = hidden(dropping, params, packed)
    np.testing.assert_array_equal(without, hidden(plain, params, packed))
    one, again, two = (hidden(dropping, params, packed, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert abs(one - two).max() > 0.1 and abs(one - without).max() > 0.1


def test_dropout_of_nothing_is_none():
    packed = random_batch(0, 2, 24)
    params = parameters(model())
    np.testing.assert_array_equal(hidden(model(), params, packed, jax.random.key(0)), hidden(model(), params, packed))


def test_logits_are_features_times_the_output_layer():
    packed = random_batch(0, 2, 24)
    for changes in (
        {"head.tied": True},
        {"head.tied": False, "head.bias": True},
        {"head.tied": True, "head.logits_scale": 0.25},
    ):
        changed = model(**changes)
        params = parameters(changed)
        kernel, bias = models.output(changed, params)
        expected = hidden(changed, params, packed) @ kernel + (0 if bias is None else bias)
        got = logits(changed, params, packed)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    scaled, unscaled = (logits(replace_fields(changed, {"head.logits_scale": s}), params, packed) for s in (0.25, 1.0))
    np.testing.assert_allclose(scaled, 0.25 * unscaled, rtol=1e-4, atol=1e-4)


def test_sixteen_bit_parameters_give_sixteen_bit_features_and_float32_logits():
    packed = random_batch(0, 2, 24)
    small = model()
    params = parameters(small)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    assert hidden(small, half, packed).dtype == jnp.bfloat16
    got = logits(small, half, packed)
    assert got.dtype == jnp.float32
    assert np.corrcoef(np.ravel(got), np.ravel(logits(small, params, packed)))[0, 1] > 0.99
