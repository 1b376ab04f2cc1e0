"""Prompting: what a model reads in order to answer a request, as one of its objectives was trained to.

A score is read off places of the very examples that training uses (`objectives.Example`), whose weights mark the places
to be scored; which examples, on token ids, is the objective's (`Objective.scored`, `rolling` and `prompt`). Here texts
become token ids: context and text are encoded together and then split, as in lm-evaluation-harness, and space at the
end of a context counts as the text's. Where input and output are separate texts (`Objective.separate_texts`), each is
encoded by itself, without the space between them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from research.config import Model
from research.data.tokenizers import Tokenizer
from research.errors import InputError
from research.inference.generation import Prompt
from research.inference.requests import Continuation, Generation, Infill, Kind, Rolling, Scorable, name
from research.objectives import Example, Objective
from research.objectives.prompts import Limits, ScoringExamples

Tokens = np.ndarray  # int32 [tokens]


@dataclass(frozen=True)
class PromptFormat:
    """How a model is asked: as one of its objectives, within its length."""

    objective: Objective
    tokenizer: Tokenizer
    length: int  # longest row
    source_length: int | None = None  # longest source, in an encoder-decoder

    @property
    def kind(self) -> Kind:
        return self.objective.score_kind

    @property
    def limits(self) -> Limits:
        return Limits(self.length, self.source_length)

    def can(self, request: Scorable | Generation) -> bool:
        """Whether a model with this objective has an answer at all."""
        return name(request) in self.objective.answers


class Parts(NamedTuple):
    """The token ids of a text to be scored, and of what stands on its left and right."""

    left: Tokens
    text: Tokens
    right: Tokens


class Prompted(NamedTuple):
    """What a model reads before it writes; the last place of the example predicts the first new token."""

    example: Example
    before: list[int]  # token ids that the new text follows
    truncated: int  # tokens of the context that were cut off

    @property
    def prompt(self) -> Prompt:
        tokens, source = self.example.tokens, self.example.source
        seen_by_all = int((self.example.levels == 0).sum())
        return Prompt(tokens.tolist(), seen_by_all, None if source is None else source.tolist(), self.before)


def prompt_formats(
    model: Model,
    tokenizer: Tokenizer,
    objectives: Sequence[Objective],
    named: str | None = None,
    length: int | None = None,
) -> list[PromptFormat]:
    """How a model can be asked, the preferred format first.

    Args:
      model: resolved.
      objectives: what it was trained with.
      named: the objective as which it is asked; None: the first one of each kind.
      length: places that a request may take; None: as many as the model has positions.

    Raises:
      InputError: if it has no such objective, or not so many positions.
    """
    positions = model.positions.max_length - model.positions.offset
    if length is not None and length > positions and model.positions.kind == "learned":
        raise InputError(f"length {length}: the model has {positions} positions")
    if named is None:
        by_preference = sorted(objectives, key=lambda objective: objective.preference)
        kinds: dict[type[Objective], Objective] = {}
        for objective in by_preference:
            kinds.setdefault(objective.prompted_as, objective)
        chosen = list(kinds.values())
    else:
        chosen = [objective for objective in objectives if objective.name == named]
    if not chosen:
        known = ", ".join(objective.name for objective in objectives)
        raise InputError(f"the model was not trained with {named!r}, so it is not asked so; it was with {known}")
    places = length or positions
    return [PromptFormat(one, tokenizer, places, places if model.encoder_depth else None) for one in chosen]


def scoring_examples(prompt_format: PromptFormat, requests: Sequence[Scorable]) -> list[ScoringExamples | None]:
    """The examples of each request, or None where the model has no answer.

    Raises:
      InputError: if the text of a request (not its context) is longer than the model, is empty, or cannot be encoded.
    """
    objective, vocabulary = prompt_format.objective, prompt_format.tokenizer.vocabulary
    able = [request for request in requests if prompt_format.can(request)]
    parts = iter(encode(prompt_format, able))
    found: list[ScoringExamples | None] = []
    for request in requests:
        if not prompt_format.can(request):
            found.append(None)
        elif isinstance(request, Rolling):
            found.append(objective.rolling(next(parts).text, vocabulary, prompt_format.limits))
        else:
            left, text, right = next(parts)
            if len(text) == 0:
                raise InputError("a text of no tokens has no score")
            found.append(objective.scored(left, text, right, vocabulary, prompt_format.limits))
    return found


def encode(prompt_format: PromptFormat, requests: Sequence[Scorable]) -> list[Parts]:
    """The token ids of each request. Raises InputError if a text has a character that the tokenizer cannot express."""
    texts = dict.fromkeys(text for request in requests for text in _texts(prompt_format.objective, request))
    ids = dict(zip(texts, prompt_format.tokenizer.encode_many(list(texts)), strict=True))
    return [_parts(prompt_format.objective, request, ids) for request in requests]


def _texts(objective: Objective, request: Scorable) -> tuple[str, ...]:
    """What must be encoded for a request: its beginnings, up to each border, or its separate texts."""
    match request:
        case Continuation(context, text) if objective.separate_texts:
            return objective.input_prefix + context.rstrip(), text.lstrip()
        case Continuation(context, text):
            return context.rstrip(), context + text
        case Infill(left, right, text):
            return left.rstrip(), left + text, left + text + right
        case Rolling(text):
            return (text,)


def _parts(objective: Objective, request: Scorable, ids: dict[str, Tokens]) -> Parts:
    first, *longer = (ids[text] for text in _texts(objective, request))
    nothing = first[:0]
    match request:
        case Continuation() if objective.separate_texts:
            return Parts(first, longer[0], nothing)
        case Continuation():
            return Parts(first, longer[0][len(first) :], nothing)
        case Infill():
            return Parts(first, longer[0][len(first) :], longer[1][len(longer[0]) :])
        case Rolling():
            return Parts(nothing, first, nothing)


def continuation_prompt(prompt_format: PromptFormat, context: str, new_tokens: int | None = None) -> Prompted:
    """What a model reads before it continues a context, or answers it.

    Args:
      new_tokens: for so many there is room: what does not fit is cut off the context from the left. None: nothing is.

    Raises:
      InputError: if the new tokens alone are longer than the model, or if nothing at all precedes them.
    """
    objective = prompt_format.objective
    ids = prompt_format.tokenizer.encode(objective.input_prefix + context)
    return _prompted(prompt_format, ids, [], [] if objective.separate_texts else ids, new_tokens)


def infill_prompt(prompt_format: PromptFormat, left: str, right: str) -> Prompted:
    """What a model reads before it writes the text between two others."""
    before, after = (prompt_format.tokenizer.encode(text) for text in (left, right))
    return _prompted(prompt_format, before, after, before, None)


def _prompted(
    prompt_format: PromptFormat, left: list[int], right: list[int], before: list[int], new_tokens: int | None
) -> Prompted:
    limits = prompt_format.limits if new_tokens else prompt_format.limits.removed
    on_left, on_right = (np.array(ids, np.int32) for ids in (left, right))
    vocabulary = prompt_format.tokenizer.vocabulary
    example, cut = prompt_format.objective.prompt(on_left, on_right, new_tokens or 1, vocabulary, limits)
    return Prompted(example, before, cut)
