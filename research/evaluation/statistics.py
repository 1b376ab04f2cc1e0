"""Scores with their uncertainty: 95 % intervals, verdicts against chance, and paired comparisons.

Every score here is a function of sums over items: accuracy is the sum of credits over the number of items, bits per
byte the sum of bits over the sum of bytes, BLEU a function of summed n-gram counts. So a metric gives one row of sums
per item (`Sums`), and intervals, normalised scores and differences follow for all metrics in the same way. Items of one
document (questions about one text, the two sentences of a Winograd schema) are not independent: documents, not items,
are resampled.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

RESAMPLES = 2000
NO_VERDICT = "no verdict: the score is not a number"
ELEMENTS = 4_000_000  # numbers that one batch of resamples may take

Aggregate = Callable[[Float[np.ndarray, "*batch sums"]], Float[np.ndarray, "*batch"]]


class Estimate(NamedTuple):
    """A score and its 95 % interval; NaN bounds where one document alone gives none."""

    value: float
    low: float
    high: float

    def contains(self, value: float) -> bool:
        """False also where there is no interval."""
        return self.low <= value <= self.high


def ratio(sums: Float[np.ndarray, "*batch 2"]) -> Float[np.ndarray, "*batch"]:
    """The first sum over the second."""
    return sums[..., 0] / sums[..., 1]


@dataclass(frozen=True)
class Sums:
    """What a score is computed from."""

    rows: Float[np.ndarray, "items sums"]
    documents: Int[np.ndarray, " items"]  # which document each item belongs to
    aggregate: Aggregate = ratio  # summed rows -> the score

    @classmethod
    def mean(cls, values: Float[np.ndarray, " items"], documents: Int[np.ndarray, " items"]) -> "Sums":
        """The score that is the mean of `values`."""
        return cls(np.stack([values, np.ones(len(values))], axis=1).astype(float), documents)

    @property
    def value(self) -> float:
        """The score; NaN where there are no items."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return float(self.aggregate(self.rows.sum(axis=0))) if len(self.rows) else math.nan

    def by_document(self) -> Float[np.ndarray, "documents sums"]:
        """The rows of each document, summed, in the order of their numbers."""
        _, index = np.unique(self.documents, return_inverse=True)
        out = np.zeros((index.max() + 1, self.rows.shape[1]))
        np.add.at(out, index, self.rows)
        return out


def estimate(sums: Sums) -> Estimate:
    """The score with its interval, all NaN where the score is not a number or there are no items.

    The interval is Wilson's for a proportion of right and wrong items that are documents of their own, else the
    percentile bootstrap over documents, which also serves scores that are a function of the sums. Where all items are
    right, or all wrong, no bootstrap could tell how sure that is, and each document counts as one item."""
    rows = sums.rows
    if not len(rows) or not math.isfinite(sums.value):
        return Estimate(math.nan, math.nan, math.nan)
    proportion = sums.aggregate is ratio and np.all(rows[:, 1] == 1) and np.isin(rows[:, 0], (0, 1)).all()
    n = len(np.unique(sums.documents))
    if proportion and (n == len(rows) or np.all(rows[:, 0] == rows[0, 0])):
        interval = stats.binomtest(round(sums.value * n), n).proportion_ci(method="wilson")
        return Estimate(sums.value, float(interval.low), float(interval.high))
    documents = sums.by_document()
    return Estimate(
        sums.value, *_bootstrap(len(documents), lambda drawn: sums.aggregate(documents[drawn].sum(axis=-2)))
    )


def difference(first: Sums, second: Sums) -> Estimate:
    """`first` minus `second` on the same items, in the same order: both are resampled together, so what they share
    (hard items are hard for both) cancels."""
    assert np.array_equal(first.documents, second.documents), "paired scores need the same items"
    if not (math.isfinite(first.value) and math.isfinite(second.value)):
        return Estimate(math.nan, math.nan, math.nan)
    one, other = first.by_document(), second.by_document()

    def statistic(drawn: Int[np.ndarray, "resamples documents"]) -> Float[np.ndarray, " resamples"]:
        return first.aggregate(one[drawn].sum(axis=-2)) - second.aggregate(other[drawn].sum(axis=-2))

    return Estimate(first.value - second.value, *_bootstrap(len(one), statistic))


def chance_normalised(score: float, chance: float) -> float:
    """0 at chance, 1 when all is right, negative below chance."""
    return (score - chance) / (1 - chance)


def verdict(score: Sums, chance: float, baselines: Mapping[str, Sums]) -> str:
    """The conclusion that an accuracy supports, in plain words.

    Args:
      score: per-item credits.
      chance: the expected accuracy of a random answer.
      baselines: accuracies, on the same items, of answers that need no understanding ("shortest answer"). One of them
        can be far from chance, and a summed log-likelihood favours short answers; so a score must exceed them too.
    """
    interval = estimate(score)
    if math.isnan(interval.value):
        return NO_VERDICT
    if math.isnan(interval.low) or interval.contains(chance):
        return "not distinguishable from chance"
    if interval.high < chance:
        return "below chance"
    for name, baseline in sorted(baselines.items(), key=lambda pair: -pair[1].value):
        if baseline.value > chance and difference(score, baseline).low <= 0:
            return f"above chance, but not above {name}"
    return "above chance"


def _bootstrap(
    documents: int, statistic: Callable[[Int[np.ndarray, "resamples documents"]], Float[np.ndarray, " resamples"]]
) -> tuple[float, float]:
    """95 % percentile interval; the same documents give the same resamples, whatever the statistic."""
    if documents == 1:
        return math.nan, math.nan
    result = stats.bootstrap(
        (np.arange(documents),),
        lambda drawn, axis: statistic(drawn),
        n_resamples=RESAMPLES,
        batch=max(1, ELEMENTS // documents // 8),
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
