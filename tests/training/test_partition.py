"""What is frozen stays bit by bit, costs the optimizer nothing, and the rest trains as usual."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from research import config, models, sharding
from research.config import Attention, Experiment, Lora, Model
from research.errors import InputError
from research.models import adapters
from research.objectives import Batch
from research.training import partition, state
from research.training.compiled_steps import compiled_steps
from tests.models.tiny import init

MODEL = config.resolve(Model(width=16, depth=2, vocabulary=32, attention=Attention(heads=2)), 32, 8)
EXPERIMENT = Experiment(
    model=MODEL,
    data=config.Data(length=8, batch=4),
    optimizer=config.Optimizer(learning_rate=1e-2),
    schedule=config.Schedule(steps=4, warmup=0),
    mesh=config.Mesh(data=2, fsdp=2, tensor=2),
)
RANDOM = np.random.default_rng(0)
TOKENS = RANDOM.integers(0, 32, (4, 9)).astype(np.int32)
PLACES = np.broadcast_to(np.arange(8, dtype=np.int32), (4, 8))
BATCH = Batch(TOKENS[:, :-1], TOKENS[:, 1:], np.ones((4, 8), np.float32), PLACES, np.ones_like(PLACES), PLACES)


def changed(experiment: Experiment, leaves: dict) -> tuple[set[str], list[float]]:
    """The paths that three steps change, and the losses."""
    programs = compiled_steps(experiment)
    run = state.begin(models.unflatten(leaves), programs.optimizer, 0, programs.state, programs.frozen)
    before = {path: np.array(leaf) for path, leaf in leaves.items()}
    run = jax.device_put(run, jax.tree.map(lambda leaf: leaf.sharding, programs.state))
    losses = []
    for _ in range(3):
        run, metrics = programs.train_step(run, sharding.shard_batch(programs.layout, BATCH))
        losses.append(float(metrics.loss))
    after = models.flatten(run.params)
    return {path for path, leaf in before.items() if not np.array_equal(leaf, after[path])}, losses


@pytest.fixture(scope="module")
def leaves() -> dict:
    return models.flatten(init(MODEL, jax.random.key(0)))


def copied(leaves: dict) -> dict:
    return {path: leaf.copy() for path, leaf in leaves.items()}


def test_patterns_freeze(leaves):
    experiment = replace(EXPERIMENT, frozen=("embedding", "decoder/layers/attention/*"))
    frozen = partition.frozen(experiment)
    assert "embedding" in frozen and "decoder/layers/attention/query/kernel" in frozen
    moved, losses = changed(experiment, copied(leaves))
    assert moved == set(leaves) - frozen
    assert losses[-1] < losses[0]
    optimizer_state = jax.tree.leaves(compiled_steps(experiment).state.optimizer_state)
    trained = sum(leaf.size for path, leaf in leaves.items() if path not in frozen)
    assert sum(leaf.size for leaf in optimizer_state if leaf.ndim) == 2 * trained


@pytest.mark.parametrize("bits", [32, 8, 4])
def test_adapters_alone_are_trained(leaves, bits):
    model = replace(MODEL, lora=Lora(rank=2), quantization_bits=bits)
    adapted = jax.jit(adapters.create, static_argnums=0)(model, jax.random.key(1))
    for path, leaf in copied(leaves).items():
        adapted |= adapters.stored(model, path, leaf)
    moved, losses = changed(replace(EXPERIMENT, model=model), adapted)
    assert moved == {path for path in adapted if adapters.is_adapter(path)}
    assert losses[-1] < losses[0]


def test_what_cannot_be_is_told():
    with pytest.raises(InputError, match=r"no parameter matches 'embeding'; nearest: embedding"):
        partition.frozen(replace(EXPERIMENT, frozen=("embeding",)))
    with pytest.raises(InputError, match="no parameter is left to train"):
        partition.frozen(replace(EXPERIMENT, frozen=("*",)))
    with pytest.raises(InputError, match=r"model\.lora\.targets"):
        partition.frozen(replace(EXPERIMENT, model=replace(MODEL, lora=Lora(targets=("nothing",)))))


def test_split_and_join_are_inverse(leaves):
    tree = models.unflatten(leaves)
    trained, fixed = partition.partition(tree, frozenset({"embedding", "decoder/norm/scale"}))
    assert set(models.flatten(fixed)) == {"embedding", "decoder/norm/scale"}
    assert jax.tree.structure(partition.combine(trained, fixed)) == jax.tree.structure(tree)
