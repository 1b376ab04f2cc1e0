"""Meshes that fit are made, others are refused with what would fit; state lies where its parameter lies."""

from types import SimpleNamespace

import jax
import pytest

from research import models
from research.config import Data, Experiment, Mesh, Optimizer, Step
from research.errors import InputError
from research.sharding import arranged, check_batch, layout, make_mesh, slices
from research.training import state
from research.training.optimizer import optimizer
from tests.models import tiny


def shape(mesh, devices=None):
    """The sizes that are not 1."""
    return {axis: size for axis, size in make_mesh(mesh, devices).shape.items() if size > 1}


def test_what_is_left_goes_to_the_free_axis():
    assert shape(Mesh()) == {"data": 8}
    assert shape(Mesh(data=2, fsdp=-1, tensor=2)) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert shape(Mesh(fsdp=-1)) == {"fsdp": 8}
    assert shape(Mesh(tensor=2, context=2)) == {"data": 2, "tensor": 2, "context": 2}
    assert shape(Mesh(), jax.devices()[:1]) == {}


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (Mesh(data=3), "does not fit 8 devices; mesh.data = 8 would"),
        (Mesh(fsdp=3), "must multiply to a divisor of 8: 1, 2, 4, 8"),
        (Mesh(data=2, fsdp=2, tensor=1), "mesh.data = 4 would"),
        (Mesh(fsdp=-1, tensor=-1), "only one"),
        (Mesh(slices=2), "mesh.slices = 2 does not fit these devices; 1 would"),
    ],
)
def test_a_mesh_that_does_not_fit_says_what_would(mesh, message):
    with pytest.raises(InputError, match=message):
        make_mesh(mesh)


def test_a_model_that_the_mesh_does_not_divide_is_refused():
    with pytest.raises(InputError, match=r"model.attention.heads: mesh.tensor = 4 does not divide 6; 1, 2, 3, 6 would"):
        layout(Mesh(tensor=4), tiny.model(width=24, **{"attention.heads": 6}))
    with pytest.raises(InputError, match=r"model.mlp.width"):
        layout(Mesh(tensor=8), tiny.model(**{"attention.heads": 8, "attention.kv_heads": 8, "mlp.width": 20}))
    with pytest.raises(InputError, match=r"model.vocabulary"):
        layout(Mesh(tensor=8), tiny.model(vocabulary=65, **{"attention.heads": 8, "attention.kv_heads": 8}))
    with pytest.raises(InputError, match=r"model.attention.kv_heads"):
        layout(Mesh(tensor=2), tiny.model(**{"attention.heads": 6, "attention.kv_heads": 3, "attention.head_width": 4}))
    with pytest.raises(InputError, match="'headz'"):
        layout(Mesh(rules=(("headz", ("tensor",)),)), tiny.model())
    with pytest.raises(InputError, match=r"maps to \['model'\]"):
        layout(Mesh(rules=(("heads", ("model",)),)), tiny.model())


def test_a_batch_that_the_mesh_does_not_divide_is_refused():
    whole = layout(Mesh(data=2, tensor=2, context=2), tiny.model())

    def check(rows=8, length=12, accumulation=2, source_length=None, depth=0):
        data = Data(batch=rows, length=length, source_length=source_length)
        step = Step(accumulation=accumulation)
        check_batch(whole, Experiment(model=tiny.model(encoder_depth=depth), data=data, step=step))

    check()
    with pytest.raises(InputError, match=r"data.batch: 6 rows .* 4 or 8 would be"):
        check(rows=6)
    with pytest.raises(InputError, match=r"data.batch: 3 rows .*; 4 would be"):
        check(rows=3)
    with pytest.raises(InputError, match=r"data.length: 11 places .* 2 \(mesh.context.*; 10 or 12 would be"):
        check(length=11)
    with pytest.raises(InputError, match=r"data.length: 10 .* 4 \(mesh.context x mesh.tensor.*; 8 or 12 would be"):
        check(length=10)
    check(source_length=10)
    with pytest.raises(InputError, match=r"data.source_length: 10 "):
        check(source_length=10, depth=1)


def test_slices_split_the_data_first():
    """Eight chips in two slices, numbered so that the slices are mixed; the devices of fakes carry no arrays."""

    def chips(platform):
        kind = {"platform": platform, "device_kind": "fake"}
        return [SimpleNamespace(id=n, slice_index=n % 2, process_index=n // 2, **kind) for n in range(8)]

    made = arranged((4, 1, 2, 1), 2, chips("gpu"))
    assert made.shape == (4, 1, 2, 1)
    assert [{device.slice_index for device in row.flat} for row in made] == [{0}, {0}, {1}, {1}]
    by_process = arranged((4, 2, 1, 1), 4, chips("gpu"))
    assert [{device.process_index for device in row.flat} for row in by_process] == [{0}, {1}, {2}, {3}]
    assert [slices(Mesh(), chips(platform)) for platform in ("gpu", "tpu")] == [1, 2]
    assert [slices(Mesh(slices=n), chips("gpu")) for n in (1, 2, 4)] == [1, 2, 4]
    with pytest.raises(InputError, match=r"mesh.slices = 4 does not fit these devices; 2 would"):
        slices(Mesh(slices=4), chips("tpu"))
    with pytest.raises(InputError, match=r"mesh.data = 1 cannot be split over 2 slices of devices; 2 could"):
        make_mesh(Mesh(fsdp=-1), chips("tpu"))


def test_key_heads_fewer_than_the_devices_are_copied():
    model = tiny.model(**{"attention.heads": 4, "attention.kv_heads": 2})
    spec = state.abstract(
        model, optimizer(Optimizer(), lambda _: 0.0, models.axes(model)), layout(Mesh(tensor=4), model)
    )
    attention = spec.params["decoder"]["layers"]["attention"]
    assert attention["key"]["kernel"].sharding.spec[2] is None
    assert attention["query"]["kernel"].sharding.spec[2] == "tensor"


@pytest.mark.parametrize("name", ["adamw", "adafactor", "muon", "lion"])
def test_optimizer_state_lies_where_its_parameter_lies(name):
    model = tiny.model(**{"attention.qkv_bias": True})
    axes = models.axes(model)
    spec = state.abstract(
        model, optimizer(Optimizer(name=name), lambda _: 0.0, axes), layout(Mesh(fsdp=2, tensor=2), model)
    )
    of = {path: leaf.sharding for path, leaf in jax.tree_util.tree_leaves_with_path(spec.params)}
    shapes = {path: leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(spec.params)}
    followed = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(spec.optimizer_state):
        parameter = next((p for p in of if path[-len(p) :] == p), None)
        if parameter is not None and leaf.shape == shapes[parameter]:
            assert leaf.sharding == of[parameter]
            followed += 1
        else:
            assert leaf.sharding.is_fully_replicated
    assert followed >= len(of)
