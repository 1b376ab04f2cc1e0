"""Adapters that are kept apart: `peft` loads them onto the published model, with the same numbers."""

import json
from dataclasses import replace

import numpy as np
import pytest

from research import models
from research.config import Lora
from research.errors import InputError
from research.interop import peft
from research.models import adapters

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
theirs = pytest.importorskip("peft")

from tests.interop import peers  # noqa: E402
from tests.models.tiny import logits  # noqa: E402

LORA = Lora(rank=3, alpha=5.0)
PARTIAL = Lora(rank=2, targets=("*/query", "*/value", "*/mlp/up"))


def with_adapters(model, params):
    """These parameters and adapters of random numbers."""
    random, shapes = np.random.default_rng(0), adapters.shapes(model)
    drawn = {path: random.normal(0, 0.3, shapes[path].shape) for path in shapes if adapters.is_adapter(path)}
    return models.unflatten(models.flatten(params) | {path: x.astype(np.float32) for path, x in drawn.items()})


@pytest.mark.parametrize(
    ("name", "lora"),
    [("llama 3.1", LORA), ("gpt2", LORA), ("gpt2", PARTIAL), ("modernbert", PARTIAL), ("bert", LORA), ("t5 1.1", LORA)],
)
def test_peft_loads_what_is_written(tmp_path, name, lora):
    peer = peers.peer(name)
    plain, _, params = peers.ours(peer)
    model = replace(plain, lora=lora)
    adapted = with_adapters(model, params)
    peft.write(tmp_path / "adapter", model, adapted, "the/base")
    assert json.loads((tmp_path / "adapter/adapter_config.json").read_text())["base_model_name_or_path"] == "the/base"

    batch = peers.batch(name, plain.vocabulary)
    ours = np.asarray(logits(model, adapted, batch))
    before = peers.outputs(peer, batch).detach().numpy()
    loaded = theirs.PeftModel.from_pretrained(peer, tmp_path / "adapter").eval()
    with torch.no_grad():
        got = peers.outputs(loaded, batch).numpy()
    assert np.abs(got - before).max() > 0.05 * np.abs(before).max()
    np.testing.assert_allclose(got, ours, atol=1e-4 * np.abs(ours).max())


@pytest.mark.parametrize("name", ["pythia", "gptj", "cohere"])
def test_rows_that_are_ordered_otherwise_are_refused(tmp_path, name):
    plain, _, params = peers.ours(peers.peer(name))
    model = replace(plain, lora=LORA)
    with pytest.raises(InputError, match="orders its rows otherwise"):
        peft.write(tmp_path / "adapter", model, with_adapters(model, params), "the/base")
