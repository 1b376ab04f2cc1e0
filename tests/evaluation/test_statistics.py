"""Intervals that are as wide as they must be, and verdicts that say no more than the numbers."""

import math

import numpy as np
import pytest

from research.evaluation import statistics
from research.evaluation.statistics import Sums, chance_normalised, difference, estimate, verdict

RANDOM = np.random.default_rng(0)


def each_its_own(values) -> Sums:
    return Sums.mean(np.asarray(values, float), np.arange(len(values)))


def right(count: int, of: int) -> Sums:
    return each_its_own([1.0] * count + [0.0] * (of - count))


def test_a_proportion_has_the_interval_of_wilson():
    # (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n), with z = 1.96
    p, n, z = 0.8, 10, 1.959964
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    found = estimate(right(8, 10))
    np.testing.assert_allclose(
        found, (0.8, (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)), rtol=1e-6
    )
    assert estimate(right(0, 10)).low == 0 and estimate(right(0, 10)).high > 0.2  # none of ten is not never
    none = Sums.mean(np.zeros(40), np.repeat(np.arange(10), 4))
    assert estimate(none) == estimate(right(0, 10))  # nor is none in ten documents


def test_a_mean_has_about_the_interval_of_its_standard_error():
    values = RANDOM.normal(3, 2, 400)
    found = estimate(each_its_own(values))
    half = 1.96 * values.std() / math.sqrt(len(values))
    np.testing.assert_allclose((found.low, found.high), (values.mean() - half, values.mean() + half), atol=0.05)


def test_items_of_a_document_count_as_one():
    values = RANDOM.random(40)
    single = estimate(each_its_own(values))
    copied = estimate(Sums.mean(np.repeat(values, 25), np.repeat(np.arange(40), 25)))
    np.testing.assert_allclose(copied, single, rtol=1e-9)
    wrong_width = estimate(each_its_own(np.repeat(values, 25)))
    assert wrong_width.high - wrong_width.low < (copied.high - copied.low) / 3


def test_an_interval_covers_the_truth_as_often_as_it_says(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 300)
    covered = 0
    for _ in range(200):
        bytes_ = RANDOM.integers(20, 200, 60)
        bits = bytes_ * RANDOM.normal(2.0, 0.4, 60)  # documents whose bits per byte differ around 2
        found = estimate(Sums(np.stack([bits, bytes_], axis=1).astype(float), np.arange(60)))
        covered += found.contains(2.0)
    assert 0.88 <= covered / 200 <= 0.99


def test_a_function_of_a_score_has_the_function_of_its_interval():
    rows = np.stack([RANDOM.random(50) * 9, np.full(50, 3.0)], axis=1)
    documents = np.arange(50)
    plain = estimate(Sums(rows, documents))
    perplexity = estimate(Sums(rows, documents, lambda sums: np.exp(statistics.ratio(sums))))
    np.testing.assert_allclose(perplexity, np.exp(plain), rtol=1e-4)  # percentiles are interpolated


def test_one_document_has_no_interval_and_no_verdict():
    alone = Sums(np.array([[3.0, 4.0], [1.0, 4.0]]), np.zeros(2, int))
    assert estimate(alone).value == 0.5 and math.isnan(estimate(alone).low)
    assert verdict(alone, 0.25, {}) == "not distinguishable from chance"


@pytest.mark.parametrize("rows", [np.zeros((0, 2)), np.zeros((3, 2)), np.array([[math.nan, 1.0], [1.0, 1.0]])])
def test_nothing_and_what_is_not_a_number_get_no_verdict(rows):
    score = Sums(rows, np.arange(len(rows)))
    assert all(map(math.isnan, estimate(score))) and math.isnan(score.value)
    assert all(map(math.isnan, difference(score, score)))
    assert verdict(score, 0.5, {"shortest answer": score}) == statistics.NO_VERDICT


def test_paired_differences_are_sharper_than_two_intervals():
    hard = RANDOM.random(300)
    first, second = each_its_own(hard + 0.02 + 0.01 * RANDOM.random(300)), each_its_own(hard)
    gain = difference(first, second)
    assert gain.low > 0
    assert estimate(first).low < estimate(second).high  # which overlap
    assert difference(first, first) == (0, 0, 0)
    np.testing.assert_allclose(difference(second, first), (-gain.value, -gain.high, -gain.low), rtol=1e-9)


def test_pairs_must_be_of_the_same_items():
    with pytest.raises(AssertionError):
        difference(right(1, 3), right(1, 4))


def test_verdicts():
    blind = {"shortest answer": right(57, 100)}
    assert verdict(right(58, 100), 0.5, blind) == "not distinguishable from chance"
    assert verdict(right(95, 100), 0.5, blind) == "above chance"
    assert verdict(right(20, 100), 0.5, blind) == "below chance"
    # a length-biased score: well above chance, on the very items that the shortest answer gets right
    assert verdict(right(62, 100), 0.5, {"shortest answer": right(60, 100)}) == (
        "above chance, but not above shortest answer"
    )


def test_normalised_by_chance():
    assert [chance_normalised(score, 0.25) for score in (0.25, 1.0, 0.0)] == [0, 1, pytest.approx(-1 / 3)]
