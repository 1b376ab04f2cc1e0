"""Sizes, norms, spectra and differences of parameters, against their definitions."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from research import models
from research.analysis import weights
from research.config import Lora
from research.errors import InputError
from research.models import adapters
from tests.analysis.models import language_model


@pytest.fixture(scope="module")
def lm():
    return language_model()


@pytest.fixture(scope="module")
def with_lora():
    return language_model(lora=Lora(rank=2, alpha=6.0))


def test_every_parameter_and_every_product_is_counted(lm):
    table = weights.sizes(lm, length=32)
    counts = [int(count.replace(",", "")) for count in table["parameters"]]
    assert counts[-1] == sum(counts[:-1]) == models.size(lm.params)
    model = lm.config
    pairs = table["part"].index("attention over 32 places")
    expected = (
        4 * model.depth * model.attention.heads * model.attention.head_width * 32 / 1e6
    )  # a product and a sum, with queries and values
    assert table["MFLOPs per token"][pairs] == pytest.approx(expected)
    assert table["MFLOPs per token"][-1] == pytest.approx(sum(table["MFLOPs per token"][:-1]))


def test_matrices_are_maps_between_streams(lm):
    shapes = {path: stack.shape for path, stack in weights.matrices(lm).items()}
    assert shapes["decoder/layers/attention/query/kernel"] == (2, 16, 16)
    assert shapes["decoder/layers/attention/key/kernel"] == (2, 16, 8)
    assert shapes["decoder/layers/attention/out/kernel"] == (2, 16, 16)
    assert shapes["decoder/layers/mlp/down/kernel"] == (2, 24, 16)
    assert shapes["embedding"][0] == 1
    assert not any("norm" in path for path in shapes)


def test_singular_values_are_those_of_the_decomposition(lm):
    stack = weights.matrices(lm)["decoder/layers/mlp/up/kernel"]
    np.testing.assert_allclose(
        weights.singular_values(stack), np.linalg.svd(stack.astype(float), compute_uv=False), rtol=1e-5
    )
    found = weights.spectra(lm, "mlp/up/kernel")
    assert list(found) == ["decoder/layers/mlp/up/kernel"] and found["decoder/layers/mlp/up/kernel"].shape == (2, 16)


def test_norms_are_by_layer(lm):
    norms = weights.norms(lm)
    kernel = np.asarray(lm.params["decoder"]["layers"]["mlp"]["up"]["kernel"])
    np.testing.assert_allclose(norms["decoder/layers/mlp/up/kernel"], np.sqrt((kernel**2).mean(axis=(1, 2))), rtol=1e-5)
    assert norms["embedding"].shape == (1,)


def test_a_difference_is_only_where_something_moved(lm):
    params = jax.tree.map(np.array, lm.params)
    params["decoder"]["layers"]["mlp"]["up"]["kernel"][1] *= 1.5
    moved = weights.difference(lm, replace(lm, params=params))
    np.testing.assert_allclose(moved["decoder/layers/mlp/up/kernel"], [0, 0.5], rtol=1e-5)
    assert sum(change.sum() for change in moved.values()) == pytest.approx(0.5)
    with pytest.raises(InputError, match="different shapes"):
        weights.difference(lm, language_model(width=8, **{"attention.heads": 2}))


def test_what_lora_changed_has_its_rank(with_lora):
    found = weights.adapters_spectra(with_lora)
    base = replace(with_lora, config=adapters.plain(with_lora.config), params=_without_adapters(with_lora.params))
    merged = weights.matrices(with_lora)
    for module, values in found.items():
        change = merged[f"{module}/kernel"] - weights.matrices(base)[f"{module}/kernel"]
        expected = np.linalg.svd(change.astype(float), compute_uv=False)
        assert values.shape == (2, 2)
        np.testing.assert_allclose(values, expected[:, :2], rtol=1e-3)
        np.testing.assert_allclose(expected[:, 2:], 0, atol=1e-4)
    assert len(found) == 7
    with pytest.raises(InputError, match="no adapters"):
        weights.adapters_spectra(base)


def _without_adapters(params: models.Params) -> models.Params:
    leaves = models.flatten(params)
    return models.unflatten({path: leaf for path, leaf in leaves.items() if not adapters.is_adapter(path)})


def test_neighbours_are_the_nearest_embeddings(lm):
    params = jax.tree.map(np.array, lm.params)
    a, b = (lm.tokenizer.encode(letter)[0] for letter in "ab")
    params["embedding"][b] = 3 * params["embedding"][a]
    table = weights.neighbours(replace(lm, params=params), "a", 3)
    assert table["token"][0] == "b" and table["cosine"][0] == pytest.approx(1)
    assert len(table) == 3 and "a" not in table["token"]
