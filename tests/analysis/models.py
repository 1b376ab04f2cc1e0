"""A small language model with random parameters, for the tests of analysis."""

from typing import Any

from research import config
from research.config import Causal, Masked, Model, SpanCorruption, replace_fields
from research.data import tokenizers
from research.inference.language_model import LanguageModel
from tests.models import tiny

OBJECTIVES = (Causal(), Masked(), SpanCorruption())
TEXT = "the cat sat on the mat"


def language_model(**changes: Any) -> LanguageModel:
    tokenizer = tokenizers.extend(tokenizers.load("bytes"), OBJECTIVES)
    sizes = {"width": 16, "depth": 2, "attention.heads": 4, "attention.kv_heads": 2, "mlp.width": 24} | changes
    model = config.resolve(replace_fields(Model(), sizes), tokenizer.size, 128)
    return LanguageModel(model, tiny.parameters(model), tokenizer, OBJECTIVES)
