"""Prefix language modelling (Raffel et al. 2020, section 3.2.1)."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from research.objectives.base import Objective, Request
from research.objectives.batch import Example, Vocabulary, join


@dataclass(frozen=True, kw_only=True)
class Prefix(Objective):
    """Predict the rest of a document from a prefix that is seen from both sides; the split is uniformly random."""

    name: str = "prefix"  # in metrics and results

    overlap: ClassVar[int] = 1
    chunked: ClassVar[bool] = True
    answers: ClassVar[frozenset[Request]] = frozenset({"continuation", "rolling", "generation"})
    preference: ClassVar[int] = 1

    def _example(
        self, parts: tuple[np.ndarray, ...], key: tuple[int, ...], vocabulary: Vocabulary, start: int | None
    ) -> Example:
        """Of a piece of n >= 2 tokens, the first 1 to n - 1 are input and the rest is output."""
        (piece,) = parts
        split = np.random.default_rng(key).integers(1, len(piece))
        return join(piece[:split], piece[split:], start)

    def _places(self, sizes: tuple[int, ...], encoder_decoder: bool) -> tuple[int, int]:
        places = sizes[0] - 1
        return (places, places) if encoder_decoder else (places, 0)
