"""The command that lets a trained model speak, and the samples at the end of a run."""

from io import StringIO
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from rich.console import Console

from research import config, models
from research.commands import generate
from research.config import MLP, Attention, Causal, Embedding, Masked, Model, Prefix, SpanCorruption, TextToText
from research.data import tokenizers
from research.data.tokenizer_backends import Characters
from research.data.tokenizers import Tokenizer
from research.errors import InputError
from research.inference.generation import Sampling
from research.inference.language_model import LanguageModel
from research.runs import samples

OBJECTIVES = (Causal(), Masked(), SpanCorruption(), Prefix(), TextToText(prefix="go: "))
TEXT = "the cat sat on the mat"


@pytest.fixture(scope="module")
def lm():
    tokenizer = tokenizers.extend(Tokenizer(Characters.of([TEXT + OBJECTIVES[-1].prefix])), OBJECTIVES)
    small = Model(
        width=32,
        depth=2,
        initial_scale=0.3,
        attention=Attention(heads=4),
        mlp=MLP(width=32),
        embedding=Embedding(initial_scale=0.5),
    )
    model = config.resolve(small, tokenizer.size, 128)
    return LanguageModel(model, jax.jit(models.init, static_argnums=0)(model, jax.random.key(0)), tokenizer, OBJECTIVES)


def printed(lm, **options) -> str:
    out = StringIO()
    short = Sampling(tokens=4, least=4)
    generate.show(lm, generate.Options(sampling=short, **options), Console(file=out, width=1000))
    return out.getvalue()


def test_each_prompt_is_continued(lm):
    out = printed(lm, prompt=("the", "cat sat"), samples=2)
    lines = out.splitlines()
    assert all(line.startswith(text) for line, text in zip(lines, ("the", "the", *["cat sat"] * 2), strict=True))
    assert lines[0] == "the" + lm.generate("the", Sampling(tokens=4, least=4))


def test_another_objective_can_be_named(lm):
    answer = lm.generate("the", Sampling(tokens=4, least=4), objective="text_to_text")
    assert printed(lm, prompt=("the",), objective="text_to_text") == f"the{answer}\n"
    with pytest.raises(InputError, match="it was with causal, masked, span_corruption"):
        printed(lm, prompt=("the",), objective="translation")


def test_masks_and_spans_are_filled_in(lm):
    out = printed(lm, prompt=("the [MASK]at [MASK]at", "the [SPAN] mat"), candidates=3)
    first, second = lm.fill("the [MASK]at [MASK]at", 3)
    assert f"[MASK] 1: {first[0].token!r} {first[0].probability:.3f}, " in out
    assert f"[MASK] 2: {second[0].token!r}" in out
    span = lm.infill("the ", " mat", Sampling(tokens=4, least=4))
    assert out.endswith(f"the {span} mat\n")


def test_what_is_missing_is_said():
    with pytest.raises(InputError, match="give --prompt TEXT"):
        generate.main(["runs/none"])
    with pytest.raises(InputError, match="nowhere"):
        generate.main(["/nowhere/at/all", "--prompt", "a"])


def test_a_run_ends_with_a_sample_of_each_objective(lm):
    ids = np.array(lm.tokenizer.encode("go: " + TEXT), np.int32)
    store = SimpleNamespace(part=lambda document, part, begin, end: ids[begin:end])
    plan = SimpleNamespace(documents=(store, 0, 1))
    corpus = SimpleNamespace(
        held_out_plans={objective.name: plan for objective in OBJECTIVES}, vocabulary=lm.tokenizer.vocabulary
    )
    made = samples.samples(lm, corpus)
    assert [sample.objective for sample in made] == [objective.name for objective in OBJECTIVES]
    for sample in made:
        assert {style for _, style in sample.pieces} >= {samples.GIVEN, samples.MADE}
        assert all(text for text, style in sample.pieces if style == samples.MADE)
    assert made[-1].pieces[0][0] == TEXT  # the prefix is put there by the model
    out = StringIO()
    Console(file=out, width=1000).print(samples.show(made))
    assert all(objective.name in out.getvalue() for objective in OBJECTIVES)
