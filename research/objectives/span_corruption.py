"""Span corruption (Raffel et al. 2020, section 3.1.4), as `random_spans_noise_mask` of the T5 code draws it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from research.objectives.base import Objective, Request, SampleRequest, SpecialTokens
from research.objectives.batch import Example, Vocabulary, join
from research.objectives.prompts import Limits, ScoringExamples, Tokens, concatenated, fit

SAMPLED_WORDS = 2  # that a sample hides


@dataclass(frozen=True, kw_only=True)
class SpanCorruption(Objective):
    """Replace random spans by sentinels in the input; predict the spans (T5, section 3.1.4)."""

    name: str = "span_corruption"  # in metrics and results
    noise_rate: float = 0.15  # share of tokens to hide
    mean_span: float = 3.0  # mean number of tokens in a hidden span

    answers: ClassVar[frozenset[Request]] = frozenset({"continuation", "infill"})
    preference: ClassVar[int] = 3

    def _example(
        self, parts: tuple[np.ndarray, ...], key: tuple[int, ...], vocabulary: Vocabulary, start: int | None
    ) -> Example:
        """A piece without its special tokens, corrupted; input and output each end with the end-of-document token, if
        there is one. A piece of fewer than two ordinary tokens is read but not trained on."""
        (piece,) = parts
        text = piece[~vocabulary.is_special[piece]]
        end = np.array(vocabulary.end, piece.dtype)
        if len(text) < 2:
            short = join(piece, piece[-1:], start)
            return short._replace(weights=np.zeros_like(short.weights))
        mask = noise_mask(len(text), key, self.noise_rate, self.mean_span)
        inputs, outputs = corrupt(text, mask, vocabulary.sentinels)
        return join(np.concatenate([inputs, end]), np.concatenate([outputs, end]), start)

    def _places(self, sizes: tuple[int, ...], encoder_decoder: bool) -> tuple[int, int]:
        tokens = max(sizes[0], 2)
        hidden, spans = counts(tokens, self.noise_rate, self.mean_span)
        inputs, outputs = tokens - hidden + spans + 1, hidden + spans + 1
        return (outputs, inputs) if encoder_decoder else (inputs + outputs - 1, 0)

    def needs(self, longest: int) -> SpecialTokens:
        spans = counts(max(longest, 2), self.noise_rate, self.mean_span)[1]
        return super().needs(longest)._replace(sentinels=spans, eos=True)

    def problems(self) -> list[tuple[str, str]]:
        wrong = super().problems()
        if not 0 < self.noise_rate < 1:
            wrong.append(("noise_rate", f"{self.noise_rate} is not between 0 and 1"))
        if not self.mean_span >= 1:
            wrong.append(("mean_span", f"{self.mean_span} must be at least 1"))
        return wrong

    def scored(
        self, left: Tokens, text: Tokens, right: Tokens, vocabulary: Vocabulary, limits: Limits
    ) -> ScoringExamples:
        """The text is the span behind a sentinel, which stands where the text belongs."""
        sentinel = vocabulary.sentinels[:1]
        room = limits.inputs(1 + len(text), self._modes) - 1 - len(vocabulary.end)
        if room < 0:
            raise limits.too_long(0)
        left, right, cut = fit(left, right, room)
        inputs = concatenated(left, sentinel, right, vocabulary.end)
        return ScoringExamples([self._output(inputs, sentinel, text, vocabulary, limits)], cut)

    def ends(self, vocabulary: Vocabulary) -> list[int]:
        return [*super().ends(vocabulary), *vocabulary.sentinels[1:]]  # the next span begins with its sentinel

    def sample(self, ids: Sequence[int], word_starts: Sequence[int]) -> SampleRequest:
        first = len(word_starts) // 3
        last = min(first + SAMPLED_WORDS, len(word_starts) - 1)
        return SampleRequest("infill", word_starts[first], word_starts[last])


def counts(length: int, noise_rate: float, mean_span: float) -> tuple[int, int]:
    """Hidden tokens and spans in a text of `length` >= 2 tokens; both follow from the length alone."""
    hidden = min(max(round(length * noise_rate), 1), length - 1)
    spans = min(max(round(hidden / mean_span), 1), hidden, length - hidden)
    return hidden, spans


def noise_mask(length: int, key: tuple[int, ...], noise_rate: float, mean_span: float) -> np.ndarray:
    """Bool [length]: alternating runs of kept and hidden tokens that begin with a kept and end with a hidden one."""
    random = np.random.default_rng(key)
    hidden, spans = counts(length, noise_rate, mean_span)
    kept_runs, hidden_runs = _partition(random, length - hidden, spans), _partition(random, hidden, spans)
    runs = np.stack([kept_runs, hidden_runs], axis=1).reshape(-1)
    return np.repeat(np.arange(2 * spans) % 2 == 1, runs)


def corrupt(text: np.ndarray, mask: np.ndarray, sentinels: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Input and output: each hidden run is one sentinel in the input, each kept run one sentinel in the output, and so
    is the beginning, where the first token is hidden."""
    begins = int(mask[0])
    outputs = [np.array(sentinels[:begins], text.dtype), _collapse(text, ~mask, sentinels[begins:])]
    return _collapse(text, mask, sentinels), np.concatenate(outputs)


def fill(inputs: np.ndarray, outputs: np.ndarray, sentinels: tuple[int, ...]) -> np.ndarray:
    """The inverse of `corrupt`: each sentinel of the input is replaced by what follows it in the output, up to the next
    sentinel. A sentinel that the output lacks is left out."""
    order = {sentinel: number for number, sentinel in enumerate(sentinels)}
    spans: dict[int, list[int]] = {}
    current: list[int] = []
    for token in outputs.tolist():
        current = spans.setdefault(token, []) if token in order else current
        if token not in order:
            current.append(token)
    return np.array([t for token in inputs.tolist() for t in (spans.get(token, []) if token in order else [token])])


def _partition(random: np.random.Generator, items: int, parts: int) -> np.ndarray:
    """`items` as a uniformly random sum of `parts` positive integers."""
    cuts = np.full(parts + 1, items)
    cuts[0], cuts[1:-1] = 0, np.sort(random.permutation(items - 1)[: parts - 1]) + 1
    return cuts[1:] - cuts[:-1]


def _collapse(text: np.ndarray, mask: np.ndarray, sentinels: tuple[int, ...]) -> np.ndarray:
    """Each run of `mask` becomes one sentinel."""
    first = mask.copy()
    first[1:] &= ~mask[:-1]
    replaced = np.where(first, np.asarray(sentinels)[np.cumsum(first) - 1], text)
    return replaced[first | ~mask].astype(text.dtype)
