"""Training objectives: pure functions from one document and a key to one `Example`, on the host, in NumPy alone."""

from collections.abc import Iterable

from research.objectives.base import Objective, Request, SampleRequest, SpecialTokens
from research.objectives.batch import Batch, Example, Vocabulary, join, reading, row, stack
from research.objectives.causal import Causal
from research.objectives.instruction import Instruction
from research.objectives.masked import Masked
from research.objectives.prefix import Prefix
from research.objectives.span_corruption import SpanCorruption
from research.objectives.text_to_text import TextToText

__all__ = [
    "SHIPPED",
    "Batch",
    "Causal",
    "Example",
    "Instruction",
    "Masked",
    "Objective",
    "Prefix",
    "Request",
    "SampleRequest",
    "SpanCorruption",
    "SpecialTokens",
    "TextToText",
    "Vocabulary",
    "causal_only",
    "join",
    "reading",
    "row",
    "stack",
]

SHIPPED: tuple[type[Objective], ...] = (Causal, Instruction, Prefix, TextToText, SpanCorruption, Masked)


def causal_only(objectives: Iterable[Objective], encoder_decoder: bool) -> bool:
    """Whether no place of any row (on the target side, in an encoder-decoder) ever sees one behind it."""
    return all(objective.is_causal(encoder_decoder) for objective in objectives)
