"""A real pretrained model, from GGUF: what transformers 5.23 says of the same file is what is said here.

The tests marked `slow` load it in torch as well: pytest -m slow tests/interop
"""

import math
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

import research
from research import interop
from research.inference import language_model
from tests.interop import smollm2
from tests.interop.texts import TEXTS

REFERENCE = [  # context, continuation, probability; by transformers 5.23
    ("Welcome to New York", " City", 0.2246),
    ("Welcome to New York", " Zoo", 3.8e-06),
    ("I love New York", ",", 0.2267),
    ("I love New York", " City", 0.0882),
    ("The capital of France is", " Paris", 0.7725),
]


@pytest.fixture(scope="module")
def model() -> language_model.LanguageModel:
    return research.load(smollm2.path())


def probabilities(path: str) -> list[float]:
    model = research.load(path)
    return [math.exp(model.score(context, continuation).total) for context, continuation, _ in REFERENCE]


def test_reference_probabilities():
    """In a process of its own, which takes some 4 GiB with it when it ends."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        measured = pool.submit(probabilities, smollm2.path()).result()
    for got, (context, continuation, probability) in zip(measured, REFERENCE, strict=True):
        assert got == pytest.approx(probability, rel=0.02 if probability < 1e-3 else 1e-3), (context, continuation)


@pytest.fixture(scope="module")
def peer():
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    file = Path(smollm2.path())
    tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    return tokenizer, transformers.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name).eval()


@pytest.mark.slow
def test_ids_are_those_of_transformers(model, peer):
    for text in TEXTS:
        ids = model.tokenizer.encode(text)
        if "<|" not in text:  # a special token that a text spells stays text here
            assert ids == peer[0](text, add_special_tokens=False).input_ids, text
        assert model.tokenizer.decode(ids) == text


@pytest.mark.slow
def test_logits_and_continuations_are_those_of_transformers():
    from tests.interop import parity

    measured = parity.measure_file(smollm2.path())
    assert measured.logits < 1e-4 and measured.loss < 1e-5 and measured.exported < 1e-6
    assert measured.greedy


@pytest.mark.slow
def test_export_is_what_transformers_loads(model, peer, tmp_path):
    import torch
    import transformers

    interop.write(tmp_path / "exported", model.config, model.params, model.tokenizer)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "exported").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "exported")
    for name, parameter in theirs.named_parameters():
        assert torch.equal(parameter, peer[1].get_parameter(name)), name
    for text in TEXTS[:-2]:
        assert tokenizer(text, add_special_tokens=False).input_ids == model.tokenizer.encode(text), text
    messages = [{"role": "user", "content": "Hello"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == peer[0].apply_chat_template(
        messages, tokenize=False
    )
