"""Generation: what is chosen, where it ends, and that rows of a batch do not know of each other."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers as huggingface

from research import config
from research.config import replace_fields
from research.data import tokenizers
from research.data.huggingface_backend import HuggingFace
from research.data.tokenizers import Tokenizer
from research.errors import InputError
from research.inference import generation
from research.inference.generation import Prompt, Rule, Sampling, choose, cut, generate, text
from research.objectives import reading
from tests.models import tiny

TOKENIZER = tokenizers.load("bytes")
PROMPTS = [Prompt([256, *b"a"]), Prompt([256, *b"the cat sat"]), Prompt([256, *b"the cat sat on the mat"])]


def tiny_model(length: int = 64, **changes):
    model = config.resolve(replace_fields(tiny.BASE, {"vocabulary": 0} | changes), TOKENIZER.size, length)
    return model, tiny.parameters(model)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def say(model, prompts, ends=(), **sampling) -> list[list[int]]:
    return generate(*model, TOKENIZER, prompts, Sampling(**{"tokens": 12} | sampling), ends)


@pytest.mark.parametrize(("top_k", "top_p"), [(5, 1.0), (0, 0.7), (8, 0.6), (0, 0.01), (1000, 0.99)])
def test_candidates_are_those_of_transformers(top_k, top_p):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    process = pytest.importorskip("transformers.generation.logits_process", reason="transformers is not installed")
    scores = np.random.default_rng(0).normal(size=(4, 50)).astype(np.float32) * 2
    expected = torch.from_numpy(scores) / 0.8
    if top_k:
        expected = process.TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = process.TopPLogitsWarper(top_p)(None, expected)
    rule = Rule(greedy=False, top_k=top_k, nucleus=top_p < 1)
    draw = jax.jit(jax.vmap(lambda key: choose(jnp.asarray(scores), jax.random.split(key, 4), rule, 0.8, top_p)))
    drawn = np.asarray(draw(jax.random.split(jax.random.key(0), 4000)))
    for row in range(4):
        frequencies = np.bincount(drawn[:, row], minlength=50) / len(drawn)
        probabilities = torch.softmax(expected[row], 0).numpy()
        assert not frequencies[probabilities == 0].any()
        assert abs(frequencies - probabilities).sum() / 2 < 0.05


def test_greedy_is_the_most_probable():
    scores = jnp.asarray(np.random.default_rng(0).normal(size=(3, 20)))
    greedy = choose(scores, jax.random.split(jax.random.key(0), 3), Rule(True, 0, False), 0.0, 1.0)
    np.testing.assert_array_equal(greedy, scores.argmax(axis=1))


@pytest.mark.parametrize("positions", ["learned", "relative"])
def test_rows_are_what_whole_passes_say_at_any_length(positions):
    """The prompts cross a bucket; learned positions end between two."""
    model, params = tiny_model(30, **{"positions.kind": positions})
    rows = say((model, params), PROMPTS, tokens=7)
    for prompt, row in zip(PROMPTS, rows, strict=True):
        tokens = np.array([*prompt.tokens, *row[:-1]], np.int32)
        packed = tiny.batch([[reading(tokens, both_sides=False)]], 30)
        features = tiny.hidden(model, params, packed)[0, len(prompt.tokens) - 1 : len(tokens)]
        logits = np.array(features @ params["output"])[:, : TOKENIZER.size]
        logits[:, list(TOKENIZER.vocabulary.special)] = -np.inf
        assert logits.argmax(axis=1).tolist() == row


def test_the_positions_of_a_model_are_its_end():
    learned = tiny_model(30, **{"positions.kind": "learned"})
    assert [len(row) for row in say(learned, PROMPTS)] == [12, 12, 7]
    with pytest.raises(InputError, match="30 tokens leaves no room for new ones in the model's 30 positions"):
        say(learned, [Prompt([97] * 30)])
    with pytest.raises(InputError, match="input of 31 tokens is longer than the model's 30 positions"):
        say(learned, [Prompt([256], source=[97] * 31)])
    with pytest.raises(InputError, match="empty prompt"):
        say(learned, [Prompt([])])


def test_sampled_rows_do_not_depend_on_the_batch(model):
    sampling = {"temperature": 1.0, "seed": 3}
    together = say(model, PROMPTS, **sampling)
    assert together == [say(model, [prompt], **sampling)[0] for prompt in PROMPTS]
    assert together == say(model, PROMPTS[::-1], **sampling)[::-1]
    assert together != say(model, PROMPTS, **sampling | {"seed": 4})


def test_prompts_of_one_length_do_not_share_their_luck():
    flat = tiny_model()
    flat = flat[0], jax.tree.map(np.zeros_like, flat[1])  # every token equally probable
    first, second = say(flat, [Prompt([97]), Prompt([98])], temperature=1.0)
    assert first != second
    assert say(flat, [Prompt([97]), Prompt([97], sample=1)], temperature=1.0)[0] == first


def test_special_tokens_are_never_said_but_to_end():
    flat = tiny_model()
    flat = flat[0], jax.tree.map(np.zeros_like, flat[1])
    rows = say(flat, [Prompt([97], sample=n) for n in range(8)], temperature=1.0, tokens=40)
    assert max(max(row) for row in rows) < 256
    ends = tuple(range(128, 256))
    rows = say(flat, [Prompt([97], sample=n) for n in range(8)], ends, least=3, temperature=1.0, tokens=40)
    assert all(3 <= len(row) < 40 and max(row) < 128 for row in rows)


def test_another_temperature_compiles_nothing(model):
    say(model, PROMPTS, temperature=1.0, top_p=0.9)
    before = generation.extend._cache_size()
    say(model, PROMPTS, temperature=0.7, top_p=0.8, seed=5)
    assert generation.extend._cache_size() == before


def test_stop_strings_are_found_wherever_they_fall(model):
    """As if the whole text had been made first, and then cut."""
    sampling = {"temperature": 1.5, "tokens": 40}
    (whole,) = say(model, PROMPTS[:1], **sampling)
    said = TOKENIZER.decode(whole)
    for place in (0, 14, 15, 16, 30):  # on both sides of where the host looks
        stop = (said[place : place + 3], "never said")
        (row,) = say(model, PROMPTS[:1], stop=stop, **sampling)
        assert row == whole[: len(row)] and len(row) <= place + 3 + generation.STOP_CHECK
        assert cut(TOKENIZER.decode(row), stop) == said[: said.index(stop[0])]


def test_the_space_before_the_first_word_is_kept():
    vocabulary = {"<unk>": 0, "\u2581New": 1, "\u2581York": 2}
    words = huggingface.Tokenizer(huggingface.models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = huggingface.pre_tokenizers.Metaspace()
    words.decoder = huggingface.decoders.Metaspace()
    tokenizer = Tokenizer(HuggingFace(words.to_str()))
    assert tokenizer.encode("New York") == [1, 2] and tokenizer.decode([2]) == "York"
    assert text(tokenizer, Prompt([1], before=[1]), [2]) == " York"
    assert text(tokenizer, Prompt([0], source=[1]), [2]) == "York"


def test_settings_are_the_fields_of_sampling():
    fields = {field.name: field.type for field in dataclasses.fields(Sampling)}
    assert generation.Settings.__annotations__ == fields
