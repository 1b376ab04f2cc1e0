import numpy as np
import pytest
from hypothesis import given

from research import config
from tests.objectives.shared import BOS, EOS, MASK, VOCABULARY, pieces, show

PIECE = np.arange(1000, dtype=np.int32) % 90


@given(pieces)
def test_only_chosen_places_differ_and_every_place_sees_every_other(piece):
    shown = show(config.Masked(mask_rate=0.5), piece)
    unchosen = shown.weights == 0
    assert np.array_equal(shown.tokens[unchosen], piece[unchosen])
    assert np.array_equal(shown.targets, piece)
    assert not shown.levels.any()
    assert shown.weights.sum() == max(1, round(0.5 * len(piece)))


@pytest.mark.parametrize("whole_words", [False, True])
def test_bert_reads_80_percent_masks_10_percent_random_10_percent_unchanged(whole_words):
    masks = same = chosen = 0
    replacements = []
    for key in range(200):
        shown = show(config.Masked(whole_words=whole_words), PIECE, (key,))
        picked = shown.weights > 0
        read, target = shown.tokens[picked], shown.targets[picked]
        chosen += len(read)
        masks += (read == MASK).sum()
        same += (read == target).sum()
        replacements += read[(read != MASK) & (read != target)].tolist()
    deviation = 5 * np.sqrt(0.1 * 0.9 / chosen)  # five standard deviations
    assert chosen == pytest.approx(0.15 * 200 * 1000, rel=0.01)
    assert abs(masks / chosen - 0.8) < deviation * 4 / 3
    assert abs(same / chosen - 0.1 * (1 + 1 / 90)) < deviation  # a random token may be the right one
    counts = np.bincount(replacements, minlength=121)
    assert not counts[90:].any()  # never a special token
    assert np.abs(counts[:90] - counts[:90].mean()).max() < 6 * np.sqrt(counts[:90].mean())


def test_every_place_is_chosen_equally_often():
    counts = sum(show(config.Masked(mask_rate=0.4), np.arange(20), (key,)).weights for key in range(2000))
    assert np.abs(counts / 2000 - 0.4).max() < 5 * np.sqrt(0.4 * 0.6 / 2000)


def test_special_tokens_are_never_predicted_nor_hidden():
    piece = np.array([BOS, 1, 2, EOS], np.int32)
    for key in range(50):
        shown = show(config.Masked(mask_rate=0.9), piece, (key,))
        assert shown.weights.tolist() == [0, 1, 1, 0]
        assert shown.tokens[[0, 3]].tolist() == [BOS, EOS]
    assert show(config.Masked(), np.array([BOS, EOS], np.int32)).weights.sum() == 0


def test_whole_words_are_hidden_together():
    """Ids that are multiples of 3 begin a word."""
    piece = np.array([BOS, 1, 3, 4, 5, 6, 9, 10, 12, 13, 14, EOS], np.int32)
    words = [[1], [2, 3, 4], [5], [6, 7], [8, 9, 10]]  # the first begins with the piece itself
    seen = set()
    for key in range(300):
        shown = show(config.Masked(mask_rate=0.3, whole_words=True), piece, (key,))
        chosen = set(np.flatnonzero(shown.weights).tolist())
        parts = [set(word) & chosen for word in words]
        assert all(part in (set(), set(word)) for part, word in zip(parts, words, strict=True))
        assert 3 <= len(chosen) <= 5  # the last word is taken whole
        seen |= {number for number, part in enumerate(parts) if part}
    assert seen == set(range(5))


def test_words_are_chosen_with_equal_chance():
    piece = np.array([0, 3, 4, 6, 9, 12, 13, 15], np.int32)  # 6 words
    counts = np.zeros(8)
    for key in range(3000):
        counts += show(config.Masked(mask_rate=1 / 8, whole_words=True), piece, (key,)).weights
    assert np.abs(counts / 3000 - 1 / 6).max() < 5 * np.sqrt(1 / 6 * 5 / 6 / 3000)
    assert VOCABULARY.starts_word[piece].sum() == 6
