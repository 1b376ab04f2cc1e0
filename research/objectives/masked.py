"""Masked language modelling (Devlin et al. 2019, section 3.1)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

import numpy as np

from research.objectives.base import Objective, Request, SampleRequest, SpecialTokens, Visibility
from research.objectives.batch import Example, Vocabulary, reading
from research.objectives.prompts import Limits, ScoringExamples, Tokens, concatenated, fit, together


@dataclass(frozen=True, kw_only=True)
class Masked(Objective):
    """Predict hidden tokens from both sides (BERT): of the chosen tokens 80 % become the mask, 10 % a random token,
    10 % stay; another choice every epoch."""

    name: str = "masked"  # in metrics and results
    mask_rate: float = 0.15  # share of tokens to predict
    whole_words: bool = False  # choose all pieces of a word together

    chunked: ClassVar[bool] = True
    has_source: ClassVar[bool] = False
    visibility: ClassVar[Visibility] = "bidirectional"
    answers: ClassVar[frozenset[Request]] = frozenset({"continuation", "rolling", "infill", "fill"})
    score_kind: ClassVar[Literal["exact", "pseudo"]] = "pseudo"
    preference: ClassVar[int] = 4

    def _example(
        self, parts: tuple[np.ndarray, ...], key: tuple[int, ...], vocabulary: Vocabulary, start: int | None
    ) -> Example:
        """Of the tokens that are not special, `round(mask_rate * count)` but at least one are to be predicted. Every
        place sees every other."""
        (piece,), random = parts, np.random.default_rng(key)
        chosen = self._choose(piece, vocabulary, random)
        tokens, weights = piece.copy(), np.zeros(len(piece), np.float32)
        weights[chosen] = 1
        fate = random.random(len(chosen))
        tokens[chosen[fate < 0.8]] = vocabulary.mask
        replaced = chosen[(fate >= 0.8) & (fate < 0.9)]
        tokens[replaced] = vocabulary.ordinary[random.integers(len(vocabulary.ordinary), size=len(replaced))]
        return Example(tokens, piece, weights, np.zeros(len(piece), np.int32))

    def _choose(self, piece: np.ndarray, vocabulary: Vocabulary, random: np.random.Generator) -> np.ndarray:
        """The places to be predicted."""
        maskable = np.flatnonzero(~vocabulary.is_special[piece])
        count = max(1, round(self.mask_rate * len(maskable)))
        if not self.whole_words:
            return random.permutation(maskable)[:count]
        assert vocabulary.starts_word is not None
        word = np.cumsum(vocabulary.starts_word[piece[maskable]])
        rank = random.permutation(word[-1] + 1)[word] if len(word) else word
        order = np.argsort(rank, kind="stable")  # words in random order, the pieces of a word side by side
        last = min(count, len(order)) - 1
        return maskable[order[rank[order] <= rank[order[last]]]] if len(order) else maskable

    def _places(self, sizes: tuple[int, ...], encoder_decoder: bool) -> tuple[int, int]:
        return sizes[0], 0

    def needs(self, longest: int) -> SpecialTokens:
        return super().needs(longest)._replace(mask=True, word_starts=self.whole_words)

    def problems(self) -> list[tuple[str, str]]:
        within = 0 < self.mask_rate < 1
        return super().problems() + [("mask_rate", f"{self.mask_rate} is not between 0 and 1")] * (not within)

    def scored(
        self, left: Tokens, text: Tokens, right: Tokens, vocabulary: Vocabulary, limits: Limits
    ) -> ScoringExamples:
        """One example for each token, in which it is hidden, with the later tokens of its word (Kauf and Ivanova 2023:
        otherwise the rest of a word gives its beginning away)."""
        assert vocabulary.mask is not None
        room = limits.length - len(text) - len(vocabulary.begin) - len(vocabulary.end) - self._modes
        if room < 0:
            raise limits.too_long(len(text))
        left, right, cut = fit(left, right, room)
        row = concatenated(vocabulary.begin, left, text, right, vocabulary.end)
        place, first = np.arange(len(row)), len(vocabulary.begin) + len(left)
        word = place if vocabulary.starts_word is None else np.cumsum(vocabulary.starts_word[row])
        examples = []
        for target in range(first, first + len(text)):
            hidden = (place >= target) & (word == word[target])
            weights = (place == target).astype(np.float32)
            tokens = np.where(hidden, vocabulary.mask, row).astype(np.int32)
            examples.append(self._with_mode(Example(tokens, row, weights, np.zeros(len(row), np.int32)), vocabulary))
        return ScoringExamples(examples, cut)

    def rolling(self, text: Tokens, vocabulary: Vocabulary, limits: Limits) -> ScoringExamples:
        """Every token once, in disjoint windows, of which the last one has as much context before it as fits."""
        size = limits.length - self._modes - len(vocabulary.begin) - len(vocabulary.end)
        if size < 1:
            raise limits.too_long(1)
        windows = []
        for start in range(0, len(text), size):
            end = min(start + size, len(text))
            context = text[max(0, end - size) : start]
            windows.append(self.scored(context, text[start:end], text[:0], vocabulary, limits))
        return together(windows)

    def read(self, tokens: Tokens, vocabulary: Vocabulary, encoder_decoder: bool) -> Example:
        return self._with_mode(reading(tokens, both_sides=True), vocabulary)

    def sample(self, ids: Sequence[int], word_starts: Sequence[int]) -> SampleRequest:
        """A word of a single token, if there is one behind the first third."""
        first = word_starts[len(word_starts) // 3]
        place = next((a for a, b in pairwise(word_starts) if b == a + 1 and a >= first), first)
        return SampleRequest("fill", place, place + 1)
