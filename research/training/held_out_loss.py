"""Held-out loss, beside what a model that ignores its input would reach."""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from research.objectives import Batch


class HeldOut(NamedTuple):
    """Mean losses in nats per target of one objective."""

    loss: float
    unigram: float  # of always predicting the targets' frequencies in training
    uniform: float  # of giving every token the same probability

    @property
    def perplexity(self) -> float:
        return float(np.exp(self.loss))


def mean_loss(row_sums: Callable[[Batch], tuple[np.ndarray, np.ndarray]], batches: Iterable[Batch]) -> float:
    """The weighted mean loss over all targets, not a number if there are none. `row_sums` gives each row's sum of
    losses, and of weights."""
    total, weight = 0.0, 0.0
    for batch in batches:
        losses, weights = row_sums(batch)
        total += float(losses.sum(dtype=np.float64))
        weight += float(weights.sum(dtype=np.float64))
    return total / weight if weight else math.nan


def target_counts(batches: Iterable[Batch], vocabulary: int) -> np.ndarray:
    """How often each id is a target, int64 `[vocabulary]`."""
    counts = np.zeros(vocabulary, np.int64)
    for batch in batches:
        counts += np.bincount(batch.targets[batch.weights > 0], minlength=vocabulary)
    return counts


def unigram_loss(training: np.ndarray, held_out: np.ndarray) -> float:
    """Mean loss on targets counted as `held_out` when predicting the frequencies of `training`, one added to each; not
    a number if there are no targets."""
    if not held_out.any():
        return math.nan
    log_probability = np.log((training + 1) / (training + 1).sum())
    return float(-(held_out * log_probability).sum() / held_out.sum())
