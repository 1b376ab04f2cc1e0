"""Attention heads: scores that tell known types apart, and one head taken apart."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from research import objectives
from research.errors import InputError
from research.inference.language_model import Inside, LanguageModel
from research.objectives import Example

Scores = Float[np.ndarray, "layers heads"]


def previous_token(weights: Float[np.ndarray, "layers heads queries keys"]) -> Scores:
    """How much attention goes to the place just before, on average over all places but the first."""
    return np.diagonal(weights, offset=-1, axis1=2, axis2=3).mean(axis=-1)


def twice(lm: LanguageModel, length: int = 24, seed: int = 0) -> Example:
    """Random tokens, no two alike, read twice from left to right. Raises InputError for an encoder-decoder."""
    if lm.config.encoder_depth:
        raise InputError("induction is of models that read and write in one stack; this is an encoder-decoder")
    once = np.random.default_rng(seed).choice(lm.tokenizer.vocabulary.ordinary, length, replace=False)
    return objectives.reading(np.tile(once, 2).astype(np.int32), both_sides=False)


def induction(lm: LanguageModel, length: int = 24, sequences: int = 4) -> Scores:
    """Induction heads find what followed the last time (Olsson et al. 2022): where random tokens are read for the
    second time, how much attention goes, on average, to the token after the first occurrence. For an encoder-decoder
    see `twice`."""
    scores = []
    for seed in range(sequences):
        weights = lm.look(twice(lm, length, seed)).attention
        scores.append(np.diagonal(weights, offset=1 - length, axis1=2, axis2=3)[..., 1:].mean(axis=-1))
    return np.mean(scores, axis=0)


def strongest(scores: Scores, count: int = 3) -> list[tuple[int, int, float]]:
    """The heads with the largest scores: (layer, head, score)."""
    order = np.argsort(-scores, axis=None)[:count]
    pairs = zip(*np.unravel_index(order, scores.shape), strict=True)
    return [(int(layer), int(head), float(scores[layer, head])) for layer, head in pairs]


@dataclass(frozen=True)
class OneHead:
    """What one head does at one place, step by step."""

    query: Float[np.ndarray, " head"]
    keys: Float[np.ndarray, "places head"]
    products: Float[np.ndarray, " places"]  # scaled products of the query with each key
    weights: Float[np.ndarray, " places"]  # their softmax over the places that are seen
    values: Float[np.ndarray, "places head"]
    result: Float[np.ndarray, " head"]  # the values, averaged with the weights


def one_head(lm: LanguageModel, inside: Inside, layer: int, head: int, place: int) -> OneHead:
    """Recomputes a head from its queries, keys and values.

    Raises:
      InputError: for relative positions, whose bias is added to the products.
    """
    if lm.config.positions.kind == "relative":
        raise InputError("with relative positions, attention is more than products of queries and keys")
    group = head // (lm.config.attention.heads // lm.config.attention.kv_heads)
    query, keys, values = inside.query[layer, head, place], inside.key[layer, group], inside.value[layer, group]
    products = keys @ query * lm.config.attention.scale
    seen = inside.attention[layer, head, place] > 0
    exponentials = np.where(seen, np.exp(products - products[seen].max()), 0)
    weights = exponentials / exponentials.sum()
    return OneHead(query, keys, products, weights, values, weights @ values)
