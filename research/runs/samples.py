"""What a model says, one sample for each thing that it was trained to do: for a look during and after a run."""

from itertools import pairwise
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from research.config import Masked, Objective, SpanCorruption, TextToText
from research.data import Corpus
from research.inference.generation import Sampling
from research.inference.language_model import MASK, LanguageModel

SHOWN = 40  # tokens of a held-out document
CONTINUED = Sampling(tokens=60, least=40, temperature=0.6, top_k=40)
HIDDEN = 2  # words of a span
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
        return lm.tokenizer.decode(ids[:end])[len(lm.tokenizer.decode(ids[:begin])) :]  # with the space before a word

    words = _words(lm, ids)
    first = words[len(words) // 3]
    if isinstance(objective, Masked):
        whole = [a for a, b in pairwise(words) if b == a + 1 and a >= first]  # words of a single token
        place = whole[0] if whole else first
        left, right = text(0, place), text(place + 1)
        candidates = lm.fill(left + MASK + right)[0]
        listed = ", ".join(f"{candidate.token!r} {candidate.probability:.2f}" for candidate in candidates)
        shown = [(left, GIVEN), (MASK, PLAIN), (right, GIVEN), ("\n→ ", PLAIN), (listed, MADE)]
        return [*shown, (f" (there stood {lm.tokenizer.pieces(ids[place : place + 1])[0]!r})", PLAIN)]
    if isinstance(objective, SpanCorruption):
        last = words[min(len(words) // 3 + HIDDEN, len(words) - 1)]
        left, right = text(0, first), text(last)
        made = lm.infill(left, right, INFILLED, objective.name)
        return [
            (left, GIVEN),
            (f"[{made}]", MADE),
            (right, GIVEN),
            (f" (there stood {text(first, last)!r})", PLAIN),
        ]
    prompt = text(0).removeprefix(objective.prefix) if isinstance(objective, TextToText) else text(0, first)
    return [(prompt, GIVEN), (str(lm.generate(prompt, CONTINUED, objective=objective.name)), MADE)]


def _words(lm: LanguageModel, ids: list[int]) -> list[int]:
    """Where words begin; every token, if the tokenizer does not tell."""
    begins = lm.tokenizer.vocabulary.starts_word
    return [place for place, i in enumerate(ids) if begins is None or begins[i]] or [0]


def _document(corpus: Corpus, objective: Objective) -> list[int]:
    """The first tokens of a held-out document that has enough of them, without special ones."""
    store, first, last = corpus.held_out_plans[objective.name].documents
    special = corpus.vocabulary.special
    for document in range(first, last):
        ids = [int(i) for i in store.part(document, 0, 0, SHOWN + 1) if int(i) not in special]
        if len(ids) >= SHOWN // 2:
            return ids
    return ids
