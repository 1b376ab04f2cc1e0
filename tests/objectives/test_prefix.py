import numpy as np

from research import config
from tests.objectives.shared import show


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
