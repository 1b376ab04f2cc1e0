"""A tiny model with a tokenizer of bytes, as an evaluation sees it."""

from typing import Any

import jax
import numpy as np

from research import config, models
from research.config import replace_fields
from research.data import tokenizers
from research.data.tokenizer_backends import Bytes
from research.inference.language_model import LanguageModel
from research.inference.prompting import PromptFormat
from research.objectives import Example, row, stack
from tests.models import tiny

OBJECTIVES = (config.Causal(), config.Prefix(), config.TextToText(), config.SpanCorruption(), config.Masked())
TOKENIZER = tokenizers.extend(tokenizers.load("bytes"), OBJECTIVES)


class Words(Bytes):
    """Bytes that know where a word begins."""

    def word_beginnings(self) -> np.ndarray:
        return np.arange(256) == ord(" ")


_logits = jax.jit(models.logits, static_argnums=0)


def model(length: int = 64, **changes: Any) -> LanguageModel:
    """Random parameters that predict far from uniformly."""
    resolved = config.resolve(replace_fields(tiny.BASE, {"vocabulary": 0, **changes}), TOKENIZER.size, length)
    return LanguageModel(resolved, tiny.parameters(resolved), TOKENIZER, OBJECTIVES)


def prompt_format(objective: config.Objective, length: int = 64, source_length: int | None = None) -> PromptFormat:
    return PromptFormat(objective, TOKENIZER, length, source_length)


def alone(model: LanguageModel, example: Example) -> np.ndarray:
    """The log-probabilities of the scored places of an example, computed by itself in the plainest way."""
    batch = stack([row([example], 64, None if example.source is None else 64)])
    logits = np.asarray(_logits(model.config, model.params, batch))[0]
    places = np.flatnonzero(example.weights > 0)
    return np.asarray(jax.nn.log_softmax(logits[places]))[np.arange(len(places)), example.targets[places]]
