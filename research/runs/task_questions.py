"""The tasks that a run is asked while it trains."""

from pathlib import Path

from research import config
from research.errors import InputError
from research.evaluation import tasks
from research.evaluation.tasks import TaskDataset


def load_tasks(settings: config.Evaluation) -> tuple[TaskDataset, ...]:
    """Reads the tasks. Raises InputError if one is unknown or not here, or if its answers are written, which would stop
    the training for long."""
    data = [Path(folder) for folder in settings.data]
    opened = [tasks.open_task(tasks.load_task(name), data, limit=settings.limit) for name in settings.tasks]
    written = [one.task.name for one in opened if one.task.kind == "generate"]
    if written:
        raise InputError(f"evaluation.tasks: answers to {', '.join(written)} are written; ask by the command evaluate")
    return tuple(opened)
