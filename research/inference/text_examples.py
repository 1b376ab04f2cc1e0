"""How texts become what a model reads: framed documents, hidden tokens, batches of few shapes."""

from collections.abc import Sequence

import numpy as np

from research import objectives
from research.config import Model
from research.data.tokenizers import Tokenizer
from research.errors import InputError
from research.inference import generation
from research.objectives import Batch, Example, Objective

MASK = "[MASK]"  # how a hidden token is written in a text


def framed(tokenizer: Tokenizer, ids: Sequence[int]) -> np.ndarray:
    """Ids between the tokens that begin and end a document."""
    vocabulary = tokenizer.vocabulary
    return np.array([*vocabulary.begin, *ids, *vocabulary.end], np.int32)


def document(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """A text as documents are in training."""
    return framed(tokenizer, tokenizer.encode(text))


def before_gap(tokenizer: Tokenizer, text: str) -> str:
    """Without a space at its end, where a space belongs to the word after it: then what fills the gap brings it."""
    return text if tokenizer.vocabulary.starts_word is None else text.removesuffix(" ")


def with_masks(objective: Objective, tokenizer: Tokenizer, text: str, encoder_decoder: bool) -> Example:
    """A document whose `[MASK]`s are hidden tokens."""
    *before, last = text.split(MASK)
    first, *others = (tokenizer.encode(part) for part in (*(before_gap(tokenizer, one) for one in before), last))
    assert tokenizer.mask is not None
    ids = framed(tokenizer, [*first, *(i for part in others for i in (tokenizer.mask, *part))])
    return objective.read(ids, tokenizer.vocabulary, encoder_decoder)


def answer_places(tokenizer: Tokenizer, examples: Sequence[Example]) -> list[int]:
    """Of each the place whose logits are the answer: the first mask, or the last token."""
    mask = -1 if tokenizer.mask is None else tokenizer.mask
    hidden = [np.flatnonzero(example.tokens == mask) for example in examples]
    return [
        int(places[0]) if len(places) else len(example.tokens) - 1
        for places, example in zip(hidden, examples, strict=True)
    ]


def batch(model: Model, examples: Sequence[Example], finely: bool = False) -> Batch:
    """One example a row, padded to one of few lengths, or `finely` to the next multiple of four.

    Raises:
      InputError: if one is longer than the model's positions.
    """
    longest = max(len(side) for one in examples for side in (one.tokens, one.source) if side is not None)
    most = generation.places(model)
    if most is not None and longest > most:
        raise InputError(f"{longest} tokens do not fit into the model's {most} positions")
    rounded = _next_fourth if finely else generation.bucket
    length = rounded(max(len(example.tokens) for example in examples))
    source = None
    if model.encoder_depth:
        source = rounded(max(len(example.source) for example in examples if example.source is not None))
    return objectives.stack([objectives.row([example], length, source) for example in examples])


def _next_fourth(length: int) -> int:
    return -(-length // 4) * 4
