"""A sample for each objective. One that fails is named, once, and does not end the run."""

from collections.abc import Callable
from typing import Any

from rich.console import RenderableType

from research.data import Corpus
from research.runs import samples
from research.runs.evaluators import Moment
from research.runs.prepared import Prepared
from research.runs.samples import Sample
from research.runtime import processes


class Samples:
    """What the model says."""

    kind = "samples"

    def __init__(self, run: Prepared, say: Callable[[str], None]) -> None:
        evaluation = run.experiment.evaluation
        self.corpus: Corpus = run.corpus
        self.say, self.failed = say, False
        self.every = evaluation.every if evaluation.samples_every is None else evaluation.samples_every
        self.last: list[Sample] = []

    def evaluate(self, moment: Moment) -> dict[str, Any]:
        try:
            self.last = samples.samples(moment.model, self.corpus)
        except Exception as error:
            if processes.is_distributed():  # the others wait for this one
                raise
            if not self.failed:
                self.say(f"samples failed and are tried again later: {type(error).__name__}: {error}")
            self.last, self.failed = [], True
        return {"samples": dict(self.last)} if self.last else {}

    def table(self) -> RenderableType | None:
        return samples.show(self.last) if self.last else None
