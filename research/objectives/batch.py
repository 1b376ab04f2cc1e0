"""The batch contract: everything in which training objectives differ, as arrays."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import NamedTuple, Optional

import jax
import numpy as np

ARRAYS = ("tokens", "targets", "weights", "positions", "segments", "levels")


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[*ARRAYS, "source"],
    meta_fields=["causal"],
)
@dataclass(frozen=True)
class Batch:
    """What a training step reads. Every array is `[batch, length]`.

    The one attention rule: a query sees a key when both are in the same segment and `levels[key] <= levels[query]`.
    Segments are contiguous, and levels never decrease within one. In an encoder-decoder batch, `source` is what the
    encoder reads, in the same form; a query of the decoder sees every source token of its own segment.
    """

    tokens: np.ndarray  # int32: what the model reads
    targets: np.ndarray  # int32: what it must predict there
    weights: np.ndarray  # float32: how much that place counts in the loss; 0: not trained
    positions: np.ndarray  # int32: place within its own document, from 0
    segments: np.ndarray  # int32: which document of the row, from 1; 0: padding
    levels: np.ndarray  # int32: visibility
    source: Optional["Batch"] = None
    # promised before there are arrays, so that programs can be built on it: in no row does a token (of the target side,
    # in an encoder-decoder) see one behind it
    causal: bool = False


class Example(NamedTuple):
    """One document as an objective shows it: arrays `[places]`, which a row of a batch takes as one segment."""

    tokens: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    levels: np.ndarray
    source: np.ndarray | None = None  # what the encoder reads, in an encoder-decoder


@dataclass(frozen=True)
class Vocabulary:
    """What objectives know of a tokenizer. Ids that a tokenizer does not have are None or empty."""

    size: int
    bos: int | None = None  # begins a document
    eos: int | None = None  # ends a document
    mask: int | None = None  # hides a token
    sentinels: tuple[int, ...] = ()  # hide spans, in the order of their use
    modes: dict[str, int] = field(default_factory=dict)  # name of an objective's mode -> its token
    starts_word: np.ndarray | None = None  # bool [size]: this id begins a word
    special: frozenset[int] = frozenset()  # never hidden, never a random replacement

    @cached_property
    def is_special(self) -> np.ndarray:
        """Bool [size]."""
        return np.isin(np.arange(self.size), list(self.special))

    @cached_property
    def ordinary(self) -> np.ndarray:
        """The ids that are not special."""
        return np.flatnonzero(~self.is_special)


def join(inputs: np.ndarray, outputs: np.ndarray, start: int | None) -> Example:
    """Predict `outputs` from `inputs`.

    With `start` None, both stand in one row, where inputs (at least one) see each other from both sides and outputs
    see what precedes them. Otherwise inputs are the source side, and the decoder begins by reading `start`.
    """
    if start is not None:
        tokens = np.concatenate([np.array([start], outputs.dtype), outputs[:-1]])
        return Example(
            tokens, outputs, np.ones(len(tokens), np.float32), np.arange(len(tokens), dtype=np.int32), inputs
        )
    tokens = np.concatenate([inputs, outputs[:-1]])
    targets = np.concatenate([inputs[1:], outputs])
    order = np.arange(len(tokens)) - (len(inputs) - 1)
    return Example(tokens, targets, (order >= 0).astype(np.float32), np.maximum(order, 0).astype(np.int32))


def reading(tokens: np.ndarray, both_sides: bool) -> Example:
    """`tokens` as they are, with nothing to predict: each sees every other, or what precedes it."""
    levels = np.zeros(len(tokens), np.int32) if both_sides else np.arange(len(tokens), dtype=np.int32)
    return Example(tokens, tokens, np.zeros(len(tokens), np.float32), levels)


def row(examples: Sequence[Example], length: int, source_length: int | None = None) -> Batch:
    """One row of a batch, arrays `[length]`: the examples one after the other as segments 1, 2, …, then padding.
    `source_length` is given for the examples of an encoder-decoder. Raises ValueError if they do not fit."""
    source = None
    if source_length is not None:
        source = _side([e.source for e in examples if e.source is not None], source_length)
    out = _side([example.tokens for example in examples], length)
    place = 0
    for example in examples:
        places = slice(place, place := place + len(example.tokens))
        out.targets[places], out.weights[places], out.levels[places] = example.targets, example.weights, example.levels
    return replace(out, source=source)


def _side(tokens: Sequence[np.ndarray], length: int) -> Batch:
    """Tokens with their positions and segments; as targets stand the tokens themselves, which do not count."""
    if (needed := sum(map(len, tokens))) > length:
        raise ValueError(f"{needed} places do not fit into a row of {length}")
    out, order, place = _empty(length), np.arange(length, dtype=np.int32), 0
    for number, one in enumerate(tokens, start=1):
        places = slice(place, place := place + len(one))
        out.tokens[places] = out.targets[places] = one
        out.positions[places], out.segments[places] = order[: len(one)], number
    return out


def _empty(length: int) -> Batch:
    tokens, targets, positions, segments, levels = np.zeros((5, length), np.int32)
    return Batch(tokens, targets, np.zeros(length, np.float32), positions, segments, levels)


def stack(rows: Sequence[Batch], causal: bool = False) -> Batch:
    """Rows `[length]` to a batch `[batch, length]`; `causal` as in `Batch`."""
    source = stack([row.source for row in rows if row.source is not None]) if rows[0].source is not None else None
    arrays = {name: np.stack([getattr(row, name) for row in rows]) for name in ARRAYS}
    return Batch(**arrays, source=source, causal=causal)
