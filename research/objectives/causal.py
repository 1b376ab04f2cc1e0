"""Next-token prediction."""

import numpy as np

from research.objectives.batch import Example, join


def example(piece: np.ndarray) -> Example:
    """`piece` of n >= 2 tokens becomes n - 1 places: each sees itself and what precedes it."""
    places = len(piece) - 1
    return Example(piece[:-1], piece[1:], np.ones(places, np.float32), np.arange(places, dtype=np.int32))


def answer(before: np.ndarray, answer: np.ndarray) -> Example:
    """As `example` of both together, but only the answer counts. One of them has a token, the other at least one."""
    whole = example(np.concatenate([before, answer]))
    return whole._replace(weights=(np.arange(len(whole.tokens)) >= len(before) - 1).astype(np.float32))


def prefix_example(piece: np.ndarray, key: tuple[int, ...], start: int | None) -> Example:
    """A random split of `piece` (n >= 2 tokens): the first part, of 1 to n - 1 tokens, is input and the rest is output
    (T5, section 3.2.1: prefix language modelling). For `start`, see `join`."""
    split = np.random.default_rng(key).integers(1, len(piece))
    return join(piece[:split], piece[split:], start)
