"""Tasks that a run is asked with every evaluation, beside the same model before training."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from research import config
from research.errors import InputError
from research.evaluation import result_files, suite, tasks
from research.evaluation.items import Outcome
from research.evaluation.suite import EvaluatedModel, Result
from research.evaluation.tasks import Questions
from research.inference.language_model import LanguageModel


class Asked(NamedTuple):
    """What a run is asked."""

    questions: tuple[Questions, ...]
    untrained: dict[tuple[str, str], list[Outcome] | None]  # by task and prompt format


def open(settings: config.Evaluation) -> tuple[Questions, ...]:
    """Reads the tasks. Raises InputError if one is unknown or not here, or if its answers are written, which would stop
    the training for long."""
    data = [Path(folder) for folder in settings.data]
    opened = [tasks.open(tasks.load(name), data, limit=settings.limit) for name in settings.tasks]
    written = [one.task.name for one in opened if one.task.kind == "generate"]
    if written:
        raise InputError(f"evaluation.tasks: answers to {', '.join(written)} are written; ask by the command evaluate")
    return tuple(opened)


def begin(questions: tuple[Questions, ...], model: LanguageModel) -> Asked:
    """Asks the model as it was before training."""
    baselines = [suite.untrained(one, None) for one in _evaluated("untrained", model)] if questions else []
    return Asked(
        questions,
        {
            (one.task.name, baseline.prompt_format.objective.name): suite.ask(baseline, one, None)[1]
            for baseline in baselines
            for one in questions
        },
    )


def ask(asked: Asked, model: LanguageModel, step: int, folder: Path) -> list[Result]:
    """Asks the model of a step, and adds to `results.json` and the rows in `evaluation` of the run folder."""
    results = []
    for evaluated in _evaluated(f"{folder.name}@{step}", model) if asked.questions else []:
        for one in asked.questions:
            baseline = asked.untrained[one.task.name, evaluated.prompt_format.objective.name]
            result, outcomes = suite.ask(evaluated, one, lambda known=baseline: known)  # type: ignore[misc]
            results.append(result)
            if outcomes is not None and jax.process_index() == 0:
                result_files.write_rows(folder / "evaluation", result, outcomes)
    if results and jax.process_index() == 0:
        result_files.write(folder / "evaluation", results, ())
    return results


def scores(results: Sequence[Result]) -> dict[str, float]:
    """The metric that is quoted of each task, for the log."""
    return {f"{one.task}/{one.prompt_format}": one.measured[0].estimate.value for one in results if one.measured}


def _evaluated(title: str, model: LanguageModel) -> list[EvaluatedModel]:
    return suite.evaluated_models(title, model, None)
