import numpy as np

from research import config
from tests.objectives.shared import VOCABULARY, show


def test_causal_by_hand():
    shown = show(config.Causal(), np.array([5, 6, 7, 8]))
    assert shown.tokens.tolist() == [5, 6, 7]
    assert shown.targets.tolist() == [6, 7, 8]
    assert shown.weights.tolist() == [1, 1, 1]
    assert shown.levels.tolist() == [0, 1, 2]


def test_reading_a_document_is_training_on_it():
    piece = np.array([5, 6, 7, 8])
    read = config.Causal().read(piece, VOCABULARY, encoder_decoder=False)
    assert read.tokens.tolist() == [5, 6, 7, 8] and read.levels.tolist() == [0, 1, 2, 3]
    assert not read.weights.any()
