"""Norms against their formulas."""

import jax.numpy as jnp
import numpy as np
import pytest

from research import config
from research.models.norm import Norm


@pytest.mark.parametrize(("kind", "bias"), [("layernorm", True), ("layernorm", False), ("rmsnorm", False)])
def test_a_norm_is_its_formula(kind, bias):
    random = np.random.default_rng(0)
    x, scale, shift = random.normal(3, 2, (2, 5, 8)), random.normal(size=8), random.normal(size=8) * bias
    params = {"scale": jnp.asarray(scale)} | ({"bias": jnp.asarray(shift)} if bias else {})
    found = Norm(config.Norm(kind=kind, epsilon=0.1, bias=bias)).apply({"params": params}, jnp.asarray(x))
    centred = x - x.mean(-1, keepdims=True) if kind == "layernorm" else x
    expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 0.1) * scale + shift
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
