import numpy as np

from research import config
from tests.objectives.shared import VOCABULARY

INSTRUCTION = config.Instruction()


def test_only_the_answer_counts():
    shown = INSTRUCTION.example((np.array([1, 2, 3]), np.array([4, 5])), (0,), VOCABULARY, False)
    assert shown.tokens.tolist() == [1, 2, 3, 4] and shown.targets.tolist() == [2, 3, 4, 5]
    assert shown.weights.tolist() == [0, 0, 1, 1] and shown.levels.tolist() == [0, 1, 2, 3]


def test_an_answer_to_nothing_has_all_but_its_first_token():
    shown = INSTRUCTION.example((np.array([], int), np.array([4, 5])), (0,), VOCABULARY, False)
    assert shown.tokens.tolist() == [4] and shown.weights.tolist() == [1]


def test_a_text_without_an_answer_is_causal():
    shown = INSTRUCTION.example((np.array([1, 2, 3]),), (0,), VOCABULARY, False)
    causal = config.Causal().example((np.array([1, 2, 3]),), (0,), VOCABULARY, False)
    assert all(np.array_equal(a, b) for a, b in zip(shown[:4], causal[:4], strict=True))
