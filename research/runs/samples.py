"""What a model says, one sample for each thing that it was trained to do: for a look during and after a run."""

from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from research.config import Objective
from research.data import Corpus
from research.inference.generation import Sampling
from research.inference.language_model import LanguageModel
from research.inference.text_examples import MASK

SHOWN = 40  # tokens of a held-out document
CONTINUED = Sampling(tokens=60, least=40, temperature=0.6, top_k=40)
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

    asked = objective.sample(ids, _words(lm, ids))
    left, right = text(0, asked.start), text(asked.end)
    if asked.request == "fill":
        candidates = lm.fill(left + MASK + right, objective=objective.name)[0]
        listed = ", ".join(f"{candidate.token!r} {candidate.probability:.2f}" for candidate in candidates)
        shown = [(left, GIVEN), (MASK, PLAIN), (right, GIVEN), ("\n→ ", PLAIN), (listed, MADE)]
        there = "".join(lm.tokenizer.pieces(ids[asked.start : asked.end]))
        return [*shown, (f" (there stood {there!r})", PLAIN)]
    if asked.request == "infill":
        made = lm.infill(left, right, INFILLED, objective.name)
        there = f" (there stood {text(asked.start, asked.end)!r})"
        return [(left, GIVEN), (f"[{made}]", MADE), (right, GIVEN), (there, PLAIN)]
    prompt = left.removeprefix(objective.input_prefix)
    between = [("\n→ ", PLAIN)] if objective.separate_texts else []
    return [(prompt, GIVEN), *between, (str(lm.generate(prompt, CONTINUED, objective=objective.name)), MADE)]


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
