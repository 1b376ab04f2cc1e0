"""Small models and small packed batches for the tests of models."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from research import config, models
from research.config import MLP, Attention, Head, Model, replace_fields
from research.objectives import Batch, Example, row, stack

BASE = Model(
    vocabulary=64, width=16, depth=2, attention=Attention(heads=4, kv_heads=2), mlp=MLP(width=24), head=Head(tied=False)
)
POSITIONS = ("learned", "rope", "relative", "none")


def model(length: int = 24, **changes: Any) -> Model:
    """A resolved model for rows of `length`."""
    return config.resolve(replace_fields(BASE, changes), 64, length)


init = jax.jit(models.init, static_argnums=0)
hidden = jax.jit(models.hidden, static_argnums=0)
logits = jax.jit(models.logits, static_argnums=0)


def parameters(model: Model) -> models.Params:
    """Random, with scales that are not 1 and biases that are not 0; in NumPy, since compiling `init` takes long."""
    random = np.random.default_rng(0)

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        mean, deviation = {"scale": (1, 0.1), "bias": (0, 0.1), "embedding": (0, 1)}.get(path[-1].key, (0, 0.35))
        return random.normal(mean, deviation, leaf.shape).astype(np.float32)

    shapes = jax.eval_shape(lambda: models.init(model, jax.random.key(0)))
    return jax.tree_util.tree_map_with_path(draw, shapes)


def example(
    random: np.random.Generator, places: int, kind: str = "causal", source: int | None = None, vocabulary: int = 64
) -> Example:
    """Random tokens with the levels of a kind: "causal", "masked", or "prefix:N" with N places that see each other."""
    prefix = {"causal": 1, "masked": places}.get(kind) or int(kind.partition(":")[2])
    levels = np.maximum(np.arange(places) - prefix + 1, 0).astype(np.int32)
    tokens, targets = random.integers(0, vocabulary, (2, places)).astype(np.int32)
    read = None if source is None else random.integers(0, vocabulary, source).astype(np.int32)
    return Example(tokens, targets, np.ones(places, np.float32), levels, read)


def batch(rows: Sequence[Sequence[Example]], length: int, source_length: int | None = None) -> Batch:
    """Each row holds its examples as segments, then padding."""
    return stack([row(examples, length, source_length) for examples in rows])


def random_batch(seed: int, rows: int, length: int) -> Batch:
    """Rows of documents of random lengths and kinds, usually with padding at the end."""
    random = np.random.default_rng(seed)
    filled = []
    for _ in range(rows):
        examples: list[Example] = []
        room = length - int(random.integers(0, 4))
        while room > 0:
            places = int(random.integers(1, min(room, length // 2) + 1))
            kind = str(random.choice(["causal", "masked", f"prefix:{random.integers(1, places + 1)}"]))
            examples.append(example(random, places, kind))
            room -= places
        filled.append(examples)
    return batch(filled, length)
