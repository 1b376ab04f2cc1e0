"""`Objective`: what a model is trained to predict, and how it is asked afterwards.

An objective is one class in one file. A new one derives from `Objective`, has a `name`, and implements `_example` and
`_places`; everything else has a default: a prompt is the input of `join`, and the text to be scored or generated is its
output. No other room asks which objective it has.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from research.errors import InputError
from research.objectives.batch import Example, Vocabulary, join
from research.objectives.prompts import Limits, ScoringExamples, Tokens, concatenated, together

Request = Literal["continuation", "rolling", "infill", "fill", "generation"]  # see `research/inference/requests.py`
Visibility = Literal["causal", "bidirectional", "prefix"]


class SpecialTokens(NamedTuple):
    """What an objective needs of a tokenizer."""

    mask: bool = False  # a token that hides another
    sentinels: int = 0  # tokens that stand for spans
    eos: bool = False  # outputs end with it, where the tokenizer has it or can be extended
    word_starts: bool = False  # it is known which tokens begin a word
    modes: tuple[str, ...] = ()  # the token of this name


class SampleRequest(NamedTuple):
    """What to ask of a model for a sample: the tokens from `start` to `end` of a document are taken out, and predicted
    by a generation (from what precedes `start`), an infill or a fill."""

    request: Request
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What every objective has: where its documents come from, how much they count, and what is known of its class."""

    name: str  # in metrics and results
    rate: float = 1.0  # share of the rows of a batch, relative to the other objectives
    weight: float = 1.0  # factor on the loss of its tokens
    source: str | None = None  # where its documents come from; None: data.source
    mode: str | None = None  # a token put before every example to name the objective (UL2)

    parts: ClassVar[int] = 1  # 1: its sources have documents, 2: pairs of an input and an output
    overlap: ClassVar[int] = 0  # tokens that neighbouring pieces of a document share, so that each is predicted once
    chunked: ClassVar[bool] = False  # a piece of n tokens takes n - overlap places: rows are cut from one stream
    keeps_input_end: ClassVar[bool] = False  # of an input that is too long for a row, the end is kept
    has_source: ClassVar[bool] = True  # an encoder-decoder can be trained on it
    visibility: ClassVar[Visibility] = "prefix"  # whom the places of a row see; prefix: the input sees itself
    answers: ClassVar[frozenset[Request]] = frozenset({"continuation", "generation"})  # requests it is trained for
    score_kind: ClassVar[Literal["exact", "pseudo"]] = "exact"  # exact: scores are probabilities of the whole text
    separate_texts: ClassVar[bool] = False  # input and output are texts of their own, not parts of one
    preference: ClassVar[int] = 100  # of several objectives that answer a request, the lowest is asked

    # What a new objective implements.

    def _example(
        self, parts: tuple[np.ndarray, ...], key: tuple[int, ...], vocabulary: Vocabulary, start: int | None
    ) -> Example:
        """The example of one piece of a document, without mode and weight; see `example`. `start` is what the decoder
        of an encoder-decoder reads first (see `join`), or None."""
        raise NotImplementedError(f"{type(self).__name__}._example")

    def _places(self, sizes: tuple[int, ...], encoder_decoder: bool) -> tuple[int, int]:
        """See `places`, without the mode. Pairs have those of `join`."""
        if len(sizes) != 2:
            raise NotImplementedError(f"{type(self).__name__}._places")
        inputs, outputs = sizes
        return (outputs, inputs) if encoder_decoder else (inputs + outputs - 1, 0)

    # Training.

    def example(
        self, parts: tuple[np.ndarray, ...], key: tuple[int, ...], vocabulary: Vocabulary, encoder_decoder: bool
    ) -> Example:
        """What a model is shown of one piece of a document.

        Args:
          parts: one array of tokens, int32 `[n]`; two for pairs: input and output.
          key: integers; the same key gives the same example.
          vocabulary: special ids, as far as the objective needs them (see `require`).
          encoder_decoder: whether inputs go to a source side.
        """
        shown = self._example(parts, key, vocabulary, vocabulary.start if encoder_decoder else None)
        shown = self._with_mode(shown, vocabulary)
        return shown if self.weight == 1 else shown._replace(weights=shown.weights * np.float32(self.weight))

    def places(self, sizes: tuple[int, ...], encoder_decoder: bool) -> tuple[int, int]:
        """Places that a piece whose parts have these sizes takes at most in a row, and on the source side. Grows with
        each size."""
        target, source = self._places(sizes, encoder_decoder)
        return (target, source + self._modes) if encoder_decoder else (target + self._modes, 0)

    def needs(self, longest: int) -> SpecialTokens:
        """The special tokens it needs for pieces of up to `longest` tokens."""
        return SpecialTokens(modes=() if self.mode is None else (self.mode,))

    def require(self, vocabulary: Vocabulary, longest: int) -> None:
        """Raises InputError if the tokenizer lacks a token that pieces of up to `longest` tokens need."""
        needs, missing = self.needs(longest), None
        if needs.mask and vocabulary.mask is None:
            missing = "a mask token"
        elif needs.word_starts and vocabulary.starts_word is None:
            missing = "marks of word beginnings"
        elif needs.sentinels > (found := len(vocabulary.sentinels)):
            missing = f"{needs.sentinels} sentinels for length {longest} (it has {found})"
        for mode in needs.modes:
            missing = missing if mode in vocabulary.modes else f"the mode token {mode!r}"
        if missing:
            raise InputError(f"objective {self.name!r}: the tokenizer lacks {missing}")

    def problems(self) -> list[tuple[str, str]]:
        """The fields whose values are out of range, each with what is wrong."""
        rules = {"rate": self.rate, "weight": self.weight}
        return [(field, f"{value} must be positive") for field, value in rules.items() if not value > 0]

    def is_causal(self, encoder_decoder: bool) -> bool:
        """Whether no place of a row (on the target side, in an encoder-decoder) ever sees one behind it."""
        # a mode and the first token see each other
        return encoder_decoder or (self.visibility == "causal" and self.mode is None)

    # Asking a trained model.

    @property
    def input_prefix(self) -> str:
        """Text put before every input."""
        return ""

    @property
    def prompted_as(self) -> type["Objective"]:
        """Objectives that agree in it are put a prompt in the same way, so that one of them is enough."""
        return type(self)

    def scored(
        self, left: Tokens, text: Tokens, right: Tokens, vocabulary: Vocabulary, limits: Limits
    ) -> ScoringExamples:
        """The examples whose places of positive weight predict `text`, which stands between `left` and `right`
        (nothing, for a continuation). What does not fit is cut off from the left, as in lm-evaluation-harness.

        Raises:
          InputError: if the text itself does not fit.
        """
        if len(context := self._context(left, vocabulary)):
            return self._continued(context, text, vocabulary, limits)
        if len(text) == 1:
            return ScoringExamples([], 0, 1)
        return self._continued(text[:1], text[1:], vocabulary, limits)._replace(truncated=0, unscored=1)

    def rolling(self, text: Tokens, vocabulary: Vocabulary, limits: Limits) -> ScoringExamples:
        """Every token of a text of any length once, in disjoint windows. A window has one token of context, the last
        one as many as fit; a model with an encoder reads those there."""
        size = limits.length - self._modes
        if size < 1:
            raise limits.too_long(1)
        windows = []
        for start in range(0, len(text), size):
            end = min(start + size, len(text))
            context, window = text[max(0, end - size - 1) : start], text[start:end]
            if start == 0:
                windows.append(self.scored(context, window, text[:0], vocabulary, limits))
            else:
                windows.append(self._continued(context, window, vocabulary, limits))
        return together(windows)

    def prompt(
        self, left: Tokens, right: Tokens, new_tokens: int, vocabulary: Vocabulary, limits: Limits
    ) -> tuple[Example, int]:
        """What a model reads before it writes so many new tokens between `left` and `right`, and how many tokens were
        cut off. Its last place predicts the first new one.

        Raises:
          InputError: if the new tokens alone are longer than the model, or if nothing at all precedes them.
        """
        asked = self.scored(left, np.zeros(new_tokens, np.int32), right, vocabulary, limits)
        if asked.unscored:
            raise InputError("an empty prompt: this tokenizer has no token that begins a document")
        (example,) = asked.examples
        read = int(np.argmax(example.weights > 0)) + 1
        tokens, targets, weights, levels = (array[:read] for array in example[:4])
        return Example(tokens, targets, weights, levels, example.source), asked.truncated

    def ends(self, vocabulary: Vocabulary) -> list[int]:
        """Tokens with which what a model writes ends."""
        return list(vocabulary.stops) or vocabulary.end

    def read(self, tokens: Tokens, vocabulary: Vocabulary, encoder_decoder: bool) -> Example:
        """A whole document as a model reads it, with nothing hidden: where there is an encoder, there."""
        start = vocabulary.start if encoder_decoder else None
        return self._with_mode(join(tokens, np.zeros(1, np.int32), start), vocabulary)

    def sample(self, ids: Sequence[int], word_starts: Sequence[int]) -> SampleRequest:
        """What to ask for a sample of a model, given a document and where its words begin (at least one place)."""
        return SampleRequest("generation", word_starts[len(word_starts) // 3], len(ids))

    # Parts of the above that differ between objectives of one family.

    def _context(self, left: Tokens, vocabulary: Vocabulary) -> Tokens:
        """What stands before a continuation."""
        return concatenated(vocabulary.begin, left) if len(left) else concatenated(vocabulary.begin or vocabulary.end)

    def _join(self, inputs: Tokens, outputs: Tokens, start: int | None) -> Example:
        return join(inputs, outputs, start)

    def _continued(self, context: Tokens, text: Tokens, vocabulary: Vocabulary, limits: Limits) -> ScoringExamples:
        """The text after a context: of both together the last `length` + 1 tokens, the last of which is only
        predicted."""
        cut = max(0, len(context) - limits.inputs(len(text), self._modes))
        return ScoringExamples([self._output(context[cut:], context[:0], text, vocabulary, limits)], cut)

    def _output(
        self, inputs: Tokens, before: Sequence[int] | Tokens, text: Tokens, vocabulary: Vocabulary, limits: Limits
    ) -> Example:
        """An example whose last places predict the text, given the inputs and what stands before it in the output."""
        start = vocabulary.start if limits.encoder_decoder else None
        shown = self._with_mode(self._join(inputs, concatenated(before, text), start), vocabulary)
        weights = np.zeros(len(shown.tokens), np.float32)
        weights[-len(text) :] = 1
        return shown._replace(weights=weights)

    @property
    def _modes(self) -> int:
        """How many tokens say the mode."""
        return int(self.mode is not None)

    def _with_mode(self, shown: Example, vocabulary: Vocabulary) -> Example:
        """The mode's token goes before what is read first: the source where there is one, else the row."""
        if self.mode is None:
            return shown
        token = np.array([vocabulary.modes[self.mode]], np.int32)
        if shown.source is not None:
            return shown._replace(source=np.concatenate([token, shown.source]))
        return Example(  # the mode and the first token see each other; neither is trained to predict what it sees
            tokens=np.concatenate([token, shown.tokens]),
            targets=np.concatenate([shown.tokens[:1], shown.targets]),
            weights=np.concatenate([np.zeros(1, np.float32), shown.weights]),
            levels=np.concatenate([np.zeros(1, np.int32), shown.levels]),
        )
