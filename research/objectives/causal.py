"""Next-token prediction."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from research.objectives.base import Objective, Request, Visibility
from research.objectives.batch import Example, Vocabulary, join, reading
from research.objectives.prompts import Tokens


@dataclass(frozen=True, kw_only=True)
class Causal(Objective):
    """Predict each token from those before it (GPT-2)."""

    name: str = "causal"  # in metrics and results

    overlap: ClassVar[int] = 1
    chunked: ClassVar[bool] = True
    has_source: ClassVar[bool] = False
    visibility: ClassVar[Visibility] = "causal"
    answers: ClassVar[frozenset[Request]] = frozenset({"continuation", "rolling", "generation"})
    preference: ClassVar[int] = 0

    def _example(
        self, parts: tuple[np.ndarray, ...], key: tuple[int, ...], vocabulary: Vocabulary, start: int | None
    ) -> Example:
        """A piece of n >= 2 tokens becomes n - 1 places: each sees itself and what precedes it."""
        return predict_each(parts[0])

    def _places(self, sizes: tuple[int, ...], encoder_decoder: bool) -> tuple[int, int]:
        return sum(sizes) - 1, 0

    def read(self, tokens: Tokens, vocabulary: Vocabulary, encoder_decoder: bool) -> Example:
        return self._with_mode(reading(tokens, both_sides=False), vocabulary)

    def _join(self, inputs: Tokens, outputs: Tokens, start: int | None) -> Example:
        """As `join`, but inputs see what precedes them only."""
        shown = join(inputs, outputs, start)
        return shown._replace(levels=np.arange(len(shown.tokens), dtype=np.int32))


def predict_each(tokens: np.ndarray) -> Example:
    """Every token but the first is predicted from those before it."""
    places = len(tokens) - 1
    return Example(tokens[:-1], tokens[1:], np.ones(places, np.float32), np.arange(places, dtype=np.int32))
