"""The language model that notebooks use: what it says equals what the model computes on training batches."""

import subprocess
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest

from research import config, models, objectives
from research.config import (
    MLP,
    Attention,
    Causal,
    Embedding,
    Masked,
    Model,
    Prefix,
    SpanCorruption,
    TextToText,
    replace_fields,
)
from research.data import tokenizers
from research.data.tokenizer_backends import Characters
from research.data.tokenizers import Tokenizer
from research.errors import InputError
from research.inference.generation import Prompt, Sampling, cut, generate
from research.inference.language_model import LanguageModel

TEXT = "the cat sat on the mat"


def _lm(*kinds, tokenizer: Tokenizer | None = None, **changes) -> LanguageModel:
    tokenizer = tokenizers.extend(tokenizer or tokenizers.load("bytes"), kinds)
    small = Model(
        width=32,
        depth=2,
        initial_scale=0.3,
        attention=Attention(heads=4, kv_heads=2),
        mlp=MLP(width=32),
        embedding=Embedding(initial_scale=0.5),
    )
    model = config.resolve(replace_fields(small, changes), tokenizer.size, 128)
    params = jax.jit(models.init, static_argnums=0)(model, jax.random.key(1))
    return LanguageModel(model, params, tokenizer, kinds)


@pytest.fixture(scope="module")
def lm():
    return _lm(Causal(), Masked(), SpanCorruption())


@pytest.fixture(scope="module")
def encoder_decoder():
    return _lm(SpanCorruption(), TextToText(), encoder_depth=2, **{"positions.kind": "relative"})


def test_token_losses_are_those_of_the_logits(lm):
    table = lm.token_losses(TEXT)
    (logits,) = lm.logits([TEXT])
    expected = -np.asarray(jax.nn.log_softmax(logits))
    ids = [*lm.tokenizer.encode(TEXT), lm.tokenizer.eos]
    np.testing.assert_allclose(table["loss"], [expected[n, i] for n, i in enumerate(ids)], rtol=1e-4)
    np.testing.assert_allclose(table["probability"], np.exp(-np.array(table["loss"])), rtol=1e-4)
    best = [int(logits[n].argmax()) == i for n, i in enumerate(ids)]
    assert [rank == 1 for rank in table["rank"]] == best
    assert len(table) == len(ids) and "loss" in str(table) and "<td>" in table._repr_html_()


def test_every_objective_shows_its_own_places(lm):
    masked, span = lm.token_losses(TEXT, "masked"), lm.token_losses(TEXT, "span_corruption")
    assert len(masked) == round(0.15 * len(TEXT)) and "".join(masked["target"]).isascii()
    assert span["target"][0] == "<extra_id_0>" and span["target"][-1] == "<eos>"
    with pytest.raises(InputError, match="it was with causal, masked, span_corruption"):
        lm.token_losses(TEXT, "translation")


def test_a_score_is_the_sum_over_the_continuation(lm):
    score = lm.score("the cat", " sat")
    losses = lm.token_losses("the cat sat")["loss"]
    np.testing.assert_allclose(score.log_probabilities, -np.array(losses[7:11]), rtol=1e-4)
    assert score.total == pytest.approx(float(score.log_probabilities.sum()))
    assert score.total == pytest.approx(lm.score("the cat ", "sat").total, rel=1e-5)  # the space is the continuation's


def test_the_next_token_is_the_most_probable_one(lm):
    best = lm.next_tokens("the cat", lm.config.vocabulary)
    assert [c.probability for c in best] == sorted((c.probability for c in best), reverse=True)
    assert sum(candidate.probability for candidate in best) == pytest.approx(1, rel=1e-4)
    probability = next(candidate.probability for candidate in best if candidate.token == "x")
    assert lm.score("the cat", "x").total == pytest.approx(np.log(probability), rel=1e-4)


def _ordinary(lm: LanguageModel) -> np.ndarray:
    allowed = np.zeros(lm.config.vocabulary, bool)
    allowed[: lm.tokenizer.size] = True
    allowed[list(lm.tokenizer.vocabulary.special - {lm.tokenizer.eos})] = False
    return allowed


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("kind", ["causal", "both sides", "source"])
def test_a_prompt_gives_the_same_alone_and_among_others(lm, encoder_decoder, kind, temperature):
    """Of different lengths, one that crosses a bucket; and each row equals the plain computation without a cache."""
    model = encoder_decoder if kind == "source" else lm
    random = np.random.default_rng(0)
    rows = [random.integers(97, 122, length).tolist() for length in (3, 9, 20)]
    prompts = {
        "causal": [Prompt(row) for row in rows],
        "both sides": [Prompt(row, seen_by_all=len(row)) for row in rows],
        "source": [Prompt([256], source=row) for row in rows],
    }[kind]
    sampling = Sampling(tokens=12, temperature=temperature, seed=3)
    together = generate(model.config, model.params, model.tokenizer, prompts, sampling, ends=())
    for prompt, row in zip(prompts, together, strict=True):
        assert generate(model.config, model.params, model.tokenizer, [prompt], sampling, ends=()) == [row]
        assert len(row) == 12
    if temperature == 0:
        for prompt, row in zip(prompts, together, strict=True):
            assert row == _plain(model, prompt, row)


def _plain(lm: LanguageModel, prompt: Prompt, row: list[int]) -> list[int]:
    """The most probable token at each place of prompt and continuation, from one full forward pass."""
    tokens = np.array([*prompt.tokens, *row[:-1]], np.int32)
    order = np.arange(len(tokens)) - max(prompt.seen_by_all - 1, 0)
    example = objectives.reading(tokens, both_sides=False)._replace(
        levels=np.maximum(order, 0).astype(np.int32),
        source=None if prompt.source is None else np.array(prompt.source, np.int32),
    )
    scores = lm._logits([example])[0, len(prompt.tokens) - 1 : len(tokens)]
    possible = _ordinary(lm)
    possible[lm.tokenizer.eos] = False
    return np.where(possible, scores, -np.inf).argmax(axis=1).tolist()


def test_sampling_is_decided_by_seed_and_sample(lm):
    sampling = Sampling(tokens=12, temperature=1.0, seed=1)
    first, second = lm.generate("the cat", sampling, samples=2)
    assert first != second
    assert lm.generate("the cat", sampling, samples=2) == [first, second]
    assert lm.generate(["a", "the cat"], sampling)[1] == first
    assert lm.generate("the cat", replace(sampling, seed=2)) != first
    assert lm.generate("the cat", replace(sampling, top_k=1)) == lm.generate("the cat", Sampling(tokens=12))
    assert lm.generate("the cat", replace(sampling, top_p=1e-6)) == lm.generate("the cat", Sampling(tokens=12))


def test_a_continuation_ends_before_a_stop_string(lm):
    sampling = Sampling(tokens=40, least=20, temperature=1.0)
    whole = lm.generate("the cat", sampling)
    stop = whole[5:7]
    assert stop
    stopped = lm.generate("the cat", replace(sampling, stop=(stop,)))
    assert stopped == whole[: whole.index(stop)] == cut(whole, [stop])


def test_masks_are_filled_with_probabilities(lm):
    first, second = lm.fill("the [MASK]at sat [MASK]n the mat", count=4)
    assert len(first) == len(second) == 4
    assert [c.probability for c in first] == sorted((c.probability for c in first), reverse=True)
    assert 0 < sum(candidate.probability for candidate in first) < 1
    with pytest.raises(InputError, match=r"no \[MASK\]"):
        lm.fill("the cat")


def test_a_span_is_infilled(lm, encoder_decoder):
    for model in (lm, encoder_decoder):
        ids = model.tokenizer.encode(model.infill("the cat ", " the mat", Sampling(tokens=5)))
        assert len(ids) >= 1


def test_attention_is_of_the_text_alone(lm, encoder_decoder):
    weights = lm.attention(TEXT)
    length = len(TEXT) + 2
    assert weights.shape == (2, 4, length, length)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)
    assert not np.triu(weights, 1).any() and np.triu(lm.attention(TEXT, "masked"), 1).any()
    assert encoder_decoder.attention(TEXT).shape == (2, 4, length, length)


def test_what_a_model_was_not_trained_for_is_refused(lm, encoder_decoder):
    with pytest.raises(InputError, match="trained with Masked; this one was trained with span_corruption"):
        encoder_decoder.fill("the [MASK]")
    with pytest.raises(InputError, match="SpanCorruption"):
        replace(lm, objectives=(Causal(),)).infill("a", "b")
    learned = _lm(Causal(), **{"positions.kind": "learned", "positions.max_length": 16})
    with pytest.raises(InputError, match="leaves no room for new ones in the model's 16 positions"):
        learned.generate("the cat sat on the mat")
    prompt = Prompt([1] * 7)
    (row,) = generate(learned.config, learned.params, learned.tokenizer, [prompt], Sampling(tokens=20), ends=())
    assert len(row) == 16 - 7


def test_an_answer_follows_its_input(encoder_decoder):
    losses = encoder_decoder.token_losses("the cat", "text_to_text", answer="sat")
    assert losses["target"] == ["s", "a", "t", "<eos>"]
    score = encoder_decoder.score("the cat", "sat")
    np.testing.assert_allclose(score.log_probabilities, -np.array(losses["loss"][:3]), rtol=1e-4)
    assert isinstance(encoder_decoder.generate("the cat", Sampling(tokens=4)), str)
    with pytest.raises(InputError, match="give its output"):
        encoder_decoder.token_losses("the cat", "text_to_text")


@pytest.fixture(scope="module", params=[0, 2])
def with_modes(request) -> LanguageModel:
    """UL2's kind of model, decoder-only or encoder-decoder, with letters as tokens."""
    kinds = (SpanCorruption(name="r", mode="[R]"), Prefix(name="s", mode="[S]"), SpanCorruption(name="x", mode="[X]"))
    letters = Tokenizer(Characters("abcdefghijklmnopqrstuvwxyz"), {26: "<bos>"}, bos=26)
    lm = _lm(*kinds, tokenizer=letters, encoder_depth=request.param, **{"head.tied": False})
    lm.params["output"] = lm.params["output"].at[:, 26:].set(0)  # special tokens are never the most probable ones
    return lm


def test_a_score_is_what_the_objective_trains(with_modes):
    """Its mode token, and who sees whom."""
    for key in range(3):
        losses = with_modes.token_losses("thecatsatonthemat", "s", (key,))
        rest = "".join(losses["target"][:-1])
        score = with_modes.score("thecatsatonthemat".removesuffix(rest), rest)
        np.testing.assert_allclose(score.log_probabilities, -np.array(losses["loss"][:-1]), rtol=1e-4, atol=1e-5)


def test_what_is_generated_is_what_scores_call_greedy(with_modes):
    said = with_modes.generate("thecat", Sampling(tokens=6, least=6))
    assert len(said) == 6 and with_modes.score("thecat", said).greedy
    assert not with_modes.score("thecat", said[:-1] + ("a" if said[-1] != "a" else "b")).greedy


def test_the_first_objective_that_can_does_it_unless_another_is_named(with_modes):
    sampling = Sampling(tokens=8, least=8, temperature=1.0)
    spans = {name: with_modes.infill("the", "sat", sampling, name) for name in (None, "r", "x")}
    assert spans[None] == spans["r"] != spans["x"]
    with pytest.raises(InputError, match=r"trained with SpanCorruption or Masked; this one .* s \(Prefix\)"):
        with_modes.infill("the", "sat", objective="s")


def test_a_masked_model_infills_with_masks():
    lm = _lm(Masked(), tokenizer=Tokenizer(Characters("abcdefghijklmnopqrstuvwxyz")))
    best = [each.token for each in lm.fill("the[MASK]at", lm.config.vocabulary)[0]]
    assert lm.infill("the", "at") == next(token for token in best if len(token) == 1)
    assert len(lm.infill("the", "at", Sampling(tokens=3))) == 3


def test_a_text_longer_than_the_positions_is_refused():
    learned = _lm(Causal(), **{"positions.kind": "learned", "positions.max_length": 16})
    for ask in (learned.token_losses, learned.attention):
        with pytest.raises(InputError, match="do not fit into the model's 16 positions"):
            ask(TEXT)
    with pytest.raises(InputError, match="does not fit into the 16 places"):
        learned.score("a", TEXT)


def test_a_context_longer_than_the_positions_loses_its_beginning():
    learned = _lm(Causal(), **{"positions.kind": "learned", "positions.max_length": 16})
    long, short = learned.score(TEXT, "!"), learned.score(TEXT[-16:], "!")
    assert long.truncated == 1 + len(TEXT) - 16 and short.truncated == 1  # the beginning of a document counts too
    assert long.log_probabilities.tolist() == short.log_probabilities.tolist()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"temperature": -1.0}, "temperature: -1.0 must be finite and at least 0"),
        ({"temperature": float("nan")}, "temperature: nan must be finite"),
        ({"top_p": 0.0}, "top_p: 0.0 must be above 0 and at most 1"),
        ({"top_p": 1.5}, "top_p: 1.5 must be"),
        ({"top_k": -1}, "top_k: -1 must be at least 0"),
        ({"tokens": 0}, "tokens: 0 must be at least 1"),
    ],
)
def test_numbers_out_of_their_range_are_named(wrong, message):
    with pytest.raises(InputError, match=message):
        Sampling(**wrong)


def test_at_least_one_sample_is_generated(lm):
    with pytest.raises(InputError, match="samples: 0 must be at least 1"):
        lm.generate("the cat", samples=0)


def test_a_model_that_only_fills_gaps_scores_too(lm, encoder_decoder):
    masked, spans = lm.score("the cat", " sat", "masked"), encoder_decoder.score("the cat", " sat", "span_corruption")
    assert (masked.kind, spans.kind) == ("pseudo", "exact")
    assert masked.tokens == spans.tokens == [" ", "s", "a", "t"]


def test_importing_the_package_loads_no_library():
    code = "import research, sys; sys.exit('jax' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_settings_are_plain_arguments(lm):
    sampling = Sampling(tokens=5, temperature=0.7, seed=3)
    assert lm.generate("the cat", tokens=5, temperature=0.7, seed=3) == lm.generate("the cat", sampling)
    assert lm.generate("the cat", sampling, tokens=3) == lm.generate("the cat", replace(sampling, tokens=3))


def test_a_model_is_shown_in_five_lines(lm, encoder_decoder):
    for model in (lm, encoder_decoder):
        lines = repr(model).splitlines()
        assert len(lines) == 5 and max(map(len, lines)) < 120
        assert f"{models.size(model.params):,} parameters" in lines[0] and "span_corruption" in lines[4]


def test_a_table_is_a_data_frame(lm):
    pandas = pytest.importorskip("pandas")
    table = lm.token_losses(TEXT)
    frame = table.to_pandas()
    assert isinstance(frame, pandas.DataFrame) and frame["loss"].tolist() == table["loss"]
