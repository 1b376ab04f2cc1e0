"""A checkpoint on a task: nothing is asked twice, nothing that a model cannot do becomes a number, and every score
stands beside what needs no model."""

import json
import math
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

from research import config
from research.evaluation import baselines, comparison, metrics, result_files, suite, tasks
from research.evaluation.answer_cache import Cache
from research.evaluation.items import Item, Outcome
from research.evaluation.suite import EvaluatedModel
from research.evaluation.tasks import TaskDataset
from research.inference import language_model, scoring
from research.inference.requests import Continuation, Score
from tests.evaluation.shared import OBJECTIVES, TOKENIZER, model


@pytest.fixture(scope="module")
def checkpoint() -> language_model.LanguageModel:
    tiny = model(**{"positions.max_length": 192})
    return language_model.LanguageModel(tiny.config, tiny.params, TOKENIZER, (config.Causal(), config.Masked()))


def evaluated(checkpoint, folder, number: int = 0) -> EvaluatedModel:
    return suite.evaluated_models("tiny", checkpoint, folder)[number]


@pytest.fixture(scope="module")
def copying():
    return tasks.open_task(tasks.load_task("copying"), [], limit=12)


def written(folder: Path, **fields) -> TaskDataset:
    """A task of these fields, whose files are in the folder."""
    path = folder / "task.yaml"
    path.write_text(json.dumps({"name": "test", "about": "a test", "licence": "none", **fields}))
    return tasks.open_task(tasks.load_task(str(path)), [folder])


def counted(monkeypatch) -> list[int]:
    """How many requests reach the model, call by call."""
    calls: list[int] = []
    original = scoring.score

    def score(model, params, how, requests, *others):
        calls.append(len(requests))
        return original(model, params, how, requests, *others)

    monkeypatch.setattr(scoring, "score", score)
    return calls


def test_answers_are_kept_and_asked_once(checkpoint, copying, tmp_path, monkeypatch):
    calls = counted(monkeypatch)
    first = suite.answer(evaluated(checkpoint, tmp_path), copying)
    again = suite.answer(evaluated(checkpoint, tmp_path), copying)
    assert calls == [48, 0]
    for one, other in zip(first, again, strict=True):
        for a, b in zip(one.scores, other.scores, strict=True):
            assert np.array_equal(a.log_probabilities, b.log_probabilities) and a.greedy == b.greedy
    assert suite.measure(evaluated(checkpoint, tmp_path), copying, first, {}) == suite.measure(
        evaluated(checkpoint, tmp_path), copying, again, {}
    )


def test_another_checkpoint_or_prompt_format_has_its_own_answers(checkpoint, copying, tmp_path, monkeypatch):
    calls = counted(monkeypatch)
    suite.answer(evaluated(checkpoint, tmp_path), copying)
    suite.answer(suite.untrained(evaluated(checkpoint, tmp_path), tmp_path), copying)
    suite.answer(evaluated(checkpoint, tmp_path, 1), replace(copying, items=copying.items[:1]))
    assert calls == [48, 48, 4]


def test_a_killed_evaluation_goes_on(checkpoint, copying, tmp_path, monkeypatch):
    whole = suite.answer(evaluated(checkpoint, tmp_path / "whole"), copying)
    suite.answer(evaluated(checkpoint, tmp_path / "killed"), copying)
    (path,) = (tmp_path / "killed").glob("*.jsonl")
    content = path.read_bytes()
    cut = content.index(b"\n", len(content) // 2) + 20  # in the middle of a line
    path.write_bytes(content[:cut])
    known = content[:cut].count(b"\n")
    calls = counted(monkeypatch)
    resumed = suite.answer(evaluated(checkpoint, tmp_path / "killed"), copying)
    assert calls == [48 - known] and known > 20
    for one, other in zip(whole, resumed, strict=True):
        for a, b in zip(one.scores, other.scores, strict=True):
            np.testing.assert_allclose(a.log_probabilities, b.log_probabilities, rtol=1e-4, atol=1e-4)
    assert path.read_bytes().count(b"\n") == 48


def test_scores_come_back_from_disk_as_they_were(tmp_path):
    values = np.random.default_rng(0).normal(-3, 2, 50).astype(np.float32)
    score = Score("exact", values, True, 7, 2, greedy_allowed=True)
    Cache(tmp_path / "a.jsonl").put([(Continuation("a", "b"), score)])  # which is on disk when it returns
    found = Cache(tmp_path / "a.jsonl").get(Continuation("a", "b"))
    assert np.array_equal(found.log_probabilities, values)
    assert (found.kind, found.greedy, found.bytes, found.truncated, found.greedy_allowed) == ("exact", True, 7, 2, True)
    assert Cache(tmp_path / "a.jsonl").get(Continuation("a", "c")) is None


def test_what_a_model_cannot_do_is_not_applicable(checkpoint, tmp_path):
    infill = tasks.open_task(tasks.load_task("docs_infill"), [], limit=2)
    assert suite.answer(evaluated(checkpoint, tmp_path, 0), infill) is None
    assert suite.answer(evaluated(checkpoint, tmp_path, 1), infill) is not None
    result, outcomes = suite.ask(evaluated(checkpoint, tmp_path, 0), infill, baseline=lambda: pytest.fail("not needed"))
    assert outcomes is None and result.measured == () and result.note == "the model was not trained to do this"


@pytest.mark.parametrize(
    ("objective", "encoder_depth"),
    [(objective, 0) for objective in OBJECTIVES] + [(objective, 2) for objective in OBJECTIVES if objective.has_source],
)
def test_a_language_model_gives_the_score_of_the_evaluator(objective, encoder_depth, copying, tmp_path):
    lm = replace(model(encoder_depth=encoder_depth), objectives=(objective,))
    for context, text in (("The cat ", "sat"), ("", " sat on it"), ("far too long for this model " * 4, " sat")):
        item = Item("0", (Continuation(context, text),))
        (outcome,) = suite.answer(evaluated(lm, tmp_path), replace(copying, items=(item,)))
        (expected,), found = outcome.scores, lm.score(context, text)
        assert found.log_probabilities.tolist() == expected.log_probabilities.tolist()
        assert (found.kind, found.greedy, found.truncated) == (expected.kind, expected.greedy, expected.truncated)
        assert len(found.tokens) == len(found.log_probabilities) and found.total == expected.log_probability
        assert (found.truncated > 0) == (len(context) > 64)


def test_what_does_not_fit_is_not_applicable_and_says_why(checkpoint, copying, tmp_path):
    short = suite.evaluated_models("tiny", checkpoint, tmp_path, length=4)[0]
    result, outcomes = suite.ask(short, copying, baseline=None)
    assert outcomes is None and result.measured == () and "does not fit into the 4 places" in result.note


def test_a_uniform_model_takes_its_bits_exactly(checkpoint, tmp_path):
    params = jax.tree.map(np.zeros_like, checkpoint.params)
    uniform = replace(checkpoint, params=params)
    (tmp_path / "text.txt").write_text("A text of some length, with ümläuts. " * 8)
    pieces = {"each": "range(0, text | length, 60)", "fields": {"text": "text[each:each + 60]"}}
    source = {"file": "text.txt", "format": "text", **pieces}
    questions = written(tmp_path, kind="text", sources=[source], metrics=["bits_per_byte"])
    asked = evaluated(uniform, tmp_path / "answers")
    result = suite.measure(asked, questions, suite.answer(asked, questions), {})
    np.testing.assert_allclose(result.measured[0].estimate, math.log2(checkpoint.config.vocabulary), rtol=1e-6)
    assert result.measured[0].baselines["uniform bytes"] == pytest.approx(8, rel=1e-12)


def test_every_score_stands_beside_its_baselines(checkpoint, copying, tmp_path):
    asked = evaluated(checkpoint, tmp_path)
    outcomes = suite.answer(asked, copying)
    before = suite.answer(suite.untrained(asked, tmp_path), copying)
    result = suite.measure(asked, copying, outcomes, {"untrained model": before})
    accuracy = result.measured[0]
    assert accuracy.metric == "accuracy" and accuracy.baselines["chance"] == 0.25
    assert set(accuracy.baselines) == {
        "chance",
        "majority",
        "shortest answer",
        "longest answer",
        "untrained model",
        "uniform bytes",
    }
    assert accuracy.normalised == pytest.approx((accuracy.estimate.value - 0.25) / 0.75)
    assert accuracy.verdict == "not distinguishable from chance"  # random parameters and twelve items
    assert result.kind == "exact" and result.items == 12 and result.truncated == 0
    json.dumps(result.to_json())


def test_truncated_contexts_are_counted(checkpoint, copying, tmp_path):
    short = suite.evaluated_models("tiny", checkpoint, tmp_path, length=40)[0]
    result = suite.measure(short, copying, suite.answer(short, copying), {})
    assert result.truncated == 12


def test_generations_are_compared_with_references(checkpoint, tmp_path):
    (tmp_path / "r.jsonl").write_text("".join(json.dumps({"q": f"{n}+{n}=", "a": str(2 * n)}) + "\n" for n in range(3)))
    questions = written(
        tmp_path,
        kind="generate",
        sources=[{"file": "r.jsonl"}],
        context="{{ q }}",
        continuation="{{ answer }}",
        references="a",
        tokens=4,
        metrics=["exact_match", "edit_distance"],
    )
    asked = evaluated(checkpoint, tmp_path / "answers")
    outcomes = suite.answer(asked, questions)
    again = suite.answer(evaluated(checkpoint, tmp_path / "answers"), questions)
    assert [o.output for o in outcomes] == [o.output for o in again] and len(outcomes) == 3
    for outcome in outcomes:  # how probable what was written is: of bytes, every token has a log-probability
        (score,) = outcome.scores
        assert score.kind == "exact" and score.bytes == len(score.log_probabilities) > 0
    result = suite.measure(asked, questions, outcomes, {})
    assert result.measured[0].baselines == {"most frequent answer": pytest.approx(1 / 3)}
    assert (
        suite.answer(evaluated(checkpoint, tmp_path / "answers", 1), questions) is None
    )  # a masked model does not write


def test_kinds_of_scores_are_in_tables_of_their_own(checkpoint, copying, tmp_path):
    few = replace(copying, items=copying.items[:2])
    results = []
    for number in (0, 1):
        asked = evaluated(checkpoint, tmp_path, number)
        results.append(suite.measure(asked, few, suite.answer(asked, few), {}))
    infill = tasks.open_task(tasks.load_task("docs_infill"), [], limit=1)
    results.append(
        suite.not_applicable(evaluated(checkpoint, tmp_path), infill, "the model was not trained to do this")
    )
    console = Console(width=160)
    with console.capture() as capture:
        console.print(result_files.tables(results))
    text = capture.get()
    exact, pseudo = text.split("tiny, masked prompt format: pseudo scores")
    assert "tiny, causal prompt format: exact scores" in exact and "n/a" in exact and "docs_infill" not in pseudo


def test_results_are_merged_and_rows_can_be_read(checkpoint, copying, tmp_path):
    asked = evaluated(checkpoint, tmp_path / "answers")
    outcomes = suite.answer(asked, copying)
    result = suite.measure(asked, copying, outcomes, {})
    result_files.write_results(tmp_path, [result], ())
    result_files.write_results(tmp_path, [replace(result, task="other")], ())
    result_files.write_results(tmp_path, [replace(result, truncated=5)], ())
    kept = json.loads((tmp_path / "results.json").read_text())
    assert [(r["task"], r["truncated"]) for r in kept] == [("other", 0), ("copying", 5)]
    result_files.write_rows(tmp_path, result, outcomes)
    (path,) = (tmp_path / "rows").rglob("*.jsonl")
    assert path.relative_to(tmp_path / "rows") == Path("tiny/causal/copying.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    right = [max(row["options"], key=lambda o: o["log_probability"]) is row["options"][row["gold"]] for row in rows]
    assert np.mean(right) == result.measured[0].estimate.value


def test_two_checkpoints_are_compared_item_by_item(checkpoint, copying, tmp_path):
    asked = evaluated(checkpoint, tmp_path)
    outcomes = suite.answer(asked, copying)
    first = suite.measure(asked, copying, outcomes, {})

    def shifted(score: Score, by: float) -> Score:
        return replace(score, log_probabilities=score.log_probabilities + np.float32(by))

    surer = [replace(o, scores=tuple(shifted(s, n == o.item.gold) for n, s in enumerate(o.scores))) for o in outcomes]
    other = replace(suite.measure(asked, copying, surer, {}), checkpoint="other")
    found = {one.metric: one for one in comparison.compare(first, other, outcomes, surer)}
    bits = found["gold_bits_per_byte"]
    letters = sum(len(o.item.options[0].text) for o in outcomes)
    tokens = sum(len(o.scores[0].log_probabilities) for o in outcomes)
    assert bits.difference.value == pytest.approx(-tokens / math.log(2) / letters, rel=1e-4)
    assert bits.difference.high < 0 and bits.verdict == "other is better"
    same = comparison.compare(first, replace(first, checkpoint="other"), outcomes, outcomes)
    assert {one.verdict for one in same} == {"no difference shown"}
    with pytest.raises(AssertionError, match="one kind"):
        comparison.compare(first, replace(other, kind="pseudo"), outcomes, surer)


def test_the_null_of_a_length_biased_score_is_in_the_verdict(checkpoint, tmp_path):
    """Right answers are mostly the shorter ones: preferring short answers is above chance, and above nothing else."""
    records = [{"options": ["ab", "abcdefgh"], "gold": int(n % 4 == 0)} for n in range(80)]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    questions = written(
        tmp_path,
        kind="choice",
        sources=[{"file": "r.jsonl"}],
        context="Q:",
        continuation=" {{ option }}",
        options="options",
        metrics=["accuracy"],
    )
    asked = evaluated(checkpoint, tmp_path / "answers")
    (accuracy,) = suite.measure(asked, questions, suite.answer(asked, questions), {}).measured
    assert accuracy.baselines["uniform bytes"] == accuracy.baselines["shortest answer"] == 0.75
    assert accuracy.estimate.value == 0.75 and accuracy.estimate.low > accuracy.baselines["chance"] == 0.5
    assert accuracy.verdict.startswith("above chance, but not above")
    console = Console(width=200)
    with console.capture() as capture:
        console.print(result_files.tables([suite.measure(asked, questions, suite.answer(asked, questions), {})]))
    assert "0.750" in capture.get() and "but not above" in capture.get()


def test_copa_has_a_null_above_chance(shared):
    """With ties to the first option, as lm-evaluation-harness takes them, uniform bytes would reach 0.59."""
    questions = tasks.open_task(tasks.load_task("copa"), [shared / "data/eval"])
    outcomes = baselines.uniform_bytes([Outcome(item) for item in questions.items])
    assert metrics.sums("accuracy", outcomes).value == 0.565
    first = [int(np.argmax([s.log_probability for s in o.scores])) == o.item.gold for o in outcomes]
    assert np.mean(first) == 0.59
    assert baselines.without_question(outcomes)["shortest answer"].value == 0.565
