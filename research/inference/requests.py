"""What a model can be asked, and how it answers."""

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


def name(request: Scorable | Generation) -> str:
    """The kind of a request, as `Objective.answers` has it."""
    return type(request).__name__.lower()


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
