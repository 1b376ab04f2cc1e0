"""A run folder is the model that was trained."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import research
from research import config, interop
from research.data import tokenizers
from research.errors import InputError
from research.inference.generation import Sampling
from research.inference.requests import Continuation
from research.runs import convert, loading, run_folder
from research.training import checkpoint, memory
from research.training.state import TrainState
from tests.evaluation.shared import model


def test_a_run_folder_is_the_model_that_was_trained(tmp_path):
    lm = model()
    run_folder.claim(tmp_path, config.Experiment(model=lm.config, objectives=lm.objectives), lm.tokenizer)
    trained = TrainState(jnp.int32(3), jax.tree.map(jnp.asarray, lm.params), {"count": jnp.int32(3)}, jnp.uint32(0))
    with checkpoint.manager(tmp_path, config.Checkpoint()) as manager:
        checkpoint.save(manager, trained)
    loaded = research.load(str(tmp_path))
    assert replace(loaded, params=lm.params, tokenizer=lm.tokenizer) == lm
    assert loaded.tokenizer.digest == lm.tokenizer.digest
    jax.tree.map(np.testing.assert_array_equal, loaded.params, lm.params)
    (tmp_path / "experiment.json").unlink()
    with pytest.raises(InputError, match="not a whole run folder"):
        research.load(str(tmp_path))


def test_a_step_is_named_behind_the_folder():
    assert loading.split_step("runs/a@20") == ("runs/a", 20)
    assert loading.split_step("runs/a") == ("runs/a", None) and loading.split_step("a@b") == ("a@b", None)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model whose matrices eight devices can split, as a run folder and as one of Hugging Face."""
    folder = tmp_path_factory.mktemp("saved")
    changes = {"attention.heads": 8, "attention.kv_heads": 8, "width": 64, "mlp.width": 128, "vocabulary": 416}
    lm = model(**changes)
    lm = replace(lm, params=jax.tree.map(jnp.asarray, lm.params))
    convert.write_run(folder / "run", lm, "")
    interop.write(folder / "huggingface", lm.config, lm.params, tokenizers.load("bytes"))
    return folder


def held(params):
    """Bytes on each device."""
    found = [0] * 8
    for leaf in jax.tree.leaves(params):
        for shard in leaf.addressable_shards:
            found[shard.device.id] += shard.data.nbytes
    return found


@pytest.mark.parametrize("form", ["run", "huggingface"])
def test_each_of_eight_devices_loads_an_eighth_of_a_model(saved, form):
    """Bit by bit what one device would load."""
    one, split = research.load(str(saved / form)), research.load(str(saved / form), config.Mesh(tensor=8))
    jax.tree.map(np.testing.assert_array_equal, one.params, split.params)
    matrices = [leaf for leaf in jax.tree.leaves(split.params) if leaf.ndim > 2]
    assert all(leaf.addressable_shards[0].data.nbytes * 8 == leaf.nbytes for leaf in matrices)
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(one.params))
    assert max(held(split.params)) < 1.02 * whole / 8
    half = research.load(str(saved / form), config.Mesh(tensor=8), "bfloat16")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(half.params)} == {"bfloat16"}


@pytest.mark.parametrize(
    "mesh", [config.Mesh(tensor=8), pytest.param(config.Mesh(data=1, fsdp=8), marks=pytest.mark.slow)]
)
def test_a_model_that_is_split_over_eight_devices_is_the_model_on_one(saved, mesh):
    """Scores agree within 1e-4, and greedy texts are the same; along the width too, with fewer rows than devices."""
    one, split = research.load(str(saved / "run")), research.load(str(saved / "run"), mesh)
    requests, how = [Continuation("one and two ", "are three"), Continuation("and ", "four")], one.prompt_formats()[0]
    scores = [
        {number: score.log_probability for done in each.score_requests(how, requests) for number, score in done[0]}
        for each in (one, split)
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)
    np.testing.assert_allclose(one.logits(["one two"])[0], split.logits(["one two"])[0], atol=1e-4)
    assert one.generate("one two", Sampling(tokens=8)) == split.generate("one two", Sampling(tokens=8))


def test_a_model_on_a_mesh_is_converted_as_one_on_one_device(saved, tmp_path):
    """Byte by byte."""
    for name, mesh in {"one": None, "split": config.Mesh(tensor=8)}.items():
        options = convert.Options(to="huggingface", dtype="bfloat16", mesh=mesh)
        convert.convert(str(saved / "huggingface"), tmp_path / name, options)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert "model.safetensors" in files and files == sorted(path.name for path in (tmp_path / "split").iterdir())
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "split" / name).read_bytes() for name in files)


def test_a_mesh_that_does_not_fit_is_said(saved, monkeypatch):
    with pytest.raises(InputError, match=r"mesh\.tensor"):
        research.load(str(saved / "run"), config.Mesh(tensor=3))
    monkeypatch.setattr(memory, "device_memory", lambda sharing: 2**16)
    with pytest.raises(InputError, match=r"split them over \d+ or more devices .*--dtype bfloat16 halves that"):
        research.load(str(saved / "run"))
