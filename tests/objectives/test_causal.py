import numpy as np

from research import config
from tests.objectives.shared import BOS, show


def test_causal_by_hand():
    shown = show(config.Causal(), np.array([5, 6, 7, 8]))
    assert shown.tokens.tolist() == [5, 6, 7]
    assert shown.targets.tolist() == [6, 7, 8]
    assert shown.weights.tolist() == [1, 1, 1]
    assert shown.levels.tolist() == [0, 1, 2]


def test_text_to_text_by_hand():
    pair = np.array([1, 2, 3, 4, 5, 6])  # [1, 2, 3] and [4, 5, 6]
    one_row = show(config.TextToText(), pair)
    assert one_row.tokens.tolist() == [1, 2, 3, 4, 5]
    assert one_row.targets.tolist() == [2, 3, 4, 5, 6]
    assert one_row.weights.tolist() == [0, 0, 1, 1, 1]
    assert one_row.levels.tolist() == [0, 0, 0, 1, 2]
    two_sides = show(config.TextToText(), pair, encoder_decoder=True)
    assert two_sides.source.tolist() == [1, 2, 3]
    assert two_sides.tokens.tolist() == [BOS, 4, 5]
    assert two_sides.targets.tolist() == [4, 5, 6]
    assert two_sides.levels.tolist() == [0, 1, 2]


def test_a_prefix_sees_itself_and_the_rest_sees_what_precedes():
    piece = np.arange(10)
    for key in range(30):
        shown = show(config.Prefix(), piece, (key,))
        split = len(piece) - int(shown.weights.sum())
        assert shown.tokens.tolist() == piece[:-1].tolist() and shown.targets.tolist() == piece[1:].tolist()
        assert shown.weights.tolist() == [0] * (split - 1) + [1] * (10 - split)
        assert shown.levels.tolist() == [0] * split + list(range(1, 10 - split))
        sides = show(config.Prefix(), piece, (key,), encoder_decoder=True)
        assert sides.source.tolist() == piece[:split].tolist() and sides.targets.tolist() == piece[split:].tolist()


def test_the_split_of_a_prefix_is_uniform():
    splits = [11 - int(show(config.Prefix(), np.arange(11), (key,)).weights.sum()) for key in range(4000)]
    counts = np.bincount(splits, minlength=11)
    assert counts[0] == 0 and len(counts) == 11
    assert np.abs(counts[1:] - 400).max() < 100  # five standard deviations


def test_two_tokens_are_enough():
    for objective in (config.Causal(), config.Prefix(), config.TextToText()):
        assert show(objective, np.array([3, 4])).targets.tolist() == [4]
