"""Tasks that a run is asked with every evaluation, beside the same model before training."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from research import config
from research.errors import InputError
from research.inference import prompting
from research.evaluation import result_files, suite, tasks
from research.evaluation.answer_cache import Cache
from research.inference.requests import Outcome
from research.evaluation.suite import Result, Subject
from research.evaluation.tasks import TaskDataset
from research.inference.language_model import LanguageModel
from research.sharding import Layout


class Asked(NamedTuple):
    """What a run is asked."""

    questions: tuple[TaskDataset, ...]
    untrained: dict[tuple[str, str], list[Outcome] | None]  # by task and manner


def open(settings: config.Evaluation) -> tuple[TaskDataset, ...]:
    """Reads the tasks. Raises InputError if one is unknown or not here, or if its answers are written, which would stop
    the training for long."""
    data = [Path(folder) for folder in settings.data]
    opened = [tasks.open_task(tasks.load_task(name), data, limit=settings.limit) for name in settings.tasks]
    written = [one.task.name for one in opened if one.task.kind == "generate"]
    if written:
        raise InputError(f"evaluation.tasks: answers to {', '.join(written)} are written; ask by the command evaluate")
    return tuple(opened)


def begin(questions: tuple[TaskDataset, ...], model: LanguageModel, layout: Layout) -> Asked:
    """Asks the model as it was before training."""
    nulls = [suite.untrained(subject, None) for subject in _subjects("untrained", model, layout)] if questions else []
    return Asked(
        questions,
        {
            (one.task.name, null.manner.objective.name): suite.ask(null, one, None)[1]
            for null in nulls
            for one in questions
        },
    )


def ask(asked: Asked, model: LanguageModel, layout: Layout, step: int, folder: Path) -> list[Result]:
    """Asks the model of a step, and adds to `results.json` and the rows in `evaluation` of the run folder."""
    results = []
    for subject in _subjects(f"{folder.name}@{step}", model, layout) if asked.questions else []:
        for one in asked.questions:
            null = asked.untrained[one.task.name, subject.manner.objective.name]
            result, outcomes = suite.ask(subject, one, lambda null=null: null)  # type: ignore[misc]
            results.append(result)
            if outcomes is not None and jax.process_index() == 0:
                result_files.write_rows(folder / "evaluation", result, outcomes)
    if results and jax.process_index() == 0:
        result_files.write_results(folder / "evaluation", results, ())
    return results


def scores(results: Sequence[Result]) -> dict[str, float]:
    """The metric that is quoted of each task, for the log."""
    return {f"{one.task}/{one.manner}": one.measured[0].estimate.value for one in results if one.measured}


def _subjects(title: str, model: LanguageModel, layout: Layout) -> list[Subject]:
    return [Subject(title, model, how, Cache(None), layout) for how in prompting.prompt_formats(model)]
