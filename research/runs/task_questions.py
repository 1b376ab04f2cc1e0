"""The tasks that a run is asked while it trains."""

from pathlib import Path

from research import config
from research.errors import InputError
from research.evaluation import tasks
from research.evaluation.tasks import Questions


def open(settings: config.Evaluation) -> tuple[Questions, ...]:
    """Reads the tasks. Raises InputError if one is unknown or not here, or if its answers are written, which would stop
    the training for long."""
    data = [Path(folder) for folder in settings.data]
    opened = [tasks.open(tasks.load(name), data, limit=settings.limit) for name in settings.tasks]
    written = [one.task.name for one in opened if one.task.kind == "generate"]
    if written:
        raise InputError(f"evaluation.tasks: answers to {', '.join(written)} are written; ask by the command evaluate")
    return tuple(opened)
