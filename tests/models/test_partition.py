"""Attention in parts is attention: rows, heads and places may be split, and the one rule stays the same."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from research import models
from research.models import attention, partition
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
    bias = random.normal(size=(1, 6, LENGTH, LENGTH)).astype(np.float32)
    seen = attention.visible(jnp.asarray(packed.segments), jnp.asarray(packed.levels), causal)
    mesh = jax.make_mesh((2, 2, 2), ("rows", "heads", "places"), axis_types=(AxisType.Auto,) * 3)

    def in_parts(*arrays):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh), models.logical_axis_rules(RULES):
            assert (partition.extent("length"), partition.extent("kv_heads")) == (2, 1)
            return partition.attend(*arrays[:3], seen, 0.3, arrays[3], "plain")

    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    ours = jax.jit(in_parts, in_shardings=replicated)(query, key, value, bias)
    whole = partial(attention.attend, seen=seen, scale=0.3, implementation="plain")
    np.testing.assert_allclose(ours, jax.jit(lambda *a: whole(*a[:3], bias=a[3]))(query, key, value, bias), atol=1e-5)
    assert partition.extent("length") == 1  # outside of the rules nothing is split
