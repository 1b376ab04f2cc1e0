"""Metrics: from the outcomes of a task to the sums that a score is computed from.

Choosing among options: `accuracy` takes the option of the highest log-probability, which leans towards short options;
`accuracy_by_characters` (`acc_norm` of lm-evaluation-harness) and `accuracy_by_bytes` divide by the option's length
first, `accuracy_pmi` by its probability without the question (Holtzman et al. 2021). k options that tie for the best
give each a credit of 1/k. `brier` is the squared error of the options' softmax, 0 to 2.
"""

import functools
import math
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from research.errors import requires
from research.evaluation.items import Outcome
from research.evaluation.statistics import Aggregate, Sums, ratio
from research.inference.requests import Scorable

Rows = Float[np.ndarray, "items sums"]


@dataclass(frozen=True)
class Metric:
    """How outcomes become sums, and those a score."""

    rows: Callable[[Sequence[Outcome]], Rows]
    better: Literal["higher", "lower"]
    aggregate: Aggregate = ratio
    credit: bool = False  # the score is a share of right choices
    chance: bool = False  # options that are all equally probable are a baseline


def sums(name: str, outcomes: Sequence[Outcome]) -> Sums:
    """What the metric `name` is computed from."""
    metric = METRICS[name]
    _, documents = np.unique([outcome.item.document for outcome in outcomes], return_inverse=True)
    return Sums(metric.rows(outcomes), documents, metric.aggregate)


def credit(values: Float[np.ndarray, " options"], gold: int) -> float:
    """1 if the option `gold` alone has the largest value, 1/k if it is one of k that have."""
    best = values >= values.max() - 1e-6  # equal options may differ by rounding
    return float(best[gold] / best.sum())


def bare(option: Scorable) -> str:
    """What of an option its length is measured on: the space that joins it to the question is not part of it."""
    return option.text.strip()


def log_probabilities(outcome: Outcome) -> Float[np.ndarray, " options"]:
    return np.array([score.log_probability for score in outcome.scores])


def _mean(value: Callable[[Outcome], float]) -> Callable[[Sequence[Outcome]], Rows]:
    return lambda outcomes: np.array([(value(outcome), 1.0) for outcome in outcomes])


def _ratio(above: Callable[[Outcome], float], below: Callable[[Outcome], float]) -> Callable[[Sequence[Outcome]], Rows]:
    return lambda outcomes: np.array([(above(outcome), below(outcome)) for outcome in outcomes], float)


def _choose(adjust: Callable[[Outcome], Float[np.ndarray, " options"]]) -> Metric:
    """The share of items whose right option has the largest adjusted log-probability."""
    return Metric(_mean(lambda outcome: credit(adjust(outcome), outcome.item.gold)), "higher", credit=True, chance=True)


def _by_length(measure: Callable[[str], int]) -> Metric:
    return _choose(lambda o: log_probabilities(o) / [measure(bare(option)) for option in o.item.options])


def _pmi(outcome: Outcome) -> Float[np.ndarray, " options"]:
    return log_probabilities(outcome) - np.array([score.log_probability for score in outcome.neutral])


def _brier(outcome: Outcome) -> float:
    values = log_probabilities(outcome)
    share = np.exp(values - values.max())
    right = np.arange(len(values)) == outcome.item.gold
    return float(((share / share.sum() - right) ** 2).sum())


def _gold_bits(outcome: Outcome) -> float:
    return -outcome.scores[outcome.item.gold].log_probability / math.log(2)


def _nats(outcome: Outcome) -> float:
    return -outcome.scores[0].log_probability


def _exp_ratio(values: Float[np.ndarray, "*batch 2"]) -> Float[np.ndarray, "*batch"]:
    return np.exp(ratio(values))


def normalise(text: str) -> str:
    """Lower case without punctuation, articles and extra space (the evaluation script of SQuAD)."""
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def _best(compare: Callable[[str, str], float], choose: Callable[..., float] = max) -> Callable[[Outcome], float]:
    return lambda outcome: choose(compare(outcome.output, reference) for reference in outcome.item.references)


def _f1(output: str, reference: str) -> float:
    """Of words, after `normalise` (SQuAD, CoQA)."""
    ours, theirs = normalise(output).split(), normalise(reference).split()
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs)) if ours or theirs else 1.0


def _edits(output: str, reference: str) -> float:
    """Insertions, deletions and substitutions of tokens (words, numbers and marks) per token of the longer text."""
    with requires("metrics", "the metric edit_distance"):
        from nltk.metrics.distance import edit_distance

    ours, theirs = (re.findall(r"\w+|[^\w\s]", text) for text in (output, reference))
    return float(edit_distance(ours, theirs) / max(len(ours), len(theirs), 1))


def _rouge(kind: str) -> Metric:
    """F-measure with stemming, the best over references, by `rouge_score`."""

    def rows(outcomes: Sequence[Outcome]) -> Rows:
        with requires("metrics", f"the metric {kind}"):
            from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer([kind], use_stemmer=True)
        values = [scorer.score_multi(o.item.references, o.output)[kind].fmeasure for o in outcomes]
        return np.array([(value, 1.0) for value in values])

    return Metric(rows, "higher")


def _sacrebleu(name: Literal["BLEU", "CHRF"]) -> Metric:
    """The corpus score of sacrebleu with its defaults, from its own statistics of each segment."""

    @functools.cache
    def metric() -> Any:
        with requires("metrics", f"the metric {name.lower()}"):
            from sacrebleu import metrics

        return getattr(metrics, name)()

    def rows(outcomes: Sequence[Outcome]) -> Rows:
        most = max(len(outcome.item.references) for outcome in outcomes)
        references = [
            [outcome.item.references[i] if i < len(outcome.item.references) else None for outcome in outcomes]
            for i in range(most)
        ]
        return np.array(metric()._extract_corpus_statistics([o.output for o in outcomes], references), float)

    def aggregate(values: Float[np.ndarray, "*batch sums"]) -> Float[np.ndarray, "*batch"]:
        def one(row: Float[np.ndarray, " sums"]) -> float:
            return float(metric()._compute_score_from_stats([int(value) for value in row]).score)

        return np.apply_along_axis(one, -1, values)

    return Metric(rows, "higher", aggregate)


METRICS: dict[str, Metric] = {
    "accuracy": _choose(log_probabilities),
    "accuracy_by_characters": _by_length(len),
    "accuracy_by_bytes": _by_length(lambda text: len(text.encode())),
    "accuracy_pmi": _choose(_pmi),
    "brier": Metric(_mean(_brier), "lower", chance=True),
    "gold_bits_per_byte": Metric(_ratio(_gold_bits, lambda o: o.scores[o.item.gold].bytes), "lower"),
    "greedy": Metric(_mean(lambda o: o.scores[o.item.gold].greedy), "higher"),
    "greedy_without_stop_words": Metric(_mean(lambda o: o.scores[o.item.gold].greedy_allowed), "higher"),
    "perplexity": Metric(_ratio(_nats, lambda o: 1), "lower", _exp_ratio),
    "bits_per_byte": Metric(_ratio(lambda o: _nats(o) / math.log(2), lambda o: o.item.bytes), "lower"),
    "word_perplexity": Metric(_ratio(_nats, lambda o: o.item.words), "lower", _exp_ratio),
    "exact_match": Metric(
        _mean(_best(lambda output, reference: float(normalise(output) == normalise(reference)))), "higher"
    ),
    "f1": Metric(_mean(_best(_f1)), "higher"),
    "edit_distance": Metric(_mean(_best(_edits, min)), "lower"),
    "rouge1": _rouge("rouge1"),
    "rouge2": _rouge("rouge2"),
    "rougeL": _rouge("rougeLsum"),
    "bleu": _sacrebleu("BLEU"),
    "chrf": _sacrebleu("CHRF"),
}
