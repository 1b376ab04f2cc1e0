"""Tasks that a run is asked with every evaluation, beside the same model before training."""

from collections.abc import Sequence
from typing import Any

from rich.console import RenderableType

from research.evaluation import result_files, suite
from research.evaluation.items import Outcome
from research.evaluation.suite import EvaluatedModel, Result
from research.evaluation.tasks import TaskDataset
from research.inference.language_model import LanguageModel
from research.runs.evaluators import Moment
from research.runs.prepared import Prepared
from research.runtime import processes


class Tasks:
    """Asks the model as it was before training too, as a baseline; adds to `evaluation` in the run folder."""

    kind = "tasks"

    def __init__(self, run: Prepared, questions: tuple[TaskDataset, ...], before: Moment) -> None:
        evaluation = run.experiment.evaluation
        self.folder, self.questions = run.folder, questions
        self.every = evaluation.every if evaluation.tasks_every is None else evaluation.tasks_every
        self.untrained: dict[tuple[str, str], list[Outcome] | None] = {}  # by task and prompt format
        self.last: list[Result] = []
        for evaluated in _evaluated("untrained", before.model):
            baseline = suite.untrained(evaluated, None)
            for one in questions:
                self.untrained[one.task.name, baseline.prompt_format.objective.name] = suite.ask(baseline, one, None)[1]

    def evaluate(self, moment: Moment) -> dict[str, Any]:
        self.last = []
        for evaluated in _evaluated(f"{self.folder.name}@{moment.step}", moment.model):
            for one in self.questions:
                known = self.untrained[one.task.name, evaluated.prompt_format.objective.name]
                result, outcomes = suite.ask(evaluated, one, lambda known=known: known)  # type: ignore[misc]
                self.last.append(result)
                if outcomes is not None and processes.is_main_process():
                    result_files.write_rows(self.folder / "evaluation", result, outcomes)
        if processes.is_main_process():
            result_files.write_results(self.folder / "evaluation", self.last, ())
        return {"scores": scores(self.last)}

    def table(self) -> RenderableType | None:
        return result_files.tables(self.last)


def scores(results: Sequence[Result]) -> dict[str, float]:
    """The metric that is quoted of each task, for the log."""
    return {f"{one.task}/{one.prompt_format}": one.measured[0].estimate.value for one in results if one.measured}


def _evaluated(title: str, model: LanguageModel) -> list[EvaluatedModel]:
    return suite.evaluated_models(title, model, None)
