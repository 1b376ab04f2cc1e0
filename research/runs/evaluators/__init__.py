"""What a run is asked while it trains: a list of evaluators, each with an interval of its own.

A new evaluator is a file with a class like those beside it, and a line in `build`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rich.console import RenderableType

from research.inference.language_model import LanguageModel
from research.models import Params


@dataclass(frozen=True)
class Moment:
    """The model at a step."""

    step: int  # steps taken
    params: Params
    model: LanguageModel  # of these parameters
    final: bool = False  # after the last step


class Evaluator(Protocol):
    """One kind of evaluation."""

    kind: str  # of its records
    every: int  # steps between evaluations; 0: only at the end

    def evaluate(self, moment: Moment) -> dict[str, Any]:
        """What the record says; without anything, there is no record."""

    def table(self) -> RenderableType | None:
        """What the end of a run shows of the last evaluation."""


def due(evaluators: Sequence[Evaluator], step: int) -> list[Evaluator]:
    """Those whose turn it is after so many steps."""
    return [each for each in evaluators if each.every and step % each.every == 0]
