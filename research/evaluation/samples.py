"""What a model says, one sample for each thing that it was trained to do: for a look at the end of a run."""

from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from research.config import Causal, Masked, Objective, SpanCorruption
from research.data import Corpus
from research.evaluation.generation import Sampling
from research.lm import MASK, LanguageModel

SHOWN = 40  # tokens of a held-out document
CONTINUED = Sampling(tokens=60, temperature=0.7, top_k=40)
INFILLED = Sampling(tokens=16)
PLAIN, GIVEN, MADE = "", "dim", "bold green"


class Sample(NamedTuple):
    """Pieces of text, each with a style: what was given, and what the model made of it."""

    objective: str
    pieces: list[tuple[str, str]]


def samples(lm: LanguageModel, corpus: Corpus) -> list[Sample]:
    """One sample for each objective, from the beginning of a held-out document."""
    return [Sample(objective.name, _sample(lm, objective, _document(corpus, objective))) for objective in lm.objectives]


def show(samples: list[Sample]) -> Group:
    """For a terminal."""
    parts: list[RenderableType] = []
    for sample in samples:
        text = Text.assemble(*sample.pieces)
        parts += [Text(f"\n{sample.objective}", style="bold"), Padding(text, (0, 0, 0, 2))]
    return Group(*parts)


def _sample(lm: LanguageModel, objective: Objective, ids: list[int]) -> list[tuple[str, str]]:
    def text(begin: int, end: int | None = None) -> str:
        return lm.tokenizer.decode(ids[begin:end])

    third = len(ids) // 3
    if isinstance(objective, Masked):
        left, right = text(0, third), text(third + 1)
        candidates = lm.fill(left + MASK + right)[0]
        listed = ", ".join(f"{candidate.token!r} {candidate.probability:.2f}" for candidate in candidates)
        shown = [(left, GIVEN), (MASK, PLAIN), (right, GIVEN), ("\n→ ", PLAIN), (listed, MADE)]
        return [*shown, (f" (there stood {lm.tokenizer.pieces(ids[third : third + 1])[0]!r})", PLAIN)]
    if isinstance(objective, SpanCorruption):
        left, right = text(0, third), text(third + 4)
        made = lm.infill(left, right, INFILLED)
        return [
            (left, GIVEN),
            (f"[{made}]", MADE),
            (right, GIVEN),
            (f" (there stood {text(third, third + 4)!r})", PLAIN),
        ]
    prompt = text(0, third) if isinstance(objective, Causal) else text(0)
    return [(prompt, GIVEN), (str(lm.generate(prompt, CONTINUED)), MADE)]


def _document(corpus: Corpus, objective: Objective) -> list[int]:
    """The first tokens of a held-out document that has enough of them, without special ones."""
    store, first, last = corpus.held_out_plans[objective.name].documents
    special = corpus.vocabulary.special
    for document in range(first, last):
        ids = [int(i) for i in store.part(document, 0, 0, SHOWN + 1) if int(i) not in special]
        if len(ids) >= SHOWN // 2:
            return ids
    return ids
