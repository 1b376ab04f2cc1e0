"""Training objectives: pure functions from one document and a key to one `Example`, on the host, in NumPy alone."""

from collections.abc import Iterable

import numpy as np

from research import config
from research.errors import InputError
from research.objectives import causal, masked, span_corruption
from research.objectives.batch import Batch, Example, Vocabulary, join, reading, row, stack

__all__ = [
    "Batch",
    "Example",
    "Vocabulary",
    "causal_only",
    "example",
    "join",
    "overlap",
    "places",
    "reading",
    "require",
    "row",
    "stack",
    "with_mode",
]


def example(
    objective: config.Objective,
    parts: tuple[np.ndarray, ...],
    key: tuple[int, ...],
    vocabulary: Vocabulary,
    encoder_decoder: bool,
) -> Example:
    """What a model is shown of one piece of a document.

    Args:
      objective: which; its `weight` is in the weights of the result.
      parts: one array of tokens, int32 `[n]`; two for pairs: input and output.
      key: integers; the same key gives the same example.
      vocabulary: special ids, as far as the objective needs them (see `require`).
      encoder_decoder: whether inputs go to a source side.
    """
    start = (vocabulary.bos or 0) if encoder_decoder else None
    match objective:
        case config.Instruction() if len(parts) == 2:
            shown = causal.answer(*parts)
        case config.Causal():
            shown = causal.example(parts[0])
        case config.Masked(mask_rate=rate, whole_words=whole_words):
            shown = masked.example(parts[0], key, vocabulary, rate, whole_words)
        case config.Prefix():
            shown = causal.prefix_example(parts[0], key, start)
        case config.SpanCorruption(noise_rate=rate, mean_span=span):
            shown = span_corruption.example(parts[0], key, vocabulary, rate, span, start)
        case config.TextToText():
            shown = join(parts[0], parts[1], start)
    if objective.mode is not None:
        shown = with_mode(shown, vocabulary.modes[objective.mode])
    return shown if objective.weight == 1 else shown._replace(weights=shown.weights * np.float32(objective.weight))


def causal_only(objectives: Iterable[config.Objective], encoder_decoder: bool) -> bool:
    """Whether no place of any row (on the target side, in an encoder-decoder) ever sees one behind it."""
    # a mode and the first token see each other
    alone = (isinstance(objective, config.Causal) and objective.mode is None for objective in objectives)
    return encoder_decoder or all(alone)


def overlap(objective: config.Objective) -> int:
    """How many tokens two neighbouring pieces of a long document share, so that each token is predicted once."""
    return 1 if isinstance(objective, config.Causal | config.Prefix) else 0


def places(objective: config.Objective, tokens: int, encoder_decoder: bool) -> tuple[int, int]:
    """Places that a piece of so many tokens takes at most in a row, and on the source side. Grows with `tokens`."""
    mode = objective.mode is not None
    match objective:
        case config.Causal():
            sides = tokens - 1, 0
        case config.Masked():
            sides = tokens, 0
        case config.Prefix():
            sides = (tokens - 1,) * 2 if encoder_decoder else (tokens - 1, 0)
        case config.SpanCorruption(noise_rate=rate, mean_span=span):
            hidden, spans = span_corruption.counts(max(tokens, 2), rate, span)
            inputs, outputs = max(tokens, 2) - hidden + spans + 1, hidden + spans + 1
            sides = (outputs, inputs) if encoder_decoder else (inputs + outputs - 1, 0)
        case config.TextToText():
            raise TypeError("a pair has two lengths: its places are those of `join`")
    return (sides[0], sides[1] + mode) if encoder_decoder else (sides[0] + mode, 0)


def require(objective: config.Objective, vocabulary: Vocabulary, length: int) -> None:
    """Raises InputError if the tokenizer lacks a token that the objective needs for pieces of up to `length` tokens."""
    missing = None
    match objective:
        case config.Masked(whole_words=whole_words):
            missing = "a mask token" if vocabulary.mask is None else missing
            missing = "marks of word beginnings" if whole_words and vocabulary.starts_word is None else missing
        case config.SpanCorruption(noise_rate=rate, mean_span=span):
            _, spans = span_corruption.counts(max(length, 2), rate, span)
            if spans > len(vocabulary.sentinels):
                missing = f"{spans} sentinels for length {length} (it has {len(vocabulary.sentinels)})"
    if objective.mode is not None and objective.mode not in vocabulary.modes:
        missing = f"the mode token {objective.mode!r}"
    if missing:
        raise InputError(f"objective {objective.name!r}: the tokenizer lacks {missing}")


def with_mode(shown: Example, mode: int) -> Example:
    """The mode's token goes before what is read first: the source where there is one, else the row."""
    token = np.array([mode], np.int32)
    if shown.source is not None:
        return shown._replace(source=np.concatenate([token, shown.source]))
    return Example(  # the mode and the first token see each other; neither place is trained to predict what it sees
        tokens=np.concatenate([token, shown.tokens]),
        targets=np.concatenate([shown.tokens[:1], shown.targets]),
        weights=np.concatenate([np.zeros(1, np.float32), shown.weights]),
        levels=np.concatenate([np.zeros(1, np.int32), shown.levels]),
    )
