"""Conversations: what was said before, and an answer to it.

A line of JSON has one of the usual shapes:

  {"messages": [{"role": "user", "content": TEXT}, {"role": "assistant", "content": TEXT}, …]}   one for each answer,
                                                                                   but not for one with "weight": 0
  {"prompt": [message, …], "completion": [message]}
  {"prompt": TEXT, "completion": TEXT}                                                           without a template

Messages become text by the chat template that comes with the tokenizer: the one that the model was trained with. What
else a message has (`tool_calls`, `name`, …), and `tools` and `documents` beside the messages, are given to the template
as they are. A conversation is rendered as a whole and its text encoded as a whole, as `apply_chat_template` of
`transformers` does it; the answer, on which the model is trained, is then found by its characters. Only what a message
itself spells never becomes a special token.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from research.data import chat_template
from research.data.chat_template import Rendered
from research.data.tokenizers import Tokenizer
from research.errors import InputError

Message = dict[str, Any]  # role and content are texts; templates may know more
BESIDE = ("tools", "documents")  # what templates may know of a conversation besides its messages
DEPTH = 100  # of what a message has


@dataclass(frozen=True)
class PromptCompletion:
    """What was said before, as a text or as messages, and the answer."""

    before: str | tuple[Message, ...]
    answer: str
    more: Message = field(default_factory=dict)  # what else the message of the answer has
    beside: dict[str, Any] = field(default_factory=dict)  # of BESIDE, what there is

    @property
    def size(self) -> int:
        """Characters, about."""
        said = self.before if isinstance(self.before, str) else "".join(one["content"] for one in self.before)
        return len(said) + len(self.answer)


def prompt_completions(entry: dict[str, Any]) -> Iterator[PromptCompletion]:
    """The exchanges of a line. Raises ValueError with what is wrong with it."""
    beside = {name: entry[name] for name in BESIDE if entry.get(name) is not None}
    _check_texts(beside)
    match entry:
        case {"messages": list(messages)}:
            said = tuple(map(_message, messages))
            answers = [place for place, one in enumerate(said) if one["role"] == "assistant" and place > 0]
            if not answers:
                raise ValueError("no assistant message after another")
            answers = [place for place in answers if _weight(said[place])]
            if not answers:
                raise ValueError("no answer whose weight is not 0")
            yield from (_exchange(said[:place], said[place], beside) for place in answers)
        case {"prompt": str(prompt), "completion": str(completion)}:
            yield PromptCompletion(_text(prompt), _text(completion))
        case {"prompt": list(prompt), "completion": [completion]}:
            yield _exchange(tuple(map(_message, prompt)), _message(completion), beside)
        case _:
            raise ValueError("neither messages nor prompt and completion")


def _exchange(before: tuple[Message, ...], answer: Message, beside: dict[str, Any]) -> PromptCompletion:
    more = {name: value for name, value in answer.items() if name not in ("role", "content")}
    return PromptCompletion(before, answer["content"], more, beside)


def encode(exchange: PromptCompletion, tokenizer: Tokenizer) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The ids of what was said before, and of the answer with its end; each as arrays to be joined.

    The answer is what the template has in `{% generation %}`; without that, everything after the text that asks for an
    answer; and where a template renders an answer otherwise than it begins one, everything from where the rendered text
    depends on the answer.

    Raises:
      InputError: if there are messages, but the tokenizer has no chat template, or one that cannot be used.
    """
    if isinstance(exchange.before, str):
        begin, end = ([] if i is None else [np.array([i])] for i in (tokenizer.bos, tokenizer.eos))
        before, answer = tokenizer.encode_many([exchange.before, exchange.answer])
        return [*begin, before], [answer, *end]
    answered = {**exchange.more, "role": "assistant", "content": exchange.answer}
    (whole, beside), cut = _kept_apart(tokenizer, ([*exchange.before, answered], exchange.beside))
    asked, said = _rendered(tokenizer, [(whole[:-1], True), (whole, False)], beside)
    spans = said.spans[len(asked.spans) :] or said.spans[-1:]
    if spans:
        start, stop = spans[0][0], spans[-1][1]
    elif said.text.startswith(asked.text):
        start, stop = len(asked.text), len(said.text)
    else:
        start, stop = _depends(tokenizer, whole, beside, said.text), len(said.text)
    before, answer = _encoded(tokenizer, said.text[:stop], start, cut)
    if not len(answer):
        raise InputError("the tokenizer's chat template does not show the answer of an assistant")
    return [before], [answer]


def render(tokenizer: Tokenizer, messages: list[Message], reply: bool) -> str:
    """Messages as text by the tokenizer's chat template; with `reply`, up to where an answer begins. Raises InputError
    if there is no template, or if it fails."""
    return _rendered(tokenizer, [(messages, reply)], {})[0].text


def _rendered(
    tokenizer: Tokenizer, conversations: Sequence[tuple[Sequence[Message], bool]], beside: dict[str, Any]
) -> list[Rendered]:
    """Each conversation, with or without the beginning of a reply."""
    if tokenizer.chat_template is None:
        raise InputError(
            "the tokenizer has no chat template: use prompt and completion as texts, or one of a chat model"
        )
    named = {"bos_token": tokenizer.bos, "eos_token": tokenizer.eos}
    roles = tokenizer.roles or {role: tokenizer.names[i] for role, i in named.items() if i is not None}
    known = {**roles, **dict.fromkeys(BESIDE), **beside}
    return chat_template.render(
        tokenizer.chat_template,
        [
            {**known, "messages": list(map(_reasoned, messages)), "add_generation_prompt": reply}
            for messages, reply in conversations
        ],
    )


def _reasoned(message: Message) -> Message:
    """With the reasoning of a message under each name that templates read, as `_alias_reasoning_fields` of
    `transformers` gives it to them."""
    found = (message[name] for name in ("reasoning_content", "thinking", "reasoning") if message.get(name) is not None)
    reasoning = next(found, None)
    return message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}


def _depends(tokenizer: Tokenizer, messages: Sequence[Message], beside: dict[str, Any], text: str) -> int:
    """From which character of the rendered text on it depends on the answer."""
    answer = messages[-1]["content"].strip()
    other = {**messages[-1], "content": "B" if answer.startswith("A") else "A"}
    (changed,) = _rendered(tokenizer, [([*messages[:-1], other], False)], beside)
    together = zip(text, changed.text, strict=False)
    return next((place for place, (a, b) in enumerate(together) if a != b), min(len(text), len(changed.text)))


def _kept_apart(tokenizer: Tokenizer, said: Any) -> tuple[Any, str]:
    """What was said, a tree of texts, with a character, of the private use area, after the first one of each special
    token that a text spells; and that character, or "" if none is spelled."""
    names = sorted((name for name in tokenizer.names.values() if len(name) > 1), key=len, reverse=True)
    spelled = re.compile("|".join(map(re.escape, names)) or "(?!)")
    texts = list(_texts(said))
    if not any(map(spelled.search, texts)):
        return said, ""
    used = set().union(*texts)
    cut = next(chr(code) for code in range(0xE000, 0xF900) if chr(code) not in used)
    return _changed(said, lambda text: spelled.sub(lambda match: match[0][0] + cut + match[0][1:], text)), cut


def _texts(tree: Any, depth: int = 0) -> Iterator[str]:
    """Every text of a tree, names of fields among them. Raises ValueError if it is deeper than DEPTH."""
    if depth > DEPTH:
        raise ValueError("nested too deeply")
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, dict | list | tuple):
        for part in (*tree, *tree.values()) if isinstance(tree, dict) else tree:
            yield from _texts(part, depth + 1)


def _changed(tree: Any, change: Callable[[str], str]) -> Any:
    """A tree with every text changed but roles, by which templates decide."""
    if isinstance(tree, dict):
        return {change(name): part if name == "role" else _changed(part, change) for name, part in tree.items()}
    if isinstance(tree, list | tuple):
        return [_changed(part, change) for part in tree]
    return change(tree) if isinstance(tree, str) else tree


def _encoded(tokenizer: Tokenizer, text: str, at: int, cut: str) -> tuple[np.ndarray, np.ndarray]:
    """The rendered text before and after a character, encoded at once; only what messages spell is taken apart."""
    if not cut:
        return tokenizer.split_marked(text, at)
    before, after = [], []
    start = 0
    for number, part in enumerate(text.split(cut)):
        # after a line break, so that no tokenizer puts the space of a text's beginning before it
        lead = "\n" if number else ""
        place = at - start + len(lead) if at > start else -1
        left, right = tokenizer.split_marked(lead + part, place)
        skip = len(tokenizer.encode_marked(lead)) if lead else 0
        before.append(left[skip:])
        after.append(right[max(skip - len(left), 0) :])
        start += len(part) + 1
    return np.concatenate(before), np.concatenate(after)


def _weight(answer: Message) -> bool:
    """Whether an answer is trained on: its `weight` is 1 unless it says 0, as in the format of OpenAI's fine-tuning."""
    weight = answer.get("weight")
    if weight not in (None, 0, 1):
        raise ValueError("a weight that is neither 0 nor 1")
    return weight != 0


def _message(message: Any) -> Message:
    match message:
        case {"role": str(), "content": str(content)}:
            _text(content)
            _check_texts(message)
            return dict(message)
    raise ValueError("a message without role or text")


def _text(text: str) -> str:
    _check_texts(text)
    if not text.strip():
        raise ValueError("an empty text")
    return text


def _check_texts(tree: Any) -> None:
    try:
        for text in _texts(tree):
            text.encode()
    except UnicodeEncodeError:
        raise ValueError("invalid UTF-8") from None
