"""Metrics against their definitions, and against the libraries that define them."""

import math

import numpy as np
import pytest
import sacrebleu

from research.evaluation import baselines, metrics
from research.evaluation.items import Item, Outcome
from research.evaluation.statistics import estimate
from research.inference.requests import Continuation, Generation, Rolling, Score


def score(log_probability: float, text: str, greedy: bool = False) -> Score:
    return Score("exact", np.array([log_probability], np.float32), greedy, len(text.encode()), 0)


def choice(options: dict[str, float], gold: int, neutral: tuple[float, ...] = (), document: str = "0") -> Outcome:
    requests = tuple(Continuation("Q:", text) for text in options)
    scores = tuple(score(value, text) for text, value in options.items())
    item = Item(document, requests, gold, tuple(Continuation("", text) for text in options) if neutral else ())
    return Outcome(item, scores, tuple(score(value, "") for value in neutral))


def written(output: str, *references: str) -> Outcome:
    return Outcome(Item("0", generation=Generation(""), references=references), output=output)


def value(metric: str, *outcomes: Outcome) -> float:
    return metrics.sums(metric, outcomes).value


def test_lengths_change_the_choice():
    one = choice({" ab": -3.0, " é": -2.0, " abcdefgh": -4.0}, gold=2)
    assert value("accuracy", one) == 0  # -2 is the largest
    assert value("accuracy_by_characters", one) == 1  # -3/2, -2/1, -4/8: the space is not counted
    two = choice({" é": -1.9, " abc": -3.0}, gold=0)  # by characters -1.9 to -1, by bytes -0.95 to -1
    assert (value("accuracy_by_characters", two), value("accuracy_by_bytes", two)) == (0, 1)


def test_pointwise_mutual_information_forgives_a_rare_answer():
    rare = choice({" common": -1.0, " rare": -5.0}, gold=1, neutral=(-1.0, -9.0))
    assert (value("accuracy", rare), value("accuracy_pmi", rare)) == (0, 1)


def test_options_that_tie_share_the_credit():
    assert value("accuracy", choice({"a": -1.0, "b": -1.0, "c": -2.0}, gold=1)) == 0.5
    assert value("accuracy", choice({"a": -1.0, "b": -1.0, "c": -2.0}, gold=2)) == 0


def test_brier_is_a_squared_error_of_probabilities():
    even = choice({"a": -1.0, "b": -1.0}, gold=0)
    sure = choice({"a": -1.0, "b": -90.0}, gold=1)
    assert value("brier", even) == pytest.approx(0.5)
    assert value("brier", sure) == pytest.approx(2.0)
    assert value("brier", even, sure) == pytest.approx(1.25)


def test_gold_bits_are_a_ratio_of_sums():
    short, long = choice({"a": -math.log(2), "b": 0.0}, 0), choice({"abc": -3 * math.log(2) * 5, "x": 0.0}, 0)
    assert value("gold_bits_per_byte", short, long) == pytest.approx((1 + 15) / 4)


def test_perplexities_count_the_words_and_bytes_before_detokenisation():
    item = Item("0", (Rolling("don't"),), words=2, bytes=6)
    outcome = Outcome(item, (Score("exact", np.log(np.full(3, 0.25)), False, 5, 0),))
    assert value("word_perplexity", outcome) == pytest.approx(4**1.5)
    assert value("bits_per_byte", outcome) == pytest.approx(1.0)


def test_uniform_bytes_take_exactly_eight_bits():
    texts = ["A text.", "Ein Fuß, größer als der andere.", "日本語"]
    outcomes = [Outcome(Item(str(n), (Rolling(t),), bytes=len(t.encode()))) for n, t in enumerate(texts)]
    found = estimate(metrics.sums("bits_per_byte", baselines.uniform_bytes(outcomes)))
    np.testing.assert_allclose(found, (8, 8, 8), rtol=1e-12)


def test_uniform_bytes_choose_the_shortest_answer():
    outcomes = [choice({" a": 0.0, " bcd": 0.0}, gold) for gold in (0, 0, 1)] + [choice({" x": 0.0, " y": 0.0}, 0)]
    expected = (2 + 0 + 0.5) / 4
    assert value("accuracy", *baselines.uniform_bytes(outcomes)) == expected
    assert baselines.without_question(outcomes)["shortest answer"].value == expected
    assert baselines.without_question(outcomes)["longest answer"].value == 1.5 / 4
    assert baselines.without_question(outcomes)["majority"].value == 3 / 4
    assert value("accuracy", *baselines.equal_options(outcomes)) == 0.5
    assert value("brier", *baselines.equal_options(outcomes)) == 0.5


def test_f1_and_exact_match_are_those_of_squad():
    assert value("exact_match", written("The cat!", "a cat", "dog")) == 1
    assert value("f1", written("black cat", "the black dog")) == pytest.approx(0.5)
    assert value("f1", written("cat", "dog", "cat")) == 1


def test_edit_distance_is_per_token():
    assert value("edit_distance", written("a b c", "a x c d")) == pytest.approx(2 / 4)
    assert value("edit_distance", written("", "a b")) == 1
    assert value("edit_distance", written("a, b", "a, b")) == 0


def test_bleu_and_chrf_are_those_of_sacrebleu():
    outputs = ["the cat sat on the mat", "he reads a book", "nothing in common"]
    references = [["the cat is on the mat", "a cat sat on the mat"], ["she reads a book"], ["another sentence here"]]
    outcomes = [written(o, *r) for o, r in zip(outputs, references, strict=True)]
    streams = [[r[n] if n < len(r) else None for r in references] for n in range(2)]
    assert value("bleu", *outcomes) == pytest.approx(sacrebleu.corpus_bleu(outputs, streams).score)
    assert value("chrf", *outcomes) == pytest.approx(sacrebleu.corpus_chrf(outputs, streams).score)
    documents = [
        Outcome(Item(str(n), generation=o.item.generation, references=o.item.references), output=o.output)
        for n, o in enumerate(outcomes)
    ]
    interval = estimate(metrics.sums("chrf", documents))
    assert interval.low < interval.value < interval.high


def test_rouge_counts_the_longest_common_subsequence():
    assert value("rougeL", written("the cat sat", "the cat is here")) == pytest.approx(
        2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4)
    )
    assert value("rouge2", written("a b c", "a b c")) == 1
