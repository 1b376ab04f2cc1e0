import numpy as np

from research import config
from tests.objectives.shared import BOS, show


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
