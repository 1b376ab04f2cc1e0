"""Requests become the examples that the objective was trained on, by the conventions of lm-evaluation-harness."""

from dataclasses import replace

import pytest

from research import config
from research.errors import InputError
from research.inference.language_model import LanguageModel
from research.inference.prompting import PromptFormat, continuation_prompt, scoring_examples
from research.inference.requests import Continuation, Generation, Infill, Rolling
from research.objectives import Example
from tests.evaluation.shared import OBJECTIVES, TOKENIZER, Words, model, prompt_format

BOS, EOS, MASK = TOKENIZER.bos, TOKENIZER.eos, TOKENIZER.mask
SENTINEL = TOKENIZER.sentinels[0]


def one(how: PromptFormat, request) -> tuple[Example, int]:
    asked = scoring_examples(how, [request])[0]
    (example,) = asked.examples
    return example, asked.truncated


def shown(ids) -> str:
    names = {BOS: "<", EOS: ">", MASK: "_", SENTINEL: "*"}
    return "".join(names.get(int(i)) or chr(i) for i in ids)


def scored(example: Example) -> str:
    return shown(example.targets[example.weights > 0])


def test_causal_is_one_row_that_sees_only_what_precedes():
    example, cut = one(prompt_format(config.Causal()), Continuation("ab", "cd"))
    assert shown(example.tokens) == "<abc" and scored(example) == "cd" and cut == 0
    assert example.levels.tolist() == [0, 1, 2, 3]


def test_space_at_the_end_of_a_context_belongs_to_the_text():
    example, _ = one(prompt_format(config.Causal()), Continuation("ab \n", "cd"))
    assert scored(example) == " \ncd"


def test_an_empty_context_is_the_beginning_of_a_document():
    example, _ = one(prompt_format(config.Causal()), Continuation("", "cd"))
    assert shown(example.tokens) == "<c" and scored(example) == "cd"


def test_what_does_not_fit_is_cut_off_from_the_left():
    how = prompt_format(config.Causal(), length=6)
    example, cut = one(how, Continuation("abcdefgh", "xyz"))
    assert shown(example.tokens) == "efghxy" and scored(example) == "xyz"
    assert cut == 5  # the beginning, a, b, c, d
    with pytest.raises(InputError, match="a text of 7 tokens to be scored does not fit into the 6 places"):
        scoring_examples(how, [Continuation("a", "stuvwxy")])


def test_the_windows_of_a_long_text_are_those_of_the_harness():
    utils = pytest.importorskip("lm_eval.utils")
    text = "abcdefghijklmnopqrstuvwxyz"
    for length in (4, 7, 13, 26, 40):
        tokens = TOKENIZER.encode(text)
        theirs = map(utils.make_disjoint_window, utils.get_rolling_token_windows(tokens, BOS, length, 1))
        expected = [((context + predicted)[:-1], predicted) for context, predicted in theirs]
        examples = scoring_examples(prompt_format(config.Causal(), length), [Rolling(text)])[0].examples
        found = [(e.tokens.tolist(), e.targets[e.weights > 0].tolist()) for e in examples]
        assert found == expected


@pytest.mark.parametrize("objective", [config.Causal(), config.Prefix(), config.Masked()])
@pytest.mark.parametrize("length", [5, 8, 64])
def test_every_token_of_a_long_text_is_scored_once(objective, length):
    text = "abcdefghijklmnopqrstuvwxyz"
    examples = scoring_examples(prompt_format(objective, length), [Rolling(text)])[0].examples
    assert "".join(map(scored, examples)) == text
    assert max(len(example.tokens) for example in examples) <= length


def test_prefix_sees_the_context_from_both_sides():
    example, _ = one(prompt_format(config.Prefix()), Continuation("ab", "cd"))
    assert shown(example.tokens) == "<abc" and scored(example) == "cd"
    assert example.levels.tolist() == [0, 0, 0, 1]
    example, _ = one(prompt_format(config.Prefix(), source_length=64), Continuation("ab", "cd"))
    assert shown(example.source) == "<ab" and shown(example.tokens) == "<c" and scored(example) == "cd"


def test_span_corruption_is_asked_through_a_sentinel():
    decoder_only, encoder_decoder = (
        prompt_format(config.SpanCorruption()),
        prompt_format(config.SpanCorruption(), source_length=64),
    )
    example, _ = one(decoder_only, Continuation("ab", "cd"))
    assert shown(example.tokens) == "ab*>*c" and scored(example) == "cd"
    assert example.levels.tolist() == [0, 0, 0, 0, 1, 2]
    example, _ = one(encoder_decoder, Infill("ab", "ef", "cd"))
    assert shown(example.source) == "ab*ef>" and shown(example.tokens) == "<*c" and scored(example) == "cd"


def test_both_sides_are_cut_towards_the_text():
    how = prompt_format(config.SpanCorruption(), length=64, source_length=8)
    example, cut = one(how, Infill("abcdef", "ghijkl", "x"))
    assert shown(example.source) == "def*ghi>" and cut == 6
    example, cut = one(how, Infill("abcdef", "g", "x"))
    assert shown(example.source) == "bcdef*g>" and cut == 1


def test_text_to_text_has_input_and_output():
    how = prompt_format(config.TextToText(prefix="say: "), source_length=64)
    example, _ = one(how, Continuation("ab", " cd"))  # an output begins without the space that joins two texts
    assert shown(example.source) == "<say: ab>" and shown(example.tokens) == "<c" and scored(example) == "cd"


def test_masked_hides_the_rest_of_a_word_with_each_token():
    how = PromptFormat(config.Masked(), replace(TOKENIZER, coder=Words()), 64)
    asked = scoring_examples(how, [Continuation("a bc", " de f")])[0]
    assert [shown(e.tokens) for e in asked.examples] == [
        "<a bc___ f>",
        "<a bc __ f>",
        "<a bc d_ f>",
        "<a bc de__>",
        "<a bc de _>",
    ]
    assert [scored(e) for e in asked.examples] == list(" de f")
    assert all((e.levels == 0).all() for e in asked.examples)


def test_a_mode_stands_first():
    tokenizer = replace(TOKENIZER, modes={"[C]": ord("#")})
    for objective in (config.Causal(mode="[C]"), config.Prefix(mode="[C]")):
        how = PromptFormat(objective, tokenizer, 6)
        example, cut = one(how, Continuation("abcdefgh", "xyz"))
        assert shown(example.tokens) == "#fghxy" and scored(example) == "xyz" and cut == 6


def test_without_a_token_that_begins_a_document_the_first_one_is_not_predicted():
    tokenizer = replace(TOKENIZER, bos=None, eos=None)
    asked = scoring_examples(
        PromptFormat(config.Causal(), tokenizer, 64), [Continuation("", "cd"), Rolling("x"), Continuation("a", "b")]
    )
    assert [scored(e) for e in asked[0].examples] == ["d"] and asked[0].unscored == 1
    assert asked[1].examples == [] and asked[1].unscored == 1
    assert [scored(e) for e in asked[2].examples] == ["b"] and asked[2].unscored == 0


def trained(*objectives: config.Objective, **changes) -> LanguageModel:
    made = model(**changes)
    return LanguageModel(made.config, made.params, TOKENIZER, objectives)


def test_the_preferred_prompt_format_of_a_model_comes_first():
    chat = config.Instruction()
    spans, causal, other = config.SpanCorruption(name="spans"), config.Causal(), config.Causal(name="other")
    found = trained(config.Masked(), spans, causal, other, chat)
    assert [how.objective.name for how in found.prompt_formats()] == ["causal", "spans", "masked"]
    assert [how.objective for how in found.prompt_formats("other")] == [other]
    assert [how.objective for how in trained(chat).prompt_formats()] == [chat]
    with pytest.raises(InputError, match="not trained with 'prefix', so it is not asked so; it was with masked, spans"):
        found.prompt_formats("prefix")


def test_no_place_is_asked_that_a_model_has_not():
    assert trained(config.Causal()).prompt_formats(length=500)[0].length == 500  # rotary positions have no end
    with pytest.raises(InputError, match="length 65: the model has 64 positions"):
        trained(config.Causal(), **{"positions.kind": "learned"}).prompt_formats(length=65)
    encoder_decoder = trained(config.TextToText(), encoder_depth=1).prompt_formats()[0]
    assert (encoder_decoder.length, encoder_decoder.source_length) == (64, 64)


@pytest.mark.parametrize("objective", [config.Causal(), config.Prefix()])
def test_what_is_written_follows_the_end_of_the_context(objective):
    how = prompt_format(objective, length=10)
    found = continuation_prompt(how, "abc", 4)
    assert shown(found.prompt.tokens) == "<abc" and found.truncated == 0
    assert found.prompt.seen_by_all == (1 if isinstance(objective, config.Causal) else 4)
    found = continuation_prompt(how, "abcdefghij", 4)
    assert (
        shown(found.prompt.tokens) == "defghij" and found.truncated == 4
    )  # with the first new token, and not the last, ten places
    with pytest.raises(InputError, match="11 tokens"):
        continuation_prompt(how, "abc", 11)
    assert continuation_prompt(how, "abcdefghij").truncated == 0  # without a bound, nothing is cut


def test_an_answer_is_written_after_the_whole_input():
    how = prompt_format(config.TextToText(prefix="say: "), source_length=64)
    prompt = continuation_prompt(how, "ab").prompt
    assert shown(prompt.source) == "<say: ab>" and shown(prompt.tokens) == "<" and prompt.before == []


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_what_a_prompt_format_cannot_answer_is_none(objective):
    how = prompt_format(objective)
    answers = scoring_examples(how, [Continuation("a", "b"), Infill("a", "b", "c"), Rolling("a")])
    can = {
        config.Causal: (True, False, True, True),
        config.Prefix: (True, False, True, True),
        config.TextToText: (True, False, False, True),
        config.SpanCorruption: (True, True, False, False),
        config.Masked: (True, True, True, False),
    }[type(objective)]
    assert (*(answer is not None for answer in answers), how.can(Generation("a"))) == can
