"""Everything that can be wrong with a run and is known without its data: found in seconds, before anything is made."""

from dataclasses import dataclass, replace
from pathlib import Path

import jax

from research import config
from research.config import Experiment, validation
from research.data import corpus, sources
from research.errors import InputError
from research.evaluation.tasks import TaskDataset
from research.runs import initial, run_folder, side_channels, task_questions
from research.runs.initial import Initial
from research.runtime import processes
from research.training import checkpoint, memory, optimizer
from research.training.compiled_steps import compiled_steps


@dataclass(frozen=True)
class Checked:
    """An experiment that can run."""

    experiment: Experiment  # with the architecture of what it starts from
    source: Initial | None  # what it starts from
    tasks: tuple[TaskDataset, ...]
    resume_from: int | None  # the step of a checkpoint; None: the latest


def check(
    experiment: Experiment, folder: Path, resume_from: int | None = None, resume_schedule: bool = False
) -> Checked:
    """Checks the experiment, the devices, the tasks and their data, the sources, the logging and the folder, which it
    makes.

    Raises:
      InputError: naming what is wrong, and what would work.
    """
    source = None if experiment.initialize_from is None else initial.describe(experiment.initialize_from)
    if source is not None:
        experiment = replace(experiment, model=source.adapted(experiment.model))
    validation.validate(experiment)
    tasks = task_questions.load_tasks(experiment.evaluation)
    side_channels.check(experiment.logging)
    provisional = _provisional(experiment, source)
    compiled = compiled_steps(provisional)
    memory.check(provisional, compiled.layout, compiled.state, compiled.frozen)
    for name in corpus.source_names(experiment) if experiment.data.prepared is None else ():
        sources.open_source(name)
    if processes.is_main_process():
        run_folder.check(folder, experiment)
    if resume_from is not None and resume_from not in checkpoint.steps(folder):
        raise InputError(f"--resume-from {resume_from}: {folder} has checkpoints of {checkpoint.steps(folder)}")
    first = _check_steps(folder, experiment.schedule.steps, resume_from)
    if not resume_schedule:
        _check_schedule(folder, experiment, first)
    return Checked(experiment, source, tasks, resume_from)


def _check_steps(folder: Path, steps: int, resume_from: int | None) -> int:
    """The step from which the run goes on. Raises InputError if that is after its end."""
    there = checkpoint.steps(folder)
    first = resume_from if resume_from is not None else there[-1] if there else 0
    if first > steps:
        fitting = [step for step in there if step <= steps]
        back = f", --resume-from {fitting[-1]}" if fitting else ""
        raise InputError(
            f"schedule.steps: {steps:,} are fewer than the {first:,} that {folder} has taken; choose {first:,} or "
            f"more{back}, or another --workdir"
        )
    return first


def _check_schedule(folder: Path, experiment: Experiment, first: int) -> None:
    """Raises InputError if other `schedule.steps` than those of the run in the folder would raise the learning rate
    where it goes on: what has been annealed would be undone."""
    path = folder / "experiment.json"
    if not first or not path.exists():
        return
    before = config.load(path)
    rates = [
        float(optimizer.schedule(each.schedule, each.optimizer.learning_rate)(first)) for each in (before, experiment)
    ]
    if rates[1] > rates[0] * 1.001:
        raise InputError(
            f"schedule.steps: {before.schedule.steps:,} there, {experiment.schedule.steps:,} here would raise the "
            f"learning rate of step {first + 1:,} from {rates[0]:.3g} to {rates[1]:.3g}; give --resume-schedule True "
            "if that is meant, or another --workdir"
        )


def _provisional(experiment: Experiment, source: Initial | None) -> Experiment:
    """With a vocabulary even where only the data will tell it: one that every mesh divides, as is that of most
    tokenizers, rounded up."""
    vocabulary = 128 * jax.device_count() if source is None else source.tokenizer.size
    longest = max(experiment.data.length, experiment.data.source_length or 0)
    return replace(experiment, model=config.resolve(experiment.model, vocabulary, longest))
