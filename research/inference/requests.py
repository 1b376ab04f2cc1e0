"""What a model can be asked, and what it answers: the words that tasks, scoring and metrics share."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from research.inference.generation import Sampling

Kind = Literal["exact", "pseudo"]


class Continuation(NamedTuple):
    """How probable is `text` after `context`?"""

    context: str
    text: str


class Rolling(NamedTuple):
    """How probable is a whole text, of any length? Each token is predicted once, from what fits before it."""

    text: str


class Infill(NamedTuple):
    """How probable is `text` between `left` and `right`?"""

    left: str
    right: str
    text: str


Scorable = Continuation | Rolling | Infill


class Generation(NamedTuple):
    """What follows `context`, as `sampling` says: up to a stop string, which is left out, or so many tokens."""

    context: str
    sampling: Sampling = Sampling()


@dataclass(frozen=True)
class Score:
    """What a model says of a text.

    An *exact* score is the model's probability of the text. A *pseudo* score is the sum of the log-probabilities of
    single tokens given others on both sides, which is no probability of the text: the two are never compared.
    """

    kind: Kind
    log_probabilities: np.ndarray  # float32 [tokens], nats
    greedy: bool  # whether every token is the most probable one at its place
    bytes: int  # length of the text in UTF-8
    truncated: int  # tokens of the context that did not fit into the model and were left out, from the left
    greedy_allowed: bool = False  # as `greedy`, with the forbidden tokens left out at the first place

    @property
    def log_probability(self) -> float:
        """Of the whole text, nats."""
        return float(self.log_probabilities.sum(dtype=np.float64))


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
