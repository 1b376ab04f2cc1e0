"""Attention in parts is attention: rows, heads and places may be split, and the one rule stays the same."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from research import models
from research.models import balance, sharded
from research.models.kernels import RelativeBias, blocks, intervals
from tests.models.tiny import batch, example

LENGTH = 128  # so that causal attention has several blocks of queries
RULES = (("batch", ("rows",)), ("length", ("places",)), ("heads", ("heads",)))


@pytest.mark.parametrize(
    ("kv_heads", "causal"), [(1, True), (3, False), (6, False)], ids=["shared-causal", "copied", "one-each"]
)
def test_attention_in_parts_is_attention(kv_heads, causal):
    """With 3 key heads on 2 parts no part has whole groups, so they are copied."""
    random = np.random.default_rng(0)
    kinds = ("causal", "causal") if causal else ("prefix:20", "masked")
    packed = batch([[example(random, 70, kinds[0]), example(random, 50, kinds[1])]] * 4, LENGTH)
    query = random.normal(size=(4, LENGTH, 6, 8)).astype(np.float32)
    key, value = random.normal(size=(2, 4, LENGTH, kv_heads, 8)).astype(np.float32)
    table = random.normal(size=(12, 6)).astype(np.float32)
    seen = intervals.from_segments(jnp.asarray(packed.segments), jnp.asarray(packed.levels), causal)
    relative = partial(RelativeBias, index=jnp.arange(LENGTH)[None], bidirectional=True, max_distance=40)
    mesh = jax.make_mesh((2, 2, 2), ("rows", "heads", "places"), axis_types=(AxisType.Auto,) * 3)

    def in_parts(*arrays):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh), models.logical_axis_rules(RULES):
            assert (sharded.extent("length"), sharded.extent("kv_heads")) == (2, 1)
            return sharded.attend(*arrays[:3], seen, 0.3, relative(arrays[3]), "blocks")

    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    def with_gradients(attend):  # of everything, the table of the bias too, of which each device has its own heads
        def run(*arrays):
            out, back = jax.vjp(attend, *arrays)
            return out, back(jnp.cos(out))

        return run

    arrays = query, key, value, table
    ours = jax.jit(with_gradients(in_parts), in_shardings=replicated)(*arrays)
    whole = with_gradients(lambda *arrays: blocks.attend(*arrays[:3], seen, 0.3, relative(arrays[3])))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, jax.jit(whole)(*arrays))
    assert sharded.extent("length") == 1  # outside of the rules nothing is split


@pytest.mark.parametrize("places", [2, 4])
def test_causal_rows_in_parts_have_the_same_work_and_the_same_result(places):
    """Each device computes an early and a late part of a row with splash, and has its own part before and after."""
    random = np.random.default_rng(0)
    packed = batch([[example(random, 70), example(random, 50)]], LENGTH)
    query = random.normal(size=(1, LENGTH, 2, 8)).astype(np.float32)
    key, value = random.normal(size=(2, 1, LENGTH, 1, 8)).astype(np.float32)
    seen = intervals.from_segments(jnp.asarray(packed.segments), jnp.asarray(packed.levels), True)
    mesh = jax.make_mesh((places,), ("places",), axis_types=(AxisType.Auto,), devices=jax.devices()[:places])

    def in_parts(*arrays):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh), models.logical_axis_rules((("length", ("places",)),)):
            return sharded.attend(*arrays, seen, 0.3, None, "splash")

    def gradients(attend):
        return jax.jit(jax.grad(lambda *arrays: jnp.sum(jnp.cos(attend(*arrays))[:, :120]), argnums=(0, 1, 2)))

    found = gradients(in_parts)(*jax.device_put((query, key, value), jax.sharding.NamedSharding(mesh, PartitionSpec())))
    expected = gradients(lambda *arrays: blocks.attend(*arrays, seen, 0.3, None))(query, key, value)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)


@pytest.mark.parametrize("devices", [1, 2, 3, 8])
def test_an_early_and_a_late_part_for_each(devices):
    held = [[] for _ in range(devices)]
    for number, moves in enumerate(balance._moves(devices)):
        for here, there in moves:
            held[there].append(2 * here + number)
    assert [sum(parts) for parts in held] == [2 * devices - 1] * devices
    assert sorted(part for parts in held for part in parts) == list(range(2 * devices))
