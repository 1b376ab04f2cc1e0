"""A ladder of checkpoints that others trained is named by one pattern, and evaluated with what its training took."""

import json

import jax
import numpy as np
import pytest

from research import interop
from research.commands import evaluate as evaluate_command
from research.config import replace_fields, resolve
from research.data import hub, tokenizers
from research.errors import InputError
from research.interop.families import FAMILIES
from research.runs import ladders, loading
from tests.models.tiny import init

TINY = {"vocabulary": 264, "width": 16, "depth": 1, "attention.heads": 2, "mlp.width": 24, "positions.max_length": 64}


def save(folder, seed: int) -> None:
    """A Pythia of random weights."""
    model = resolve(replace_fields(FAMILIES["gpt_neox"].base, {**TINY, "head.tied": False}), 264, 64)
    folder.parent.mkdir(parents=True, exist_ok=True)
    interop.write(folder, model, init(model, jax.random.key(seed)), tokenizers.load("bytes"))


@pytest.fixture(scope="module")
def pythia(tmp_path_factory):
    """Two sizes, two revisions each, as folders of revisions and as a cache of the hub."""
    root = tmp_path_factory.mktemp("EleutherAI")
    for number, step in enumerate((64, 1000)):
        save(root / "pythia-14m" / f"step{step}", number)
        cache = root / "models--EleutherAI--pythia-31m"
        save(cache / "snapshots" / f"abc{step}", 2 + number)
        (cache / "refs").mkdir(exist_ok=True)
        (cache / "refs" / f"step{step}").write_text(f"abc{step}")
    return root


def test_a_pattern_is_all_that_it_matches_in_the_order_of_numbers(pythia, monkeypatch):
    names = ladders.expand([f"{pythia}/*pythia-*m@step*"])
    steps = [name.removeprefix(f"{pythia}/") for name in names]
    cached = "models--EleutherAI--pythia-31m"
    assert steps == [f"{cached}@step64", f"{cached}@step1000", "pythia-14m@step64", "pythia-14m@step1000"]
    assert ladders.expand([f"{pythia}/pythia-14m/step*", "plain"]) == [
        *(f"{pythia}/pythia-14m/step{step}" for step in (64, 1000)),
        "plain",
    ]
    monkeypatch.setattr(hub, "cached", lambda: pythia)
    assert ladders.expand(["EleutherAI/pythia-*m@step?000"]) == ["EleutherAI/pythia-31m@step1000"]
    monkeypatch.setattr(hub, "revisions", lambda name: ["step8", "step16", "other"])
    assert ladders.expand(["EleutherAI/pythia-31m@step*"]) == [f"EleutherAI/pythia-31m@step{n}" for n in (8, 16)]
    with pytest.raises(InputError, match="matches no folder here"):
        ladders.expand([f"{pythia}/nothing-*"])


def test_each_revision_has_its_own_weights(pythia):
    names = ladders.expand([f"{pythia}/*pythia-*m@step*"])
    kernels = [np.asarray(loading.load(name).params["embedding"]) for name in names]
    assert len({kernel.tobytes() for kernel in kernels}) == len(names)
    with pytest.raises(InputError, match="without refs/step7"):
        loading.load(f"{pythia}/models--EleutherAI--pythia-31m@step7")
    with pytest.raises(InputError, match="has no folder step7"):
        loading.load(f"{pythia}/pythia-14m@step7")


def test_training_is_told_by_the_table():
    model = resolve(replace_fields(FAMILIES["gpt_neox"].base, TINY), 264, 64)
    half, whole = (ladders.trained(f"EleutherAI/pythia-160m@step{n}", model) for n in (71_500, 143_000))
    assert whole.tokens == 143_000 * 1024 * 2048 and whole.flops == 2 * half.flops
    assert ladders.trained("allenai/OLMo-2-0425-1B@stage1-step10000-tokens21B", model).tokens == 21 * 10**9
    assert ladders.trained("google/multiberts-seed_3-step_20k", model).tokens == 20_000 * 256 * 512
    assert ladders.trained("some/model@step3", model) is None


def test_a_ladder_is_evaluated(pythia, tmp_path):
    names = [f"{pythia}/pythia-14m@step*"]
    options = ["--tasks", "copying", "--limit", "2", "--untrained", "False", "--out", str(tmp_path)]
    evaluate_command.main([*names, *options])
    found = json.loads((tmp_path / "checkpoints.json").read_text())
    assert [one["checkpoint"] for one in found] == ["pythia-14m@step64", "pythia-14m@step1000"]
    assert [one["tokens"] for one in found] == [64 * 2_097_152, 1000 * 2_097_152]
    results = json.loads((tmp_path / "results.json").read_text())
    assert {one["checkpoint"] for one in results} == {one["checkpoint"] for one in found}
