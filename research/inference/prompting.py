"""Requests as examples: how a model is asked for the probability of a text, as it was trained to give it.

A score is read off places of the very examples that training uses (`objectives.Example`), whose weights mark the places
to be scored. Which examples depends on the objective:

  causal            context and text in one row
  prefix            the context is input, seen from both sides; the text is output
  span corruption   the text is the span behind a sentinel, which stands where the text belongs
  text to text      the context is input, the text, without the space before it, is output
  masked            one example for every token, in which it is hidden, with the later tokens of its word (Kauf and
                    Ivanova 2023: otherwise the rest of a word gives its beginning away); a pseudo score

Context and text are encoded together and then split, as in lm-evaluation-harness; space at the end of a context counts
as the text's; what does not fit is cut off the context from the left; long texts are cut into disjoint windows, of
which the last has full context.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from research import config
from research.config import Objective
from research.data.tokenizers import Tokenizer
from research.errors import InputError
from research.inference.generation import Prompt
from research.inference.requests import Continuation, Generation, Infill, Kind, Rolling, Scorable
from research.objectives import Example, join, with_mode

PREFERENCE = (config.Causal, config.Prefix, config.TextToText, config.SpanCorruption, config.Masked)
Tokens = np.ndarray


class Trained(Protocol):
    """What must be known of a language model in order to ask it."""

    @property
    def config(self) -> config.Model: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def objectives(self) -> Sequence[Objective]: ...


class Asked(NamedTuple):
    """The examples that a request becomes; the scored places of all of them, in order, are the tokens of its text."""

    examples: list[Example]
    truncated: int = 0  # tokens of the context that were cut off
    unscored: int = 0  # tokens at the beginning of the text that nothing precedes, not even a special token


@dataclass(frozen=True)
class PromptFormat:
    """How a model is asked."""

    objective: Objective
    tokenizer: Tokenizer
    length: int  # longest row
    source_length: int | None = None  # longest source, in an encoder-decoder

    @property
    def kind(self) -> Kind:
        return "pseudo" if isinstance(self.objective, config.Masked) else "exact"

    def can(self, request: Scorable | Generation) -> bool:
        """Whether a model with this objective has an answer at all."""
        spans = isinstance(self.objective, config.Masked | config.SpanCorruption)
        match request:
            case Continuation():
                return True
            case Infill():
                return spans
            case Rolling():
                return isinstance(self.objective, config.Causal | config.Masked | config.Prefix)
            case Generation():
                return isinstance(self.objective, config.Causal | config.Prefix | config.TextToText)

    @property
    def start(self) -> int | None:
        """What the decoder reads first, in an encoder-decoder."""
        return None if self.source_length is None else self.tokenizer.bos or 0

    @property
    def bos(self) -> list[int]:
        """What is put before every document; where the tokenizer has nothing for this, nothing."""
        return [] if self.tokenizer.bos is None else [self.tokenizer.bos]

    @property
    def eos(self) -> list[int]:
        return [] if self.tokenizer.eos is None else [self.tokenizer.eos]

    @property
    def mode(self) -> list[int]:
        return [] if self.objective.mode is None else [self.tokenizer.modes[self.objective.mode]]


def prompt_formats(model: Trained, name: str | None = None, length: int | None = None) -> list[PromptFormat]:
    """How a model can be asked, the preferred manner first.

    Args:
      model: its objectives decide.
      name: of the objective as which it is asked; None: the first one of each kind that it was trained on.
      length: places that a request may take; None: as many as the model has positions.

    Raises:
      InputError: if it has no such objective, or not so many positions.
    """
    positions = model.config.positions.max_length - model.config.positions.offset
    if length is not None and length > positions and model.config.positions.kind == "learned":
        raise InputError(f"length {length}: the model has {positions} positions")
    kinds = [[one for one in model.objectives if isinstance(one, kind)] for kind in PREFERENCE]
    chosen = [ones[0] for ones in kinds if ones] if name is None else [o for o in model.objectives if o.name == name]
    if not chosen:
        known = ", ".join(objective.name for objective in model.objectives)
        raise InputError(f"the model was not trained with {name!r}, so it is not asked so; it was with {known}")
    places = length or positions
    return [
        PromptFormat(one, model.tokenizer, places, places if model.config.encoder_depth else None) for one in chosen
    ]


def ask(manner: PromptFormat, requests: Sequence[Scorable]) -> list[Asked | None]:
    """The examples of each request, or None where the model has no answer.

    Raises:
      InputError: if the text of a request (not its context) is longer than the model, or cannot be encoded.
    """
    texts = dict.fromkeys(text for request in requests for text in _texts(manner, request))
    ids = dict(zip(texts, manner.tokenizer.encode_many(list(texts)), strict=True))
    return [_ask(manner, request, ids) if manner.can(request) else None for request in requests]


def begin(manner: PromptFormat, request: Generation) -> tuple[Prompt, int]:
    """What a model reads before it writes, and how many tokens of the context were cut off from the left.

    Raises:
      InputError: if the new tokens alone are longer than the model.
    """
    assert manner.can(request)
    if isinstance(manner.objective, config.TextToText):
        context = np.array(manner.tokenizer.encode(manner.objective.prefix + request.context), np.int32)
        given, before = _tokens(manner.bos, context, manner.eos), context[:0]
    else:
        before = np.array(manner.tokenizer.encode(request.context), np.int32)
        given = _tokens(manner.bos, before) if len(before) else _tokens(manner.bos or manner.eos)
    cut = max(0, len(given) - _room(manner, request.sampling.tokens))
    shown = _output(manner, given[cut:], given[:0], np.zeros(1, np.int32))
    source = None if shown.source is None else shown.source.tolist()
    return Prompt(shown.tokens.tolist(), int((shown.levels == 0).sum()), source, before.tolist()), cut


def _texts(manner: PromptFormat, request: Scorable) -> tuple[str, ...]:
    """What must be encoded for a request: its beginnings, up to each border; of a pair, input and output."""
    match request:
        case Continuation(context, text) if isinstance(manner.objective, config.TextToText):
            return manner.objective.prefix + context.rstrip(), text.lstrip()
        case Continuation(context, text):
            bare = context.rstrip()
            return bare, context + text
        case Infill(left, right, text):
            bare = left.rstrip()
            return bare, left + text, left + text + right
        case Rolling(text):
            return (text,)


def _ask(manner: PromptFormat, request: Scorable, ids: dict[str, Tokens]) -> Asked:
    parts = [ids[text] for text in _texts(manner, request)]
    match request:
        case Continuation() if isinstance(manner.objective, config.TextToText):
            return _between(manner, parts[0], parts[1], parts[0][:0])
        case Continuation():
            return _between(manner, parts[0], parts[1][len(parts[0]) :], parts[0][:0])
        case Infill():
            left, text, right = parts[0], parts[1][len(parts[0]) :], parts[2][len(parts[1]) :]
            return _between(manner, left, text, right)
        case Rolling():
            return _rolling(manner, parts[0])


def _between(manner: PromptFormat, left: Tokens, text: Tokens, right: Tokens) -> Asked:
    """The text between what stands on its left and right (nothing, for a continuation)."""
    if len(text) == 0:
        raise InputError("a text of no tokens has no score")
    match manner.objective:
        case config.Causal() | config.Prefix():
            given = _tokens(manner.bos, left) if len(left) else _tokens(manner.bos or manner.eos)
            return _continued(manner, given, text) if len(given) else _from_nothing(manner, text)
        case config.TextToText():
            return _continued(manner, _tokens(manner.bos, left, manner.eos), text)
        case config.SpanCorruption():
            sentinel = manner.tokenizer.sentinels[:1]
            left, right, cut = _fit(manner, left, right, _room(manner, 1 + len(text)) - 1 - len(manner.eos))
            inputs = _tokens(left, sentinel, right, manner.eos)
            return Asked([_output(manner, inputs, _tokens(sentinel), text)], cut)
        case config.Masked():
            return _masked(manner, left, text, right)


def _room(manner: PromptFormat, outputs: int) -> int:
    """How many inputs fit beside so many outputs."""
    if outputs > manner.length - (0 if manner.source_length else len(manner.mode)):
        raise _too_long(manner, outputs)
    return (manner.source_length or manner.length + 1 - outputs) - len(manner.mode)


def _continued(manner: PromptFormat, given: Tokens, text: Tokens) -> Asked:
    """The text after what is given, cut off from the left as in lm-evaluation-harness: of both together, the last
    `length` + 1 tokens, the last of which is only predicted."""
    cut = max(0, len(given) - _room(manner, len(text)))
    return Asked([_output(manner, given[cut:], given[:0], text)], cut)


def _from_nothing(manner: PromptFormat, text: Tokens) -> Asked:
    """The first token is not predicted."""
    rest = [_continued(manner, text[:1], text[1:])] if len(text) > 1 else []
    return Asked([example for one in rest for example in one.examples], 0, 1)


def _output(manner: PromptFormat, inputs: Tokens, before: Tokens, text: Tokens) -> Example:
    """An example whose last places predict the text, given the inputs and what stands before it in the output."""
    shown = join(inputs, _tokens(before, text), manner.start)
    if isinstance(manner.objective, config.Causal):
        shown = shown._replace(levels=np.arange(len(shown.tokens), dtype=np.int32))
    shown = with_mode(shown, manner.mode[0]) if manner.mode else shown
    weights = np.zeros(len(shown.tokens), np.float32)
    weights[-len(text) :] = 1
    return shown._replace(weights=weights)


def _masked(manner: PromptFormat, left: Tokens, text: Tokens, right: Tokens) -> Asked:
    """One example for each token of the text, hidden with the later tokens of its word."""
    mask = manner.tokenizer.mask
    assert mask is not None
    room = manner.length - len(text) - len(manner.bos) - len(manner.eos) - len(manner.mode)
    if room < 0:
        raise _too_long(manner, len(text))
    left, right, cut = _fit(manner, left, right, room)
    row = _tokens(manner.bos, left, text, right, manner.eos)
    first = len(manner.bos) + len(left)
    starts = manner.tokenizer.vocabulary.starts_word
    word = np.arange(len(row)) if starts is None else np.cumsum(starts[row])
    place = np.arange(len(row))
    examples = []
    for target in range(first, first + len(text)):
        hidden = (place >= target) & (word == word[target])
        weights = (place == target).astype(np.float32)
        shown = Example(np.where(hidden, mask, row).astype(np.int32), row, weights, np.zeros(len(row), np.int32))
        examples.append(with_mode(shown, manner.mode[0]) if manner.mode else shown)
    return Asked(examples, cut)


def _rolling(manner: PromptFormat, text: Tokens) -> Asked:
    """Every token once, in disjoint windows. A window has one token of context, the last one as many as fit; a model
    with an encoder reads those there, and a masked one, which sees both sides, has them only before the last."""
    masked = isinstance(manner.objective, config.Masked)
    size = manner.length - len(manner.mode) - (len(manner.bos) + len(manner.eos) if masked else 0)
    asked = []
    for start in range(0, len(text), size):
        end = min(start + size, len(text))
        context = text[max(0, end - size - (not masked)) : start]
        if masked or start == 0:
            asked.append(_between(manner, context, text[start:end], text[:0]))
        else:
            asked.append(_continued(manner, context, text[start:end])._replace(truncated=0))
    return Asked([example for one in asked for example in one.examples], 0, sum(one.unscored for one in asked))


def _fit(manner: PromptFormat, left: Tokens, right: Tokens, room: int) -> tuple[Tokens, Tokens, int]:
    """What fits of both sides, the nearest tokens: the right one takes up to half unless the left leaves more."""
    if room < 0:
        raise _too_long(manner, 0)
    kept_right = min(len(right), max(room // 2, room - len(left)))
    kept_left = min(len(left), room - kept_right)
    cut = len(left) + len(right) - kept_left - kept_right
    return left[len(left) - kept_left :], right[:kept_right], cut


def _tokens(*parts: Sequence[int] | Tokens) -> Tokens:
    return np.concatenate([np.asarray(part, np.int32) for part in parts])


def _too_long(manner: PromptFormat, tokens: int) -> InputError:
    return InputError(
        f"a text of {tokens} tokens to be scored does not fit into the {manner.length} places of the model"
    )
