"""Masked language modelling (Devlin et al. 2019, section 3.1)."""

import numpy as np

from research.objectives.batch import Example, Vocabulary


def example(piece: np.ndarray, key: tuple[int, ...], vocabulary: Vocabulary, rate: float, whole_words: bool) -> Example:
    """Of the tokens that are not special, `round(rate * count)` but at least one are to be predicted: 80 % of them are
    read as the mask, 10 % as a random token and 10 % unchanged. Every place sees every other."""
    assert vocabulary.mask is not None
    random = np.random.default_rng(key)
    maskable = np.flatnonzero(~vocabulary.is_special[piece])
    count = max(1, round(rate * len(maskable)))
    if whole_words:
        assert vocabulary.starts_word is not None
        word = np.cumsum(vocabulary.starts_word[piece[maskable]])
        rank = random.permutation(word[-1] + 1)[word] if len(word) else word
        order = np.argsort(rank, kind="stable")  # words in random order, the pieces of a word side by side
        last = min(count, len(order)) - 1
        chosen = maskable[order[rank[order] <= rank[order[last]]]] if len(order) else maskable
    else:
        chosen = random.permutation(maskable)[:count]
    tokens, weights = piece.copy(), np.zeros(len(piece), np.float32)
    weights[chosen] = 1
    fate = random.random(len(chosen))
    tokens[chosen[fate < 0.8]] = vocabulary.mask
    replaced = chosen[(fate >= 0.8) & (fate < 0.9)]
    tokens[replaced] = vocabulary.ordinary[random.integers(len(vocabulary.ordinary), size=len(replaced))]
    return Example(tokens, piece, weights, np.zeros(len(piece), np.int32))
