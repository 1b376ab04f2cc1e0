"""A checkpoint is saved and read whatever characters the name of its folder has."""

import jax.numpy as jnp
import numpy as np
import pytest

from research import config
from research.training import checkpoint
from research.training.state import TrainState


@pytest.mark.parametrize("name", ["[bold]", "a b * ?", "#@{x}", "50%20é"])
def test_a_folder_with_odd_characters(tmp_path, name):
    state = TrainState(jnp.int32(1), {"a": jnp.arange(3.0)}, {"m": jnp.ones(2)}, jnp.uint32(0))
    with checkpoint.manager(tmp_path / name, config.Checkpoint()) as manager:
        checkpoint.save(manager, state)
    assert checkpoint.steps(tmp_path / name) == [1]
    np.testing.assert_array_equal(checkpoint.restore(tmp_path / name, state).params["a"], [0, 1, 2])
