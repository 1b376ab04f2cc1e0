"""Adapters that are kept apart: `peft` loads them onto the published model, with the same numbers."""

import json
from dataclasses import replace

import jax
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

LORA = Lora(rank=3, alpha=5.0)
PARTIAL = Lora(rank=2, targets=("*/query", "*/value", "*/mlp/up"))


@pytest.mark.parametrize(
    ("name", "lora"),
    [("llama 3.1", LORA), ("gpt2", LORA), ("gpt2", PARTIAL), ("modernbert", PARTIAL), ("bert", LORA), ("t5 1.1", LORA)],
)
def test_peft_loads_what_is_written(tmp_path, name, lora):
    peer = peers.peer(name)
    plain, _, params = peers.ours(peer)
    model = replace(plain, lora=lora)
    leaves = models.flatten(params) | adapters.create(model, jax.random.key(0))
    random = np.random.default_rng(0)
    for path in [path for path in leaves if path.endswith("lora_b")]:
        leaves[path] = random.normal(0, 0.3, leaves[path].shape).astype(np.float32)
    peft.write(tmp_path / "adapter", model, models.unflatten(leaves), "the/base")
    assert json.loads((tmp_path / "adapter/adapter_config.json").read_text())["base_model_name_or_path"] == "the/base"

    batch = peers.batch(name, plain.vocabulary)
    ours = np.asarray(models.logits(model, models.unflatten(leaves), batch))
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
    leaves = models.flatten(params) | adapters.create(model, jax.random.key(0))
    with pytest.raises(InputError, match="orders its rows otherwise"):
        peft.write(tmp_path / "adapter", model, models.unflatten(leaves), "the/base")
