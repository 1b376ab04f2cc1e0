"""What is saved on a host's own disk comes back bit by bit, or counts as absent."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.training.local_checkpoint import KEPT, LocalCheckpoints
from tests.training.test_checkpoint import OTHER, abstract, assert_identical, made, moved


@pytest.fixture
def local(tmp_path):
    return LocalCheckpoints(tmp_path, "run")


def test_the_newest_save_comes_back_with_its_progress(local):
    now = made(1)
    for step in range(1, 5):
        local.save(replace(now, step=jax.device_put(jnp.int32(step), now.step.sharding)), {"number": step})
    local.save(now := made(7, seed=7), {"number": 7})
    for _ in range(3):
        now = moved(now)  # donates what is being saved
    local.wait()
    assert local.steps() == [4, 7] and len(local.steps()) == KEPT
    restored = local.restore(abstract(), later_than=3)
    assert restored is not None
    assert_identical(restored[0], made(7, seed=7))
    assert restored[1] == {"number": 7}
    jax.tree.map(lambda leaf, like: leaf.sharding == like.sharding or pytest.fail(), restored[0], abstract())
    assert local.restore(abstract(), later_than=7) is None
    local.drop_after(4)
    assert local.steps() == [4]


def test_each_part_is_kept_once(local):
    state = made(1)
    local.save(state, {})
    local.wait()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert (local.folder / "1" / "state.bin").stat().st_size == size


def test_damage_and_another_mesh_count_as_absent(local):
    local.save(made(2, seed=2), {})
    local.save(made(5, seed=5), {})
    local.wait()
    assert local.restore(abstract(OTHER), later_than=0) is None
    stored = np.memmap(local.folder / "5" / "state.bin", np.uint8, "r+")
    stored[len(stored) // 2] ^= 1
    stored.flush()
    restored = local.restore(abstract(), later_than=0)
    assert restored is not None
    assert_identical(restored[0], made(2, seed=2))
    (local.folder / "2" / "manifest.json").write_text("{")
    assert local.restore(abstract(), later_than=0) is None


def test_what_cannot_be_written_is_raised_by_the_next_save(local):
    local.folder.parent.mkdir(parents=True)
    local.folder.write_text("a file")
    local.save(made(1), {})
    with pytest.raises(OSError):
        local.wait()
