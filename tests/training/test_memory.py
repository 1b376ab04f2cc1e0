"""The bound is exact where it counts arrays, and comes before anything is allocated."""

from dataclasses import replace

import jax
import pytest

from research import config
from research.config import Attention, Causal, Data, Experiment, Lora, Mesh, Model, Step
from research.errors import InputError
from research.training import memory
from research.training.compiled_steps import compiled_steps
from tests.models.tiny import init

SMALL = Experiment(
    model=config.resolve(Model(width=64, depth=2, attention=Attention(heads=2)), 256, 32), data=Data(length=32, batch=8)
)


def check(experiment):
    steps = compiled_steps(experiment)
    memory.check(experiment, steps.layout, steps.state, steps.frozen)


def needed(experiment, monkeypatch, available=0):
    monkeypatch.setattr(memory, "device_memory", lambda: available)
    with pytest.raises(InputError) as error:
        check(experiment)
    return int(str(error.value).split("(")[1].split(" bytes")[0].replace(",", ""))


def test_parameters_moments_gradients_and_activations(monkeypatch):
    steps = compiled_steps(SMALL)
    count = sum(leaf.size for leaf in jax.tree.leaves(steps.state.params))
    moments = sum(leaf.nbytes for leaf in jax.tree.leaves(steps.optimizer.init(made(SMALL))))
    rows = SMALL.data.batch // 8  # on each of eight devices
    places = rows * SMALL.data.length
    expected = 4 * count + moments + 4 * count + places * 6 * 4 + places * 2 * 64 * 4
    assert needed(SMALL, monkeypatch) == expected
    monkeypatch.setattr(memory, "device_memory", lambda: expected)
    check(SMALL)


def made(experiment):
    return init(experiment.model, jax.random.key(0))


def test_a_mesh_microbatches_and_adapters_need_less(monkeypatch):
    whole = needed(SMALL, monkeypatch)
    assert needed(replace(SMALL, mesh=Mesh(fsdp=8)), monkeypatch) < whole / 2
    twice = replace(SMALL, data=Data(length=32, batch=16))
    halves = replace(twice, step=Step(accumulation=2))
    assert whole < needed(halves, monkeypatch) < needed(twice, monkeypatch)
    assert needed(replace(SMALL, model=replace(SMALL.model, lora=Lora(rank=2))), monkeypatch) < whole / 2


def test_a_run_that_no_machine_has_memory_for_is_refused_with_the_bytes():
    model = config.resolve(Model(width=65_536, depth=1000, attention=Attention(heads=64)), 50_000, 2048)
    with pytest.raises(InputError, match=r"needs at least [\d,.]+ GiB \([\d,]+ bytes\) on a device that has"):
        check(Experiment(model=model, objectives=(Causal(),), data=Data(length=2048, batch=8)))


def test_the_memory_of_a_machine_is_shared_by_its_cpu_devices(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "CGROUP", tmp_path / "memory.max")
    alone = memory.device_memory()
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.device_memory() == alone and alone > 2**26
    (tmp_path / "memory.max").write_text(f"{2**30}\n")
    assert memory.device_memory() == 2**30 // jax.local_device_count()
