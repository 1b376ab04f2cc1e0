"""Text to text (Raffel et al. 2020, section 2.4): every task is an input text and an output text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from research.objectives.base import Objective, SampleRequest, SpecialTokens
from research.objectives.batch import Example, Vocabulary, join
from research.objectives.prompts import Tokens, concatenated


@dataclass(frozen=True, kw_only=True)
class TextToText(Objective):
    """Predict the second field of a pair from the first (T5's "translate English to French: …")."""

    name: str = "text_to_text"  # in metrics and results
    prefix: str = ""  # text put before every input

    parts: ClassVar[int] = 2
    separate_texts: ClassVar[bool] = True
    preference: ClassVar[int] = 2

    def _example(
        self, parts: tuple[np.ndarray, ...], key: tuple[int, ...], vocabulary: Vocabulary, start: int | None
    ) -> Example:
        return join(parts[0], parts[1], start)

    def needs(self, longest: int) -> SpecialTokens:
        return super().needs(longest)._replace(eos=True)

    @property
    def input_prefix(self) -> str:
        return self.prefix

    def sample(self, ids: Sequence[int], word_starts: Sequence[int]) -> SampleRequest:
        return SampleRequest("generation", len(ids), len(ids))  # the whole input

    def _context(self, left: Tokens, vocabulary: Vocabulary) -> Tokens:
        return concatenated(vocabulary.begin, left, vocabulary.end)
