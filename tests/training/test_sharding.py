"""Meshes that fit are made, others are refused with what would fit; state lies where its parameter lies."""

import jax
import pytest

from research import models
from research.config import Mesh, Optimizer
from research.errors import InputError
from research.training import state
from research.training.optimizer import optimizer
from research.training.sharding import check_batch, layout, make_mesh
from tests.models import tiny


def test_what_is_left_goes_to_the_free_axis():
    assert dict(make_mesh(Mesh()).shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert dict(make_mesh(Mesh(data=2, fsdp=-1, tensor=2)).shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert dict(make_mesh(Mesh(), jax.devices()[:1]).shape) == {"data": 1, "fsdp": 1, "tensor": 1}


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (Mesh(data=3), "does not fit 8 devices; mesh.data = 8 would"),
        (Mesh(fsdp=3), "multiply to a divisor of 8: 1, 2, 4, 8"),
        (Mesh(data=2, fsdp=2, tensor=1), "mesh.data = 4 would"),
        (Mesh(data=-1, fsdp=-1), "only one"),
    ],
)
def test_a_mesh_that_does_not_fit_says_what_would(mesh, message):
    with pytest.raises(InputError, match=message):
        make_mesh(mesh)


def test_a_model_that_the_mesh_does_not_divide_is_refused():
    with pytest.raises(InputError, match=r"model.heads: mesh.tensor = 4 does not divide 6; 1, 2, 3, 6 would"):
        layout(Mesh(tensor=4), tiny.model(width=24, heads=6))
    with pytest.raises(InputError, match=r"model.mlp_width"):
        layout(Mesh(tensor=8), tiny.model(heads=8, kv_heads=8, mlp_width=20))
    with pytest.raises(InputError, match=r"model.vocabulary"):
        layout(Mesh(tensor=8), tiny.model(heads=8, kv_heads=8, vocabulary=65))
    with pytest.raises(InputError, match=r"model.kv_heads"):
        layout(Mesh(tensor=2), tiny.model(heads=6, kv_heads=3, head_width=4))
    with pytest.raises(InputError, match="'headz'"):
        layout(Mesh(rules=(("headz", ("tensor",)),)), tiny.model())
    with pytest.raises(InputError, match=r"maps to \['model'\]"):
        layout(Mesh(rules=(("heads", ("model",)),)), tiny.model())


def test_a_batch_that_the_mesh_does_not_divide_is_refused():
    whole = layout(Mesh(data=4, tensor=2), tiny.model())
    check_batch(whole, 16, 2)
    with pytest.raises(InputError, match=r"data.batch: 12 rows .* 8 or 16 would be"):
        check_batch(whole, 12, 2)
    with pytest.raises(InputError, match=r"data.batch: 3 rows .*; 8 would be"):
        check_batch(whole, 3, 2)


def test_key_heads_fewer_than_the_devices_are_copied():
    model = tiny.model(heads=4, kv_heads=2)
    spec = state.abstract(
        model, optimizer(Optimizer(), lambda _: 0.0, models.axes(model)), layout(Mesh(tensor=4), model)
    )
    attention = spec.params["decoder"]["layers"]["attention"]
    assert attention["key"]["kernel"].sharding.spec[2] is None
    assert attention["query"]["kernel"].sharding.spec[2] == "tensor"


@pytest.mark.parametrize("name", ["adamw", "adafactor", "muon", "lion"])
def test_optimizer_state_lies_where_its_parameter_lies(name):
    model = tiny.model(qkv_bias=True)
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
