"""Baselines: the scores that need no understanding of a task, computed from its items, not from a formula.

Chance is no fair baseline for a summed log-likelihood, which favours short options, nor where most answers are the
same. So there are also: always choosing the most frequent position, the shortest or the longest option, and a model of
uniformly random bytes.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from research.evaluation import metrics
from research.evaluation.items import Outcome
from research.evaluation.statistics import Sums
from research.inference.requests import Scorable, Score


def equal_options(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Chance: as if all options were equally probable."""
    nothing = Score("exact", np.zeros(1, np.float32), False, 1, 0)
    return [
        replace(o, scores=(nothing,) * len(o.item.options), neutral=(nothing,) * len(o.item.neutral)) for o in outcomes
    ]


def without_question(outcomes: Sequence[Outcome]) -> dict[str, Sums]:
    """Accuracies of choosing without reading the question; options of the same length share a credit."""
    majority = Counter(outcome.item.gold for outcome in outcomes).most_common(1)[0][0]
    _, documents = np.unique([outcome.item.document for outcome in outcomes], return_inverse=True)

    def by_length(sign: int) -> Sums:
        lengths = [np.array([sign * len(option.text.encode()) for option in o.item.options]) for o in outcomes]
        credits_ = [metrics.credit(values, o.item.gold) for values, o in zip(lengths, outcomes, strict=True)]
        return Sums.mean(np.array(credits_), documents)

    return {
        "majority": Sums.mean(np.array([float(o.item.gold == majority) for o in outcomes]), documents),
        "shortest answer": by_length(-1),
        "longest answer": by_length(1),
    }


def uniform_bytes(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The answers of a model to which every byte is equally probable: 8 bits each."""

    def score(request: Scorable) -> Score:
        size = len(request.text.encode())
        return Score("exact", np.full(size, -8 * math.log(2)), False, size, 0)

    return [
        replace(o, scores=tuple(map(score, o.item.options)), neutral=tuple(map(score, o.item.neutral)))
        for o in outcomes
    ]


def most_frequent(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The answers of a model that always writes the most frequent reference."""
    output = Counter(outcome.item.references[0] for outcome in outcomes).most_common(1)[0][0]
    return [replace(outcome, output=output) for outcome in outcomes]
