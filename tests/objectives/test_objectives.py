"""What holds for every objective."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from research import config, objectives
from research.errors import InputError
from research.objectives import Vocabulary
from tests.objectives.shared import (
    BOS,
    CASES,
    EOS,
    EVERY,
    MODE,
    SENTINELS,
    SINGLE,
    SOURCED,
    VOCABULARY,
    pieces,
    show,
    visible,
)


@pytest.mark.parametrize(("objective", "encoder_decoder"), CASES)
@given(pieces, st.integers(0, 99))
def test_examples_keep_the_contract(objective, encoder_decoder, piece, key):
    shown = show(objective, piece, (key,), encoder_decoder)
    assert len({len(array) for array in shown[:4]}) == 1
    assert (np.diff(shown.levels) >= 0).all() and shown.levels[0] == 0
    assert shown.weights.dtype == np.float32 and set(np.unique(shown.weights)) <= {0.0, 1.0}
    assert shown.weights.sum() >= 1
    assert (shown.source is not None) == encoder_decoder


@pytest.mark.parametrize(("objective", "encoder_decoder"), CASES)
@pytest.mark.parametrize("mode", [None, "[X]"])
def test_what_is_called_causal_sees_nothing_behind_itself(objective, encoder_decoder, mode):
    objective = dataclasses.replace(objective, mode=mode)
    shown = show(objective, np.arange(20, 60, dtype=np.int32), (1,), encoder_decoder)
    assert objectives.causal_only([objective], encoder_decoder) == bool((np.diff(shown.levels) > 0).all())


@pytest.mark.parametrize(("objective", "encoder_decoder"), CASES)
@given(pieces)
def test_the_same_key_gives_the_same_example_and_the_piece_stays_as_it_was(objective, encoder_decoder, piece):
    before = piece.copy()
    first, second = (show(objective, piece, (1, 2, 3), encoder_decoder) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert np.array_equal(piece, before)


@pytest.mark.parametrize("objective", [o for o in SINGLE if not isinstance(o, config.Causal)])
def test_another_key_gives_another_example(objective):
    piece = np.arange(40, dtype=np.int32)
    shown = [show(objective, piece, (key,)) for key in range(9)]
    assert len({one.tokens.tobytes() + one.weights.tobytes() for one in shown}) > 4


@pytest.mark.parametrize(("objective", "encoder_decoder"), [c for c in CASES if not isinstance(c[0], config.Masked)])
@pytest.mark.parametrize("mode", [None, "[X]"])
def test_no_place_sees_what_it_must_predict(objective, encoder_decoder, mode):
    objective = dataclasses.replace(objective, mode=mode)
    piece = np.arange(80, dtype=np.int32)  # all different, so that a target is seen where it is seen at all
    for key in range(20):
        shown = show(objective, piece, (key,), encoder_decoder)
        trained = [query for query in np.flatnonzero(shown.weights) if shown.targets[query] not in (EOS, *SENTINELS)]
        assert trained
        for query in trained:
            assert shown.targets[query] not in visible(shown, query)
            assert shown.source is None or shown.targets[query] not in shown.source


@pytest.mark.parametrize(("objective", "encoder_decoder"), CASES)
def test_a_target_is_what_the_next_place_reads(objective, encoder_decoder):
    """Except where places read and predict themselves (masked)."""
    if isinstance(objective, config.Masked):
        return
    shown = show(objective, np.arange(30, dtype=np.int32), (4,), encoder_decoder)
    assert np.array_equal(shown.targets[:-1], shown.tokens[1:])


@pytest.mark.parametrize("objective", SINGLE)
@pytest.mark.parametrize("mode", [None, "[X]"])
def test_places_is_an_upper_bound_that_grows(objective, mode):
    objective = dataclasses.replace(objective, mode=mode)
    for encoder_decoder in (False, True) if isinstance(objective, config.Prefix | config.SpanCorruption) else (False,):
        before = (0, 0)
        for size in range(1 + objective.overlap, 80):
            places = objective.places((size,), encoder_decoder)
            assert all(a <= b for a, b in zip(before, places, strict=True))
            before = places
            plain = np.arange(size, dtype=np.int32)
            framed = np.concatenate([[BOS], plain, [EOS]])[:size].astype(np.int32)
            ended = np.concatenate([[BOS], plain, [EOS]])[-size:].astype(np.int32)
            for piece in (plain, framed, ended):
                if isinstance(objective, config.SpanCorruption) and len(piece) > 70:
                    continue  # more spans than this vocabulary has sentinels
                shown = show(objective, piece, (size,), encoder_decoder)
                assert len(shown.tokens) <= places[0]
                assert (0 if shown.source is None else len(shown.source)) <= places[1]
                if isinstance(objective, config.Causal | config.Masked):
                    assert len(shown.tokens) == places[0]


@given(
    st.floats(0.01, 0.99), st.floats(1, 20), st.integers(1, 600), st.booleans(),
)  # fmt: skip
def test_places_of_span_corruption_grow_for_every_rate(rate, span, size, encoder_decoder):
    objective = config.SpanCorruption(noise_rate=rate, mean_span=span)
    small, large = (objective.places((n,), encoder_decoder) for n in (size, size + 1))
    assert all(a <= b for a, b in zip(small, large, strict=True))


@pytest.mark.parametrize(("objective", "encoder_decoder"), CASES)
def test_a_mode_token_is_read_first_and_changes_nothing_else(objective, encoder_decoder):
    piece = np.arange(20, dtype=np.int32)
    plain = show(objective, piece, (5,), encoder_decoder)
    with_mode = show(dataclasses.replace(objective, mode="[X]"), piece, (5,), encoder_decoder)
    if encoder_decoder:
        assert with_mode.source.tolist() == [MODE, *plain.source]
        assert all(np.array_equal(a, b) for a, b in zip(with_mode[:4], plain[:4], strict=True))
        return
    assert with_mode.tokens.tolist() == [MODE, *plain.tokens]
    assert with_mode.targets[1:].tolist() == plain.targets.tolist()
    assert with_mode.weights.tolist() == [0, *plain.weights]
    assert with_mode.levels.tolist() == [0, *plain.levels]


@pytest.mark.parametrize("objective", EVERY)
def test_the_weight_of_an_objective_is_in_its_loss(objective):
    piece = np.arange(20, dtype=np.int32)
    plain, half = show(objective, piece), show(dataclasses.replace(objective, weight=0.5), piece)
    assert np.array_equal(half.weights, plain.weights / 2) and half.weights.dtype == np.float32


def test_what_a_tokenizer_lacks_is_said():
    bare = Vocabulary(90)
    for objective, length, message in (
        (config.Masked(), 64, "objective 'masked': the tokenizer lacks a mask token"),
        (config.Masked(mode="[Y]"), 64, "the mode token '\\[Y\\]'"),
        (config.SpanCorruption(), 64, "3 sentinels for length 64 \\(it has 0\\)"),
    ):
        with pytest.raises(InputError, match=message):
            objective.require(bare, length)
    with pytest.raises(InputError, match="marks of word beginnings"):
        config.Masked(whole_words=True).require(Vocabulary(90, mask=5), 64)
    config.SpanCorruption().require(VOCABULARY, 64)
    with pytest.raises(InputError, match="50 sentinels for length 1000"):
        config.SpanCorruption().require(VOCABULARY, 1000)
    for objective in (config.Causal(), config.Prefix(), config.TextToText()):
        objective.require(bare, 10**6)


@pytest.mark.parametrize("objective", SOURCED)
def test_the_decoder_begins_with_the_beginning_of_a_document_or_with_padding(objective):
    piece = np.arange(20, dtype=np.int32)
    assert show(objective, piece, encoder_decoder=True).tokens[0] == BOS
    t5 = dataclasses.replace(VOCABULARY, bos=None)
    parts = (piece[:10], piece[10:])[: 1 + isinstance(objective, config.TextToText)]
    assert objective.example(parts, (0,), t5, True).tokens[0] == 0


def test_two_tokens_are_enough():
    for objective in (config.Causal(), config.Prefix(), config.TextToText()):
        assert show(objective, np.array([3, 4])).targets.tolist() == [4]
