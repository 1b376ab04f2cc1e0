"""Scores are what the model says of each example alone, whatever they are computed together with."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import jax
import numpy as np
import pytest

from research import config, sharding
from research.inference import scoring
from research.inference.prompting import PromptFormat, ask
from research.inference.requests import Continuation, Infill, Rolling, Scorable, Score
from research.objectives import Example
from tests.evaluation.shared import TOKENIZER, Model, Words, alone, manner, model

QUESTIONS = ["The capital of France is", "A", "", "The capital of France is not Lyon, but"]
OPTIONS = [" Paris", " Rome", " four", " five, or so they say"]
CONTINUATIONS = [Continuation(q, o) for q, o in itertools.product(QUESTIONS, OPTIONS)]
INFILLS = [Infill(q, ", they say.", o) for q, o in itertools.product(QUESTIONS[:2], OPTIONS)]
ROLLING = [Rolling("A text that is longer than what the model reads at once. " * 2), Rolling("short")]


def one_device(model: Model) -> sharding.Layout:
    return sharding.layout(config.Mesh(), model.config, jax.devices()[:1])


def collect(model: Model, manner: PromptFormat, requests: Sequence[Scorable], **settings) -> list[Score | None]:
    settings = {"layout": one_device(model), **settings}
    found = dict(pair for done in scoring.score(model, manner, requests, **settings) for pair in done.scores)
    return [found[number] for number in range(len(requests))]


CASES = {
    "causal, rope": ({}, config.Causal(), CONTINUATIONS + ROLLING),
    "causal, learned positions": ({"positions.kind": "learned"}, config.Causal(), CONTINUATIONS + ROLLING),
    "causal, relative positions": ({"positions.kind": "relative"}, config.Causal(), CONTINUATIONS),
    "prefix": ({}, config.Prefix(), CONTINUATIONS + ROLLING),
    "span corruption": ({}, config.SpanCorruption(), CONTINUATIONS + INFILLS),
    "masked": ({}, config.Masked(), CONTINUATIONS[:8] + INFILLS[:4] + ROLLING),
    "encoder-decoder, prefix": ({"encoder_depth": 2}, config.Prefix(), CONTINUATIONS + ROLLING),
    "encoder-decoder, span corruption": (
        {"encoder_depth": 2, "positions.kind": "relative"},
        config.SpanCorruption(),
        CONTINUATIONS + INFILLS,
    ),
    "encoder-decoder, text to text": ({"encoder_depth": 1}, config.TextToText(prefix="answer: "), CONTINUATIONS),
}


@pytest.mark.parametrize("case", CASES)
def test_a_score_is_what_the_model_says_of_each_example_alone(case):
    changes, objective, requests = CASES[case]
    lm = model(**changes)
    how = manner(objective, source_length=48 if lm.config.encoder_depth else None)
    scores = collect(lm, how, requests)
    for request, asked, score in zip(requests, ask(how, requests), scores, strict=True):
        expected = np.concatenate([alone(lm, example) for example in asked.examples])
        np.testing.assert_allclose(score.log_probabilities, expected, rtol=1e-4, atol=1e-4, err_msg=str(request))
        assert score.kind == ("pseudo" if isinstance(objective, config.Masked) else "exact")
        assert score.bytes == len(request.text.encode())
        read = request.text.lstrip() if isinstance(objective, config.TextToText) else request.text
        assert len(score.log_probabilities) == len(read.encode())  # of a tokenizer of bytes, each is scored once


def test_masked_scores_are_those_of_kauf_and_ivanova():
    """Their PLL-word-l2r, written down naively: each token with itself and the rest of its word hidden."""
    made = model()
    words = replace(TOKENIZER, coder=Words())
    context, text = "The cat", " sat on it"
    row = [TOKENIZER.bos, *context.encode(), *text.encode(), TOKENIZER.eos]
    expected = []
    for place in range(1 + len(context), len(row) - 1):
        hidden = row.copy()
        hidden[place] = TOKENIZER.mask
        for later in range(place + 1, len(row) - 1):
            if row[later] == ord(" "):  # which begins the next word
                break
            hidden[later] = TOKENIZER.mask
        tokens = np.array(hidden, np.int32)
        weights = (np.arange(len(row)) == place).astype(np.float32)
        expected += alone(made, Example(tokens, np.array(row), weights, np.zeros(len(row), np.int32))).tolist()
    (score,) = collect(made, PromptFormat(config.Masked(), words, 64), [Continuation(context, text)])
    np.testing.assert_allclose(score.log_probabilities, expected, rtol=1e-4, atol=1e-4)
    assert score.kind == "pseudo"


@pytest.mark.parametrize(("tokens", "devices"), [(1, 1), (300, 8), (100_000, 8)])
def test_neither_the_size_of_batches_nor_the_devices_matter(tokens, devices):
    lm, how = model(), manner(config.Causal())
    layout = sharding.layout(config.Mesh(), lm.config, jax.devices()[:devices])
    requests = CONTINUATIONS + ROLLING
    for one, other in zip(
        collect(lm, how, requests), collect(lm, how, requests, layout=layout, tokens=tokens), strict=True
    ):
        np.testing.assert_allclose(one.log_probabilities, other.log_probabilities, rtol=1e-4, atol=1e-4)
        assert one.greedy == other.greedy


def test_parameters_split_over_devices_score_the_same():
    lm, how = model(), manner(config.Causal())
    layout = sharding.layout(config.Mesh(data=2, fsdp=2, tensor=2), lm.config)
    for one, other in zip(collect(lm, how, CONTINUATIONS), collect(lm, how, CONTINUATIONS, layout=layout), strict=True):
        np.testing.assert_allclose(one.log_probabilities, other.log_probabilities, rtol=1e-4, atol=1e-4)


@pytest.fixture
def compiled() -> Iterator[list[str]]:
    """What XLA compiles meanwhile."""
    found: list[str] = []

    def note(event: str, seconds: float, **facts: str) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(facts.get("fun_name", event))

    jax.monitoring.register_event_duration_secs_listener(note)
    yield found
    jax.monitoring.unregister_event_duration_listener(note)


def test_few_programs_are_compiled_and_none_twice(compiled):
    """Requests of very many lengths meet few shapes, and other requests of those shapes compile nothing."""
    lm, how = model(length=64, width=8), manner(config.Causal())
    words = [f"The {'very ' * (n % 7)}long context number {n}" for n in range(40)]
    requests = [Continuation(w, f" {'x' * (1 + (n + k) % 9)}{k}") for n, w in enumerate(words) for k in range(3)]
    rolling = [Rolling("r" * n) for n in range(1, 40)]
    collect(lm, how, requests + rolling)
    first = len(compiled)
    assert 0 < first <= 2
    collect(lm, how, rolling + requests)
    collect(Model(lm.config, jax.tree.map(lambda x: x + 1, lm.params)), how, requests + rolling)  # another checkpoint
    assert compiled[first:] == []


def test_logits_in_parts_are_the_whole(monkeypatch):
    lm, how = model(), manner(config.Causal())
    whole = collect(lm, how, ROLLING)
    monkeypatch.setattr(scoring, "LOGITS", 5 * lm.config.vocabulary)
    jax.clear_caches()
    for one, other in zip(whole, collect(lm, how, ROLLING), strict=True):
        np.testing.assert_allclose(one.log_probabilities, other.log_probabilities, rtol=1e-5, atol=1e-5)


def greedy_tokens(lm: Model, count: int) -> list[int]:
    """What greedy decoding continues with, computed in the plainest way."""
    row = list(b"Once")
    for _ in range(count):
        row.append(ranked(lm, row)[0])
    return row[4:]


def ranked(lm: Model, row: list[int]) -> list[int]:
    """All tokens, the most probable one first."""
    each = [alone(lm, causal(row, [token]))[0] for token in range(lm.config.vocabulary)]
    return np.argsort(-np.array(each), kind="stable").tolist()


def causal(context: list[int], text: list[int]) -> Example:
    row = np.array([*context, *text], np.int32)
    weights = np.r_[np.zeros(len(context) - 1), np.ones(len(text))].astype(np.float32)
    return Example(row[:-1], row[1:], weights, np.arange(len(row) - 1, dtype=np.int32))


def judge(lm: Model, examples: Sequence[Example], forbidden: Sequence[int] = ()) -> list[scoring.Judged]:
    found = dict(pair for _, results in scoring.judge(lm, examples, forbidden, one_device(lm)) for pair in results)
    return [found[number] for number in range(len(examples))]


def test_greedy_is_what_greedy_decoding_would_say():
    lm = model()
    right = greedy_tokens(lm, 3)
    wrong = [*right[:-1], (right[-1] + 1) % 256]
    found = judge(lm, [causal(list(b"Once"), right), causal(list(b"Once"), wrong)])
    assert [one.greedy.tolist() for one in found] == [[True] * 3, [True, True, False]]


def test_a_forbidden_token_is_passed_over_at_the_first_place_only():
    lm = model()
    first, second, *_ = ranked(lm, list(b"Once"))
    after = ranked(lm, [*b"Once", second])[0]
    (found,) = judge(lm, [causal(list(b"Once"), [second, after])], forbidden=[first, after])
    assert found.allowed.tolist() == [True, True] and found.greedy.tolist() == [False, True]


def test_what_a_model_cannot_do_has_no_score():
    assert collect(model(), manner(config.Causal()), [INFILLS[0], CONTINUATIONS[0]])[0] is None
    assert collect(model(), manner(config.SpanCorruption()), [ROLLING[0]]) == [None]
