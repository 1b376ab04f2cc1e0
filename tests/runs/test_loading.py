"""A run folder is the model that was trained."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import research
from research import config
from research.errors import InputError
from research.runs import loading, run_folder
from research.training import checkpoint
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
