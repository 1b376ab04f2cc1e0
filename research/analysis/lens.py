"""The logit lens (nostalgebraist 2020): what the model would say if its last layers were left out."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from research.errors import InputError
from research.inference.language_model import LanguageModel


@dataclass(frozen=True)
class Lens:
    """For every layer, and every place of a text but the last."""

    read: list[str]
    following: list[str]  # what really follows
    best: list[list[str]]  # the most probable next token, by layer and place
    probability: Float[np.ndarray, "layers places"]  # of the most probable one
    loss: Float[np.ndarray, "layers places"]  # of what really follows, nats


def lens(lm: LanguageModel, text: str) -> Lens:
    """Reads a text from left to right. Raises InputError if the model was not trained with a causal objective."""
    causal = [objective.name for objective in lm.objectives if objective.visibility == "causal"]
    if not causal:
        raise InputError("the lens reads what a causal model would say next; this one was not trained with Causal")
    example = lm.example(text, causal[0])
    logits = lm.lens(example)
    log_probabilities = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    best = log_probabilities.argmax(axis=-1)
    own = np.take_along_axis(log_probabilities, example.targets[None, :, None], axis=-1)[..., 0]
    return Lens(
        read=lm.tokenizer.pieces(example.tokens),
        following=lm.tokenizer.pieces(example.targets),
        best=[lm.tokenizer.pieces(row) for row in best],
        probability=np.exp(log_probabilities.max(axis=-1)),
        loss=-own,
    )
