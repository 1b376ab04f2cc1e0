"""What a model is shown in order to score a text: pieces that the objectives' prompts are made of, on token ids."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from research.errors import InputError
from research.objectives.batch import Example

Tokens = np.ndarray  # int32 [tokens]
UNLIMITED = 1 << 30  # places


class ScoringExamples(NamedTuple):
    """The examples that a request becomes; their places of positive weight, in order, are the tokens of its text."""

    examples: list[Example]
    truncated: int = 0  # tokens of the context that were cut off
    unscored: int = 0  # tokens at the beginning of the text that nothing precedes, not even a special token


class Limits(NamedTuple):
    """How much a model reads."""

    length: int  # longest row
    source_length: int | None = None  # longest source, in an encoder-decoder

    @property
    def encoder_decoder(self) -> bool:
        return self.source_length is not None

    @property
    def removed(self) -> "Limits":
        """The same kind of model without any limits."""
        return Limits(UNLIMITED, UNLIMITED if self.encoder_decoder else None)

    def inputs(self, outputs: int, mode: int = 0) -> int:
        """How many input tokens fit beside so many outputs, the last of which is only predicted, and `mode` tokens
        that stand first. Raises InputError if not even the outputs fit."""
        if outputs > self.length - (0 if self.encoder_decoder else mode):
            raise self.too_long(outputs)
        return (self.source_length or self.length + 1 - outputs) - mode

    def too_long(self, tokens: int) -> InputError:
        return InputError(
            f"a text of {tokens} tokens to be scored does not fit into the {self.length} places of the model"
        )


def fit(left: Tokens, right: Tokens, room: int) -> tuple[Tokens, Tokens, int]:
    """What fits of both sides, the nearest tokens, and how many are cut off: the right one takes up to half of the
    room, or more where the left one is short."""
    kept_right = min(len(right), max(room // 2, room - len(left)))
    kept_left = min(len(left), room - kept_right)
    return left[len(left) - kept_left :], right[:kept_right], len(left) + len(right) - kept_left - kept_right


def concatenated(*parts: Sequence[int] | Tokens) -> Tokens:
    return np.concatenate([np.asarray(part, np.int32) for part in parts])


def together(windows: Sequence[ScoringExamples]) -> ScoringExamples:
    """The windows of one text."""
    return ScoringExamples(
        [example for one in windows for example in one.examples], 0, sum(one.unscored for one in windows)
    )
