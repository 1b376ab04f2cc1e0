"""The options of the training objectives."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Stream:
    """What every objective has: where its documents come from and how much they count."""

    name: str  # in metrics and results
    rate: float = 1.0  # share of the rows of a batch, relative to the other objectives
    weight: float = 1.0  # factor on the loss of its tokens
    source: str | None = None  # where its documents come from; None: data.source
    mode: str | None = None  # a token put before every example to name the objective (UL2)


@dataclass(frozen=True, kw_only=True)
class Causal(Stream):
    """Predict each token from those before it (GPT-2)."""

    name: str = "causal"  # in metrics and results


@dataclass(frozen=True, kw_only=True)
class Instruction(Causal):
    """Predict the answers of conversations, from what precedes them (a source `chat:GLOB`)."""

    name: str = "instruction"  # in metrics and results


@dataclass(frozen=True, kw_only=True)
class Masked(Stream):
    """Predict hidden tokens from both sides (BERT): of the chosen tokens 80 % become the mask, 10 % a random token,
    10 % stay; another choice every epoch."""

    name: str = "masked"  # in metrics and results
    mask_rate: float = 0.15  # share of tokens to predict
    whole_words: bool = False  # choose all pieces of a word together


@dataclass(frozen=True, kw_only=True)
class Prefix(Stream):
    """Predict the rest of a document from a prefix that is seen from both sides; the split is uniformly random."""

    name: str = "prefix"  # in metrics and results


@dataclass(frozen=True, kw_only=True)
class SpanCorruption(Stream):
    """Replace random spans by sentinels in the input; predict the spans (T5, section 3.1.4)."""

    name: str = "span_corruption"  # in metrics and results
    noise_rate: float = 0.15  # share of tokens to hide
    mean_span: float = 3.0  # mean number of tokens in a hidden span


@dataclass(frozen=True, kw_only=True)
class TextToText(Stream):
    """Predict the second field of a pair from the first (T5's "translate English to French: …")."""

    name: str = "text_to_text"  # in metrics and results
    prefix: str = ""  # text put before every input


Objective = Causal | Instruction | Masked | Prefix | SpanCorruption | TextToText
