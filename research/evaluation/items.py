"""An item of a task: a question as requests to a model, and what the model made of it."""

from dataclasses import dataclass

from research.inference.requests import Generation, Scorable, Score


@dataclass(frozen=True)
class Item:
    """One question of a task, as requests. Several `options` are answers to choose from, with the right one at `gold`;
    a single one is a text whose probability is asked."""

    document: str  # items of one document are not independent
    options: tuple[Scorable, ...] = ()
    gold: int = 0
    neutral: tuple[Scorable, ...] = ()  # the options without the question (pointwise mutual information)
    generation: Generation | None = None
    references: tuple[str, ...] = ()  # right outputs of a generation
    words: int = 0  # of a text before detokenisation
    bytes: int = 0  # of a text before detokenisation


@dataclass(frozen=True)
class Outcome:
    """An item with what a model made of it."""

    item: Item
    scores: tuple[Score, ...] = ()  # of the options; of a generation, of the whole output (none if it is empty)
    neutral: tuple[Score, ...] = ()
    output: str = ""  # as much of a generation as is compared
