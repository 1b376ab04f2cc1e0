import numpy as np
import pytest

from research import config, objectives
from research.objectives.batch import ARRAYS
from tests.objectives.shared import show


def test_a_row_packs_examples_as_segments_then_padding():
    first, second = show(config.Causal(), np.array([1, 2, 3])), show(config.Masked(), np.array([7, 8, 9]))
    row = objectives.row([first, second], 8)
    assert row.tokens.tolist() == [1, 2, *second.tokens, 0, 0, 0]
    assert row.targets.tolist() == [2, 3, 7, 8, 9, 0, 0, 0]
    assert row.weights.tolist() == [1, 1, *second.weights, 0, 0, 0]
    assert row.positions.tolist() == [0, 1, 0, 1, 2, 0, 0, 0]
    assert row.segments.tolist() == [1, 1, 2, 2, 2, 0, 0, 0]
    assert row.levels.tolist() == [0, 1, 0, 0, 0, 0, 0, 0]
    assert row.source is None


def test_both_sides_of_an_encoder_decoder_row_have_the_same_segments():
    shown = [show(config.TextToText(), np.arange(n), encoder_decoder=True) for n in (4, 6)]
    row = objectives.row(shown, 7, 6)
    assert row.segments.tolist() == [1, 1, 2, 2, 2, 0, 0]
    assert row.source.tokens.tolist() == [0, 1, 0, 1, 2, 0]
    assert row.source.segments.tolist() == [1, 1, 2, 2, 2, 0]
    assert row.source.positions.tolist() == [0, 1, 0, 1, 2, 0]
    assert not row.source.levels.any() and not row.source.weights.any()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="5 places do not fit into a row of 4"):
        objectives.row([show(config.Causal(), np.arange(6))], 4)


def test_an_empty_row_is_padding_alone():
    row = objectives.row([], 5, 3)
    assert not any(array.any() for array in (getattr(side, name) for side in (row, row.source) for name in ARRAYS))
    assert (row.tokens.shape, row.source.tokens.shape) == ((5,), (3,))


def test_rows_are_stacked_with_the_contracts_types():
    for source_length in (None, 9):
        rows = [
            objectives.row([show(config.Prefix(), np.arange(n), (n,), source_length is not None)], 8, source_length)
            for n in (4, 6)
        ]
        batch = objectives.stack(rows)
        for side, length in ((batch, 8), (batch.source, 9)):
            if side is None:
                continue
            for name in ARRAYS:
                assert getattr(side, name).shape == (2, length)
                assert getattr(side, name).dtype == (np.float32 if name == "weights" else np.int32)
