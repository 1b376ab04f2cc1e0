"""Conversations: what was said before, and an answer to it.

A line of JSON has one of the usual shapes:

  {"messages": [{"role": "user", "content": TEXT}, {"role": "assistant", "content": TEXT}, …]}   one for each answer
  {"prompt": [message, …], "completion": [message]}
  {"prompt": TEXT, "completion": TEXT}                                                           without a template

Messages become text by the chat template that comes with the tokenizer: the one that the model was trained with.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jinja2
import jinja2.ext
import jinja2.sandbox
import numpy as np

from research.data.tokenizers import Tokenizer
from research.errors import InputError

Message = dict[str, str]


@dataclass(frozen=True)
class PromptCompletion:
    """What was said before, as a text or as messages, and the answer."""

    before: str | tuple[Message, ...]
    answer: str

    @property
    def size(self) -> int:
        """Characters, about."""
        said = self.before if isinstance(self.before, str) else "".join(one["content"] for one in self.before)
        return len(said) + len(self.answer)


def prompt_completions(entry: dict[str, Any]) -> Iterator[PromptCompletion]:
    """The exchanges of a line. Raises ValueError with what is wrong with it."""
    match entry:
        case {"messages": list(messages)}:
            said = tuple(map(_message, messages))
            answers = [place for place, one in enumerate(said) if one["role"] == "assistant" and place > 0]
            if not answers:
                raise ValueError("no assistant message after another")
            yield from (PromptCompletion(said[:place], said[place]["content"]) for place in answers)
        case {"prompt": str(prompt), "completion": str(completion)}:
            yield PromptCompletion(_text(prompt), _text(completion))
        case {"prompt": list(prompt), "completion": [completion]}:
            yield PromptCompletion(tuple(map(_message, prompt)), _message(completion)["content"])
        case _:
            raise ValueError("neither messages nor prompt and completion")


def encode(exchange: PromptCompletion, tokenizer: Tokenizer) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The ids of what was said before, and of the answer with its end; each as arrays to be joined.

    Raises:
      InputError: if there are messages, but the tokenizer has no chat template, or one that cannot be used.
    """
    if isinstance(exchange.before, str):
        begin, end = ([] if i is None else [np.array([i])] for i in (tokenizer.bos, tokenizer.eos))
        before, answer = tokenizer.encode_many([exchange.before, exchange.answer])
        return [*begin, before], [answer, *end]
    if tokenizer.chat_template is None:
        raise InputError(
            "the tokenizer has no chat template: use prompt and completion as texts, or one of a chat model"
        )
    messages = list(exchange.before)
    asked = render(tokenizer, messages, reply=True)
    whole = render(tokenizer, [*messages, {"role": "assistant", "content": exchange.answer}], reply=False)
    if not whole.startswith(asked):
        raise InputError("the tokenizer's chat template renders an answer otherwise than it begins one")
    return [tokenizer.encode_marked(asked)], [tokenizer.encode_marked(whole[len(asked) :])]


def render(tokenizer: Tokenizer, messages: list[Message], reply: bool) -> str:
    """Messages as text by the tokenizer's chat template; with `reply`, up to where an answer begins. Raises InputError
    if the template fails."""

    def name(i: int | None) -> str:
        return "" if i is None else tokenizer.names[i]

    try:
        template = _template(tokenizer.chat_template or "")
        special = {"bos_token": name(tokenizer.bos), "eos_token": name(tokenizer.eos)}
        return template.render(messages=messages, add_generation_prompt=reply, **special)
    except jinja2.TemplateError as error:
        raise InputError(f"the tokenizer's chat template fails: {error}") from error


@functools.cache
def _template(source: str) -> jinja2.Template:
    """Compiled as `transformers` does it, without access to anything outside."""

    def stop(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    environment.globals["raise_exception"] = stop
    return environment.from_string(source)


def _message(message: Any) -> Message:
    match message:
        case {"role": str(role), "content": str(content)}:
            return {"role": role, "content": _text(content)}
    raise ValueError("a message without role or text")


def _text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("invalid UTF-8") from None
    if not text.strip():
        raise ValueError("an empty text")
    return text
