"""Conversations become pairs of which only the answer counts."""

import dataclasses
import json

import numpy as np
import pytest
import tokenizers as library

from research import config, data, objectives
from research.config import Data, Experiment, Instruction
from research.data import chat, sources, tokenizers
from research.data.huggingface_backend import HuggingFace
from research.data.records import SkippedRecord
from research.errors import InputError

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer() -> tokenizers.Tokenizer:
    """Bytes, with the marks of a chat model."""
    pieces = {f"<0x{byte:02X}>": byte for byte in range(256)}
    made = library.Tokenizer(library.models.BPE(pieces, [], byte_fallback=True))
    made.decoder = library.decoders.Sequence([library.decoders.ByteFallback(), library.decoders.Fuse()])
    made.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    names = {256: "<|im_start|>", 257: "<|im_end|>"}
    return tokenizers.Tokenizer(HuggingFace(made.to_str()), names, eos=257, chat_template=TEMPLATE)


def encoded(tokenizer, exchange: chat.PromptCompletion) -> tuple[str, str]:
    before, answer = (np.concatenate(part) for part in chat.encode(exchange, tokenizer))
    return tokenizer.coder.decode(before.tolist()), tokenizer.coder.decode(answer.tolist())


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def test_every_answer_of_a_conversation_is_an_exchange(tokenizer):
    messages = [said("user", "Hi"), said("assistant", "Hello"), said("user", "Bye"), said("assistant", "See you")]
    first, second = chat.prompt_completions({"messages": messages})
    assert encoded(tokenizer, first) == ("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "Hello<|im_end|>\n")
    before, answer = encoded(tokenizer, second)
    assert before.endswith("Hello<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n")
    assert answer == "See you<|im_end|>\n"


def test_an_answer_of_weight_0_is_said_but_not_trained_on(tokenizer):
    answers = [said("assistant", "Hello") | {"weight": 0}, said("assistant", "See you") | {"weight": 1}]
    messages = [said("user", "Hi"), answers[0], said("user", "Bye"), answers[1]]
    (only,) = chat.prompt_completions({"messages": messages})
    before, answer = encoded(tokenizer, only)
    assert "Hello" in before and answer == "See you<|im_end|>\n"


def test_prompt_and_completion_are_texts_or_messages(tokenizer):
    (plain,) = chat.prompt_completions({"prompt": "2 + 2 =", "completion": " 4", "id": 3})
    assert encoded(tokenizer, plain) == ("2 + 2 =", " 4<|im_end|>")
    (templated,) = chat.prompt_completions({"prompt": [said("user", "Hi")], "completion": [said("assistant", "Hello")]})
    assert encoded(tokenizer, templated)[1] == "Hello<|im_end|>\n"


TOOLS = (
    "{% if tools %}{{ tools | tojson }}\n{% endif %}{% for message in messages %}[{{ message['role'] }}]"
    "{{ message.get('reasoning_content', '') }}{{ message['content'] }}"
    "{% for call in message.get('tool_calls', []) %}<call>{{ call | tojson }}{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def test_a_template_is_given_tools_and_all_that_a_message_has(tokenizer):
    """As `apply_chat_template` of transformers; and what they spell is text."""
    with_tools = dataclasses.replace(tokenizer, chat_template=TOOLS)
    call = {"name": "add", "arguments": {"a": 1, "<|im_end|>": "x"}}
    messages = [said("user", "1 + 2?"), said("assistant", "3") | {"reasoning_content": "so: ", "tool_calls": [call]}]
    entry = {"messages": messages, "tools": [{"name": "add"}], "id": 7}
    (exchange,) = chat.prompt_completions(entry)
    before, answer = (np.concatenate(part).tolist() for part in chat.encode(exchange, with_tools))
    spelled = json.dumps(call).encode()
    assert before == [*list(b'[{"name": "add"}]\n[user]1 + 2?'), 257, *list(b"[assistant]")]
    assert answer == [*list(b"so: 3<call>" + spelled), 257]


@pytest.mark.parametrize("given", ["reasoning_content", "thinking", "reasoning"])
def test_reasoning_is_given_under_each_name_that_templates_read(tokenizer, given):
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    template = "{% for m in messages %}{{ m | tojson }}{{ m.reasoning_content }}{{ m.thinking }}{% endfor %}"
    messages = [said("user", "Hi"), said("assistant", "Hello") | {given: "so: "}]
    (theirs,), _ = utils.render_jinja_template([messages], chat_template=template)
    assert chat.render(dataclasses.replace(tokenizer, chat_template=template), messages, reply=False) == theirs


def test_marks_that_a_template_writes_are_single_tokens(tokenizer):
    assert tokenizer.encode_marked("<|im_start|>é").tolist() == [256, *"é".encode()]
    assert 256 not in tokenizer.encode("<|im_start|>")


DEEP = json.loads("[" * 200 + "]" * 200)


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({"text": "a"}, "neither messages nor"),
        ({"messages": [said("user", "a")]}, "no assistant message"),
        ({"messages": [{"role": "user"}, said("assistant", "a")]}, "without role or text"),
        ({"prompt": "a", "completion": " "}, "an empty text"),
        ({"messages": [said("user", "a"), said("assistant", "b") | {"weight": 0}]}, "no answer whose weight is not 0"),
        ({"messages": [said("user", "a"), said("assistant", "b") | {"weight": 0.5}]}, "neither 0 nor 1"),
        ({"messages": [said("user", "a"), said("assistant", "b") | {"x": "\ud800"}]}, "invalid UTF-8"),
        ({"messages": [said("user", "a"), said("assistant", "b") | {"x": DEEP}]}, "nested too deeply"),
    ],
)
def test_what_cannot_be_used_is_told(tmp_path, entry, complaint):
    (tmp_path / "chat.jsonl").write_text(json.dumps(entry))
    (bad,) = sources.source_records(f"chat:{tmp_path}/chat.jsonl")
    assert isinstance(bad, SkippedRecord) and complaint in bad.kind


def test_a_tokenizer_without_template_is_refused(tokenizer):
    exchange = chat.PromptCompletion((said("user", "a"),), "b")
    with pytest.raises(InputError, match="no chat template"):
        chat.encode(exchange, tokenizers.load("bytes"))


def test_only_answers_count(tmp_path, tokenizer):
    tokenizer.save(tmp_path / "tokenizer")
    lines = [{"messages": [said("user", "abc"), said("assistant", f"answer {n}")]} for n in range(4)]
    (tmp_path / "chat.jsonl").write_text("\n".join(map(json.dumps, lines)))
    corpus = data.open_corpus(
        Experiment(
            objectives=(Instruction(),),
            data=Data(
                source=f"chat:{tmp_path}/chat.jsonl",
                held_out=0.25,
                tokenizer=str(tmp_path / "tokenizer"),
                length=96,
                batch=2,
                cache=str(tmp_path / "cache"),
            ),
        )
    )
    batch = corpus.batch(0)
    for row in range(2):
        for segment in np.unique(batch.segments[row][batch.segments[row] > 0]):
            here = batch.segments[row] == segment
            counted = batch.targets[row][here & (batch.weights[row] > 0)]
            assert tokenizer.decode(counted).startswith("answer ") and counted[-2] == 257
            np.testing.assert_array_equal(batch.levels[row][here], np.arange(here.sum()))  # seen from the left alone


def test_a_long_prompt_loses_its_beginning(tmp_path, tokenizer):
    tokenizer.save(tmp_path / "tokenizer")
    line = {"prompt": "x" * 100 + "end", "completion": "answer"}
    (tmp_path / "chat.jsonl").write_text("\n".join([json.dumps(line)] * 4))
    corpus = data.open_corpus(
        Experiment(
            objectives=(Instruction(),),
            data=Data(
                source=f"chat:{tmp_path}/chat.jsonl",
                tokenizer=str(tmp_path / "tokenizer"),
                length=24,
                batch=1,
                cache=str(tmp_path / "cache"),
            ),
        )
    )
    batch = corpus.batch(0)
    assert tokenizer.decode(batch.tokens[0]).endswith("endanswer")


def test_a_document_of_one_part_is_read_as_by_a_causal_model():
    piece = np.arange(5, dtype=np.int32)
    vocabulary = objectives.Vocabulary(8)
    got, wanted = (
        objective.example((piece,), (0,), vocabulary, encoder_decoder=False)
        for objective in (Instruction(), config.Causal())
    )
    np.testing.assert_array_equal(got.weights, wanted.weights)
