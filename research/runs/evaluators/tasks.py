"""Tasks that a run is asked with every evaluation, beside the same model before training."""

from collections.abc import Sequence
from typing import Any

from rich.console import RenderableType

from research.evaluation import result_files, suite
from research.evaluation.answer_cache import Cache
from research.evaluation.suite import Result, Subject
from research.evaluation.tasks import Questions
from research.inference import prompting
from research.inference.language_model import LanguageModel
from research.inference.requests import Outcome
from research.runs.evaluators import Moment
from research.runs.prepared import Prepared
from research.runtime import processes
from research.sharding import Layout


class Tasks:
    """Asks the model as it was before training too, as a baseline; adds to `evaluation` in the run folder."""

    kind = "tasks"

    def __init__(self, run: Prepared, questions: tuple[Questions, ...], before: Moment) -> None:
        evaluation = run.experiment.evaluation
        self.folder, self.layout, self.questions = run.folder, run.compiled.layout, questions
        self.every = evaluation.every if evaluation.tasks_every is None else evaluation.tasks_every
        self.untrained: dict[tuple[str, str], list[Outcome] | None] = {}  # by task and prompt format
        self.last: list[Result] = []
        for subject in _subjects("untrained", before.model, self.layout):
            null = suite.untrained(subject, None)
            for one in questions:
                self.untrained[one.task.name, null.manner.objective.name] = suite.ask(null, one, None)[1]

    def evaluate(self, moment: Moment) -> dict[str, Any]:
        self.last = []
        for subject in _subjects(f"{self.folder.name}@{moment.step}", moment.model, self.layout):
            for one in self.questions:
                null = self.untrained[one.task.name, subject.manner.objective.name]
                result, outcomes = suite.ask(subject, one, lambda null=null: null)  # type: ignore[misc]
                self.last.append(result)
                if outcomes is not None and processes.is_main_process():
                    result_files.write_rows(self.folder / "evaluation", result, outcomes)
        if processes.is_main_process():
            result_files.write(self.folder / "evaluation", self.last, ())
        return {"scores": scores(self.last)}

    def table(self) -> RenderableType | None:
        return result_files.tables(self.last)


def scores(results: Sequence[Result]) -> dict[str, float]:
    """The metric that is quoted of each task, for the log."""
    return {f"{one.task}/{one.manner}": one.measured[0].estimate.value for one in results if one.measured}


def _subjects(title: str, model: LanguageModel, layout: Layout) -> list[Subject]:
    return [Subject(title, model, how, Cache(None), layout) for how in prompting.prompt_formats(model)]
