"""What is saved comes back bit by bit, on any mesh; damage is noticed and named; what is kept is what was asked for."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import models
from research.config import Checkpoint, Mesh, Optimizer
from research.errors import InputError
from research.sharding import layout
from research.training import checkpoint, state
from research.training.optimizer import optimizer
from tests.models import tiny

FOUR, OTHER = Mesh(data=2, fsdp=2, tensor=2), Mesh(data=1, fsdp=4, tensor=2)


def abstract(mesh=FOUR, name="adamw", **changes):
    model = tiny.model(**changes)
    return state.abstract(
        model, optimizer(Optimizer(name=name), lambda _: 0.0, models.axes(model)), layout(mesh, model)
    )


def made(step=0, seed=0, like=None):
    """A state of random numbers, as if after so many steps."""
    random = np.random.default_rng(seed)

    def fill(leaf):
        values = random.normal(size=leaf.shape) if leaf.dtype == np.float32 else random.integers(0, 9, leaf.shape)
        return jax.device_put(np.asarray(values, leaf.dtype), leaf.sharding)

    whole = jax.tree.map(fill, like or abstract())
    return replace(whole, step=jax.device_put(jnp.int32(step), whole.step.sharding))


def saved(run, *states_, losses=None, **keep):
    with checkpoint.manager(run, Checkpoint(**keep)) as manager:
        for each, loss in zip(states_, losses or [None] * len(states_), strict=True):
            checkpoint.save(manager, each, loss)
    return run


def assert_identical(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(ours), jax.device_get(theirs))


@jax.jit
def _moved(params):
    return jax.tree.map(lambda x: x * 1.5 + 1, params)


moved = jax.jit(lambda s: s.advance(_moved(s.params), s.optimizer_state), donate_argnums=0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with checkpoints of steps 2 and 4; do not change it."""
    return saved(tmp_path_factory.mktemp("run"), made(2, seed=2), made(4, seed=4))


def test_a_save_in_the_background_keeps_the_state_of_its_step(tmp_path):
    now = made(1)
    with checkpoint.manager(tmp_path, Checkpoint()) as manager:
        checkpoint.save(manager, now)
        for _ in range(5):
            now = moved(now)  # donates what is being saved
    assert_identical(checkpoint.restore(tmp_path, abstract()), made(1))


def test_restored_goes_on_as_if_never_stopped(run):
    uninterrupted, resumed = made(4, seed=4), checkpoint.restore(run, abstract())
    for _ in range(3):
        uninterrupted, resumed = moved(uninterrupted), moved(resumed)
    assert_identical(resumed, uninterrupted)


@pytest.mark.parametrize("mesh", [OTHER, Mesh()], ids=["other", "copies"])
def test_another_mesh_restores_the_same_bits(run, mesh):
    like = abstract(mesh)
    restored = checkpoint.restore(run, like)
    assert_identical(restored, made(4, seed=4))
    assert jax.tree.map(lambda x: x.sharding, restored) == jax.tree.map(lambda x: x.sharding, like)


def test_any_step_and_the_parameters_alone(run, tmp_path):
    assert checkpoint.steps(run) == [2, 4]
    assert_identical(checkpoint.restore(run, abstract(), step=2), made(2, seed=2))
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4" / "training")
    assert_identical(checkpoint.restore_params(tmp_path / "run", abstract().params), made(4, seed=4).params)


def test_what_is_not_there_is_refused(run, tmp_path):
    with pytest.raises(InputError, match=r"no checkpoint of step 3; it has \[2, 4\]"):
        checkpoint.restore(run, abstract(), step=3)
    with pytest.raises(InputError, match="no checkpoint"):
        checkpoint.restore(tmp_path, abstract())
    for other in (abstract(width=32), abstract(**{"norm.kind": "layernorm", "norm.bias": True}), abstract(name="lion")):
        with pytest.raises(InputError, match="not of this experiment"):
            checkpoint.restore(run, other)


def test_a_flipped_bit_anywhere_is_noticed_or_harmless(tmp_path):
    """In every file: either the state is refused, or it is the one that was saved."""
    whole = made(1, like=tiny_state())
    folder = saved(tmp_path, whole) / "checkpoints" / "1"
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), whole)
    random, noticed = np.random.default_rng(0), set()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        for place in random.integers(0, len(content), 3):
            flipped = bytearray(content)
            flipped[place] ^= 1 << random.integers(8)
            path.write_bytes(flipped)
            try:
                assert_identical(checkpoint.restore(tmp_path, like), whole)
            except InputError as error:
                noticed.add(str(error))
        path.write_bytes(content)
    for array in ("params: array kernel", "training: array optimizer_state.mu"):
        assert any(array in message for message in noticed)
    assert all("there is no earlier one" in message for message in noticed)


def tiny_state():
    def shape(*sizes, dtype=np.float32):
        whole = layout(Mesh(data=1), tiny.model(), jax.devices()[:1])
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=whole.replicated)

    params = {"kernel": shape(64, 64), "bias": shape(3)}
    return state.TrainState(shape(dtype=np.int32), params, {"mu": shape(64, 64)}, shape(dtype=np.uint32))


@pytest.mark.parametrize("damage", ["truncated", "missing", "unhashed"])
def test_a_damaged_checkpoint_is_named_with_the_way_back(run, tmp_path, damage):
    shutil.copytree(run, tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints" / "4"
    arrays = list((folder / "params").rglob("d/*"))
    if damage == "truncated":
        for path in arrays:
            path.write_bytes(path.read_bytes()[:-100])
    elif damage == "missing":
        for path in arrays:
            path.unlink()
    else:
        hashes = json.loads((folder / "params" / "checksums.0.json").read_text())
        hashes["chunks"].pop("embedding/0.0")
        (folder / "params" / "checksums.0.json").write_text(json.dumps(hashes))
    with pytest.raises(InputError, match=f"step 4 is damaged: params: .*delete {folder} to go on from step 2"):
        checkpoint.restore(tmp_path / "run", abstract())
    shutil.rmtree(folder)
    assert_identical(checkpoint.restore(tmp_path / "run", abstract()), made(2, seed=2))


def test_what_is_kept(tmp_path):
    small = [made(step, like=tiny_state()) for step in range(1, 8)]
    losses = [9.0, 2.0, float("nan"), 5.0, None, 4.0, 3.0]
    saved(tmp_path, *small, losses=losses, keep_last=2, keep_every=4, keep_best=True)
    assert checkpoint.steps(tmp_path) == [2, 4, 6, 7]  # the best, the multiple of 4, the last two
    saved(tmp_path, made(7, seed=1, like=tiny_state()), made(8, like=tiny_state()), losses=[0.0, 1.0], keep_best=True)
    assert checkpoint.steps(tmp_path) == [7, 8]  # what was there is left alone, and its loss is remembered
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), small[-1])
    assert_identical(checkpoint.restore(tmp_path, like, step=7), small[-1])


KILLED = """
import os, signal, sys
from pathlib import Path
from research.training import checkpoint
from tests.training.test_checkpoint import made, saved, tiny_state
run = Path(sys.argv[1])
saved(run, made(1, like=tiny_state()))
checkpoint._write_hashes = lambda folder: os.kill(os.getpid(), signal.SIGKILL)
saved(run, made(2, like=tiny_state()))
"""


def test_killed_while_saving_leaves_the_checkpoint_before(tmp_path):
    root = Path(__file__).parents[2]
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=root, env=os.environ, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert any("2" in path.name for path in (tmp_path / "checkpoints").iterdir())  # it was under way
    assert checkpoint.steps(tmp_path) == [1]
    saved(tmp_path, made(2, like=tiny_state()))
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["1", "2"]
