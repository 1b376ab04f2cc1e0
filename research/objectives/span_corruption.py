"""Span corruption (Raffel et al. 2020, section 3.1.4), as `random_spans_noise_mask` of the T5 code draws it."""

import numpy as np

from research.objectives.batch import Example, Vocabulary, join


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


def example(
    piece: np.ndarray,
    key: tuple[int, ...],
    vocabulary: Vocabulary,
    noise_rate: float,
    mean_span: float,
    start: int | None,
) -> Example:
    """`piece` without its special tokens, corrupted; input and output each end with the end-of-document token, if there
    is one. For `start`, see `join`. A piece of fewer than two ordinary tokens is read but not trained on."""
    text = piece[~vocabulary.is_special[piece]]
    end = np.array([vocabulary.eos] if vocabulary.eos is not None else [], piece.dtype)
    if len(text) < 2:
        short = join(piece, piece[-1:], start)
        return short._replace(weights=np.zeros_like(short.weights))
    inputs, outputs = corrupt(text, noise_mask(len(text), key, noise_rate, mean_span), vocabulary.sentinels)
    return join(np.concatenate([inputs, end]), np.concatenate([outputs, end]), start)


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
