"""No output depends on an input that it must not see: the gradient between them is exactly zero, and only there.

Each place reads its own token id, so that the gradient of an embedding row is the gradient of one place's input.
"""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import models
from research.models.kernels import intervals
from research.objectives import Vocabulary, masked, row, stack
from tests.models.tiny import POSITIONS, batch, example, hidden, model, parameters

LENGTH, SOURCE = 16, 12


@partial(jax.jit, static_argnums=0)
def influence(config, params, packed, key=None):
    """Float [batch, queries, vocabulary]: how strongly the features of each place depend on the input of each token."""
    mix = jax.random.normal(jax.random.key(7), (config.width,))

    def outputs(embedding):
        return models.hidden(config, params | {"embedding": embedding}, packed, key) @ mix

    values, pull = jax.vjp(outputs, params["embedding"])
    one_each = jnp.eye(values.size).reshape(-1, *values.shape)
    # one after the other: XLA (jax 0.10.2, CPU) computes the vmapped gradient of a scan wrongly from 65,536 elements on
    gradients = jax.lax.map(lambda place: jnp.abs(pull(place)[0]).sum(-1), one_each)
    return gradients.reshape(*values.shape, -1)


def numbered(packed):
    """The batch with a token id of its own at every place of a row, those of the source side first."""
    first = 0
    if packed.source is not None:
        first = packed.source.tokens.shape[1]
        source = np.broadcast_to(np.arange(first, dtype=np.int32), packed.source.tokens.shape)
        packed = replace(packed, source=replace(packed.source, tokens=source))
    tokens = np.broadcast_to(np.arange(packed.tokens.shape[1], dtype=np.int32) + first, packed.tokens.shape)
    return replace(packed, tokens=tokens)


def kinds(random):
    return batch(
        [
            [example(random, 14, "causal")],
            [example(random, 14, "masked")],
            [example(random, 14, "prefix:5")],
            [example(random, 4, "prefix:2"), example(random, 6, "causal"), example(random, 4, "masked")],
        ],
        LENGTH,
    )


@pytest.mark.parametrize("positions", POSITIONS)
def test_features_depend_on_what_they_see_and_on_nothing_else(positions):
    packed = numbered(kinds(np.random.default_rng(0)))
    config = model(LENGTH, **{"positions.kind": positions})
    depends = np.asarray(influence(config, parameters(config), packed))[:, :, :LENGTH] != 0
    seen = intervals.from_segments(jnp.asarray(packed.segments), jnp.asarray(packed.levels))
    np.testing.assert_array_equal(depends, intervals.mask(seen, LENGTH))


def test_dropout_opens_no_way():
    packed = numbered(kinds(np.random.default_rng(0)))
    config = model(LENGTH, dropout=0.2, **{"attention.dropout": 0.2})
    depends = np.asarray(influence(config, parameters(config), packed, jax.random.key(0)))[:, :, :LENGTH] != 0
    seen = intervals.from_segments(jnp.asarray(packed.segments), jnp.asarray(packed.levels))
    assert not (depends & ~np.asarray(intervals.mask(seen, LENGTH))).any()


@pytest.mark.parametrize("positions", ["rope", "relative"])
def test_a_decoder_depends_on_its_past_and_its_own_source(positions):
    random = np.random.default_rng(1)
    packed = batch([[example(random, 6, source=5), example(random, 8, source=4)]], LENGTH, SOURCE)
    packed = numbered(packed)
    config = model(LENGTH, encoder_depth=2, **{"positions.kind": positions})
    depends = np.asarray(influence(config, parameters(config), packed)) != 0
    real = packed.segments[0] > 0
    own_source = packed.segments[0][:, None] == packed.source.segments[0][None, :]
    np.testing.assert_array_equal(depends[0, real, :SOURCE], own_source[real])
    seen = intervals.from_segments(jnp.asarray(packed.segments), jnp.asarray(packed.levels))
    own = np.asarray(intervals.mask(seen, LENGTH))[0]
    np.testing.assert_array_equal(depends[0, real, SOURCE : SOURCE + LENGTH], own[real])


def test_a_masked_token_is_known_to_no_output():
    vocabulary = Vocabulary(64, mask=63, special=frozenset({63}))
    piece = np.arange(LENGTH, dtype=np.int32)
    shown = masked.example(piece, (0,), vocabulary, 0.5, whole_words=False)
    absent = piece[(shown.tokens == 63) & ~np.isin(piece, shown.tokens)]  # a random replacement may show one elsewhere
    assert len(absent) >= 3
    config = model(LENGTH, **{"head.tied": True})
    depends = np.asarray(influence(config, parameters(config), stack([row([shown], LENGTH)])))[0] != 0
    assert not depends[:, absent].any()
    assert depends[:, 63].all()


def test_features_ignore_targets_and_weights():
    packed = kinds(np.random.default_rng(2))
    config = model(LENGTH)
    params = parameters(config)
    other = replace(packed, targets=packed.targets + 1, weights=packed.weights * 0)
    np.testing.assert_array_equal(hidden(config, params, packed), hidden(config, params, other))
