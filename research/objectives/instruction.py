"""Supervised fine-tuning on conversations."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from research.objectives.base import Objective
from research.objectives.batch import Example, Vocabulary
from research.objectives.causal import Causal, predict_each


@dataclass(frozen=True, kw_only=True)
class Instruction(Causal):
    """Predict the answers of conversations, from what precedes them (a source `chat:GLOB`)."""

    name: str = "instruction"  # in metrics and results

    parts: ClassVar[int] = 2
    chunked: ClassVar[bool] = False
    keeps_input_end: ClassVar[bool] = True

    def _example(
        self, parts: tuple[np.ndarray, ...], key: tuple[int, ...], vocabulary: Vocabulary, start: int | None
    ) -> Example:
        """Both parts as one causal text, of which only the answer counts. One of them has a token, the other at least
        one. A text without an answer is causal as a whole."""
        whole = predict_each(np.concatenate(parts))
        answer = len(parts[0]) - 1 if len(parts) == 2 else 0
        return whole._replace(weights=(np.arange(len(whole.tokens)) >= answer).astype(np.float32))

    @property
    def prompted_as(self) -> type[Objective]:
        return Causal
