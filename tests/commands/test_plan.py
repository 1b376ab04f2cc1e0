"""A plan holds what a run then needs, names what would fit, and compiles for a TPU that is not there."""

import dataclasses
import importlib.util
import io
import itertools
import re

import jax
import pytest
from rich.console import Console

from research import config, models, sharding
from research.commands import plan
from research.config import MLP, Attention, Data, Experiment, Head, Masked, Mesh, Model, Schedule, Step, config_file
from research.errors import InputError
from research.planning import candidates, chips, compiling, counting, hlo, inference, memory, plan_table, roofline
from research.planning.compiling import Compiled
from research.planning.counting import Piece
from research.training import flops, state
from research.training.compiled_steps import compiled_steps

SMALL = Experiment(
    model=Model(vocabulary=512, width=128, depth=2, remat="full", attention=Attention(heads=2), mlp=MLP(width=256)),
    data=Data(length=64, batch=16),
    schedule=Schedule(steps=100),
    mesh=Mesh(data=2, fsdp=-1),
)
CPUS, H100S = chips.topology("cpu:8", 1), chips.topology("h100:8", 1)


def resolved(experiment):
    return plan._resolved(experiment)


@pytest.fixture(scope="module")
def compiled():
    """Compiled for eight devices, in another process."""
    return compiling.compile(resolved(SMALL), CPUS)


def test_memory_is_what_the_run_then_holds(compiled):
    """Of one of eight CPU devices: arrays exactly, and the whole step within a tenth."""
    programs = compiled_steps(resolved(SMALL))
    made = state.create(resolved(SMALL).model, programs.optimizer, 0, programs.layout)

    def held(tree):
        shards = [leaf.addressable_shards[0] for leaf in jax.tree.leaves(tree)]
        return sum(shard.data.nbytes for shard in shards)

    assert compiled.parameters == held(made.params)
    assert compiled.optimizer == held(made.optimizer_state)
    batch = sharding.abstract_batch(programs.layout, SMALL.data.batch, SMALL.data.length)
    stats = programs.train_step.lower(made, batch).compile().memory_analysis()
    used = stats.argument_size_in_bytes + stats.temp_size_in_bytes
    used += stats.output_size_in_bytes - stats.alias_size_in_bytes
    assert compiled.total == pytest.approx(used, rel=0.1)
    assert 0 < compiled.activations < compiled.temporary
    assert compiled.count == sum(leaf.size for leaf in jax.tree.leaves(made.params))


def test_collectives_run_over_the_axes_that_split_something(compiled):
    assert compiled.mesh["data"] == 2 and compiled.mesh["fsdp"] == 4
    axes = {axis for each in compiled.traffic for axis in each.axes}
    assert axes == {"data", "fsdp"}
    # parameters are gathered along fsdp for both directions, and their gradients summed over all rows
    width = 4 * compiled.count
    gathered = sum(
        each.bytes * each.times for each in compiled.traffic if each.kind == "all-gather" and "fsdp" in each.axes
    )
    assert gathered > width


def test_model_flops_are_those_that_the_compiler_counts():
    """On one device, without loops or recomputation, where its total is right."""
    model = dataclasses.replace(SMALL.model, remat="none", unroll=SMALL.model.depth)
    everything = (Masked(),)  # every pair of places, as model FLOPs count them
    one = dataclasses.replace(SMALL, model=model, objectives=everything, mesh=Mesh(), step=Step(loss_chunk=10**6))
    one = resolved(one)
    programs = compiled_steps(one, jax.devices()[:1])
    batch = sharding.abstract_batch(programs.layout, one.data.batch, one.data.length)
    program = programs.train_step.lower(programs.state, batch).compile()
    expected = one.data.batch * flops.train_flops(one.model, one.data)
    assert counting.count(hlo.parse(program.as_text()), 1).flops == pytest.approx(expected, rel=0.02)
    assert program.cost_analysis()["flops"] == pytest.approx(expected, rel=0.1)  # which counts elementwise work too


def fake(experiment, topology):
    """Microbatches of one row fit."""
    sizes = dict.fromkeys(("data", "fsdp", "tensor"), 1) | {"fsdp": topology.chips}
    rows = experiment.data.batch / experiment.step.accumulation / topology.chips
    return Compiled(sizes, 1e5, 2e5, 2e6, 10**5, 1e9, rows * 60e9, rows * 60e9, "", (Piece(1e15, 1e9, 0, 1),))


def planned(monkeypatch, experiment, topology="h100:8"):
    monkeypatch.setattr(compiling, "compile", fake)
    text = io.StringIO()
    _, code = plan.plan(experiment, chips.topology(topology, 1), 3, Console(file=text, width=200))
    return code, text.getvalue()


def test_a_plan_that_does_not_fit_fails_and_says_what_would(monkeypatch):
    big = dataclasses.replace(SMALL, mesh=Mesh(data=1, fsdp=8))
    code, text = planned(monkeypatch, big)
    assert code == 1
    last = text.strip().splitlines()[-1]
    assert last.startswith("does not fit: 111.8 GiB are needed on a chip that has 67.1; this would: ")
    assert re.search(r"--step.accumulation [24]\b", last)
    code, text = planned(monkeypatch, dataclasses.replace(big, step=Step(accumulation=2)))
    assert code == 0 and "does not fit" not in text
    assert "No step of a GPU was measured against this yet" in text


def test_a_plan_needs_a_vocabulary_and_a_topology(tmp_path):
    with pytest.raises(InputError, match=r"model\.vocabulary"):
        resolved(dataclasses.replace(SMALL, model=Model()))
    path = tmp_path / "experiment.json"
    config.save(SMALL, path)
    with pytest.raises(InputError, match="--topology"):
        plan.main([str(path)])


def test_what_is_fastest_can_be_written_as_a_config(monkeypatch, tmp_path):
    monkeypatch.setattr(compiling, "compile", fake)
    base, file = tmp_path / "base_config.py", tmp_path / "chosen.py"
    base.write_text(
        "from research.config import *\nget_config = lambda: Experiment(Model(vocabulary=512), mesh=Mesh(1, 8))\n"
    )
    with pytest.raises(SystemExit) as ended:
        plan.main([str(base), "--topology", "h100:8", "--write", str(file), "--data.length", "64"])
    assert ended.value.code == 1  # as configured it does not fit
    written = config_file.read(file)
    assert (written.data.length, written.mesh.fsdp, written.model.vocabulary) == (64, 8, 512)
    assert fake(written, H100S).total <= H100S.chip.memory
    for wrong in (file, tmp_path / "elsewhere" / "new.py", tmp_path / "new.json"):
        with pytest.raises(InputError, match="--write"):
            plan.main([str(base), "--topology", "h100:8", "--write", str(wrong)])


def test_fsdp_over_a_part_of_a_torus_is_preferred_to_the_whole():
    """Which compiles to all-reduces that nothing hides."""
    torus = chips.topology("v5p:4x4x4", 1)
    experiment = resolved(dataclasses.replace(SMALL, data=Data(length=64, batch=64)))

    def seconds(data, fsdp):
        mesh = Mesh(data=data, fsdp=fsdp, tensor=1, context=1)
        return candidates.rough(dataclasses.replace(experiment, mesh=mesh), torus, 10**10).seconds

    assert seconds(4, 16) < seconds(1, 64)


def test_alternatives_compute_the_same_and_fit_the_mesh():
    experiment = dataclasses.replace(resolved(SMALL), mesh=Mesh(data=1, fsdp=8))
    small = dataclasses.replace(fake(experiment, H100S), temporary=1e6)
    others = candidates.alternatives(experiment, H100S, small, 120)
    assert len(others) == 120 and experiment not in others
    for other in others:
        kept = dataclasses.replace(other, mesh=experiment.mesh, step=experiment.step, model=experiment.model)
        assert kept == experiment
        assert other.mesh.data * other.mesh.fsdp * other.mesh.tensor * other.mesh.context == 8
        assert 16 % (other.step.accumulation * other.mesh.data * other.mesh.fsdp) == 0
    assert {other.mesh.tensor for other in others} == {1, 2}  # two heads


def test_one_long_row_is_split_along_its_length():
    """Where there are fewer rows than chips, and heads."""
    experiment = dataclasses.replace(resolved(SMALL), data=Data(length=1024, batch=2), mesh=Mesh(data=2, context=4))
    small = dataclasses.replace(fake(experiment, H100S), temporary=1e6)
    others = candidates.alternatives(experiment, H100S, small, 1000)
    assert {(o.mesh.tensor, o.mesh.context) for o in others} == {(1, 4), (1, 8), (2, 2), (2, 4)}
    for other in others:
        sharding.check_batch(sharding.layout(other.mesh, other.model), other)


def test_a_mesh_that_does_not_fit_the_topology_is_told():
    with pytest.raises(InputError, match=r"mesh.fsdp = 3 does not divide 128"):
        compiling.compile(resolved(SMALL), chips.topology("cpu:6", 1))


def test_what_an_evaluation_needs_of_each_device(capsys, tmp_path, monkeypatch):
    """Parameters exactly, an eighth of those that are split; keys and values by their shape."""
    experiment = dataclasses.replace(
        SMALL,
        model=dataclasses.replace(SMALL.model, attention=Attention(heads=8, kv_heads=8), mlp=MLP(width=256)),
        data=Data(length=128),
    )
    need = inference.compile(resolved(dataclasses.replace(experiment, mesh=Mesh(tensor=8))), CPUS, "float32")
    model = resolved(experiment).model
    shapes = jax.eval_shape(lambda: models.init(model, jax.random.key(0)))
    placed = sharding.parameter_shardings(sharding.layout(Mesh(tensor=8), model), models.axes(model))
    params = jax.tree.map(lambda leaf, to: leaf.update(sharding=to), shapes, placed)
    assert need.parameters == memory.per_device(params) and need.whole / 8 <= need.parameters < need.whole / 7
    # two layers, keys and values, sixteen texts of 128 places, one of eight heads of width 16, four bytes
    assert need.cache == 2 * 2 * 16 * 128 * 16 * 4 and need.cache < need.generation and need.scoring > 0
    monkeypatch.setattr(
        inference, "compile", lambda experiment, *_: need if experiment.mesh == Mesh(tensor=8) else None
    )
    config.save(experiment, tmp_path / "experiment.json")  # whose mesh is that of training
    with pytest.raises(SystemExit) as ended:
        plan.main([str(tmp_path / "experiment.json"), "--for", "evaluate", "--topology", "cpu:8", "--mesh.tensor", "8"])
    assert ended.value.code == 0
    assert "fits: evaluate CHECKPOINT --mesh.tensor 8 --dtype float32" in capsys.readouterr().out


def test_an_evaluation_that_does_not_fit_is_refused_with_what_would(monkeypatch):
    """Parameters that fill three chips and a half."""
    whole = 3.5 * H100S.chip.memory

    def fake(experiment, topology, dtype):
        layout = sharding.layout(experiment.mesh, experiment.model)
        parts = layout.mesh.shape["tensor"] * layout.mesh.shape["fsdp"]
        return inference.Need(dict(layout.mesh.shape), 1, whole, whole / parts, 8, 1e9, 16, 1e9, 2e9)

    monkeypatch.setattr(inference, "compile", fake)

    def told(mesh):
        text = io.StringIO()
        code = inference.plan(
            resolved(dataclasses.replace(SMALL, mesh=mesh)), H100S, "float32", Console(file=text, width=200)
        )
        return code, text.getvalue().splitlines()[-1]

    # with the untrained baseline
    assert told(Mesh()) == (0, "fits: evaluate CHECKPOINT --mesh.fsdp 4 --mesh.tensor 2 --dtype float32")
    code, last = told(Mesh(tensor=2))
    assert code == 1 and last.endswith("this would: --mesh.fsdp 4 --mesh.tensor 2")
    whole *= 1.8
    assert told(Mesh())[1].endswith("--mesh.fsdp 4 --mesh.tensor 2 --dtype float32 --untrained False")
    whole *= 2
    code, last = told(Mesh())
    assert code == 1 and "more of them, or a shorter --data.length, might" in last
    text, wide = io.StringIO(), dataclasses.replace(SMALL.model, width=2**15, depth=80, mlp=MLP(width=2**17))
    large = resolved(dataclasses.replace(SMALL, model=wide, mesh=Mesh()))
    assert inference.plan(large, H100S, "float32", Console(file=text, width=200)) == 1  # and nothing is compiled
    least = re.search(r"in float32; (\d+) or more such chips would hold them, or half as many", text.getvalue())
    assert int(least[1]) > H100S.chips


needs_tpu_compiler = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs the TPU compiler: the extra tpu"
)


@needs_tpu_compiler
def test_an_axis_may_be_shorter_than_any_dimension_of_the_torus(monkeypatch):
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    devices = compiling.devices(chips.topology("v5p:8x8x8", 1))
    mesh = sharding.make_mesh(Mesh(data=1, fsdp=-1, tensor=4), devices)
    assert mesh.shape["fsdp"] == 128
    places = [device.coords for device in mesh.devices.reshape(-1, 4)[0]]
    assert all(sum(abs(a - b) for a, b in zip(x, y, strict=True)) == 1 for x, y in itertools.pairwise(places))


@needs_tpu_compiler
@pytest.mark.parametrize("slices", [1, 2])
def test_the_step_compiles_for_a_tpu_that_is_not_there(slices):
    topology = chips.topology("v5e:2x2", slices)
    tiny = Experiment(
        model=Model(
            vocabulary=256, width=128, depth=3, attention=Attention(heads=1), mlp=MLP(width=128), head=Head(tied=True)
        ),
        objectives=(Masked(),),
        data=Data(length=128, batch=4 * slices),
        mesh=Mesh(data=slices, fsdp=-1),
        step=Step(compute_dtype="bfloat16"),
    )
    tried = plan_table.Tried(resolved(tiny), topology, compiling.compile(resolved(tiny), topology))
    assert tried.fits and tried.compiled.refused == ""
    assert tried.compiled.flops == pytest.approx(tried.model_flops, rel=0.05)  # the loop over layers counts thrice
    times = roofline.times(tried.compiled, topology)
    assert times.products < times.local < times.step < 0.1
    inside = [each for each in tried.compiled.traffic if each.slices == 1]
    between = [each for each in tried.compiled.traffic if each.slices > 1]
    assert {each.axes for each in inside} == {("fsdp",)}
    if slices == 1:
        assert not between and times.network == 0
        return
    # every chip sums its quarter of the gradients, of 2 or 4 bytes, with the same chip of the other slice
    assert {(each.kind, each.axes, each.inside, each.slices) for each in between} == {("all-reduce", ("data",), 1, 2)}
    quarter = tried.compiled.count / 4
    assert 2 * quarter < sum(each.bytes * each.times for each in between) < 4.4 * quarter
    assert 0 < times.network < times.step
