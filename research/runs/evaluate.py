"""Checkpoints on tasks, with honest statistics: what the command `evaluate` does. Several processes ask together; one
of them shows and writes what all of them know."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from research.errors import InputError
from research.evaluation import comparison, datasets, result_files, suite, tasks
from research.evaluation.comparison import Comparison
from research.evaluation.suite import Result, Subject
from research.evaluation.tasks import Questions
from research.inference import language_model
from research.inference.requests import Outcome
from research.runtime import processes
from research.training import checkpoint

GENERATED = (
    "addition",
    "subtraction",
    "multiplication",
    "modular_addition",
    "unscrambling",
    "reversal",
    "copying",
    "docs_cloze",
    "docs_infill",
)


@dataclass(frozen=True)
class Options:
    """Evaluates checkpoints: run folders (RUN@STEP for another step than the last), Hugging Face folders, GGUF files.
    Several are compared with the first one, item by item."""

    tasks: tuple[str, ...] = GENERATED  # names of shipped tasks, paths of YAML files, or `all` whose data is here
    data: tuple[Path, ...] = ()  # folders with the files of tasks
    shots: int | None = None  # worked examples before each question; not given: as many as the task says
    limit: int | None = None  # the first so many questions of each task
    manner: str | None = (
        None  # ask as the objective of this name; not given: as each kind that the model was trained on
    )
    length: int | None = None  # places that a request may take; not given: as many as the model has positions
    untrained: bool = True  # also ask the model as it was before training, as a baseline
    out: Path | None = None  # for results, rows and answers; not given: `evaluation` in the run folder, or else here
    watch: bool = False  # evaluate every checkpoint of one run as it is written, until the run is complete
    every: float = 30.0  # seconds between looks for a new checkpoint


def run(names: Sequence[str], options: Options, console: Console) -> None:
    """Evaluates checkpoints as the options say, once or, with `watch`, as one run writes them.

    Raises:
      InputError: if a checkpoint or a task is not usable, or several processes watch a run.
    """
    chosen = questions(options, console)
    folder = Path(language_model.run_folder(names[0])[0])
    out = options.out or (folder if options.watch or checkpoint.steps(folder) else Path()) / "evaluation"
    if not options.watch:
        evaluate(names, chosen, options, out, console)
    elif processes.is_distributed():
        raise InputError("--watch follows a run by one process, not by several")
    else:
        watch(folder, chosen, options, out, console)


def questions(options: Options, console: Console) -> list[Questions]:
    """The tasks that were asked for.

    Raises:
      InputError: if one is unknown or its data is not here; with `all`, those are named and left out.
    """
    if options.tasks != ("all",):
        return [tasks.open(tasks.load(name), options.data, options.shots, options.limit) for name in options.tasks]
    found, missing = [], []
    for name in tasks.names():
        try:
            found.append(tasks.open(tasks.load(name), options.data, options.shots, options.limit))
        except datasets.Missing:
            missing.append(name)
    if missing:
        console.print(f"without data, and left out: {', '.join(missing)}")
    return found


def evaluate(
    names: Sequence[str], chosen: Sequence[Questions], options: Options, out: Path, console: Console
) -> list[Result]:
    """Asks every checkpoint every question, prints tables, and writes results, comparisons, rows and answers."""
    results: list[Result] = []
    found: list[Comparison] = []
    answered: list[tuple[Result, list[Outcome]]] = []
    for name, title in zip(names, titles(names), strict=True):
        model = language_model.load(name)
        for subject in suite.subjects(title, model, out / "answers", options.manner, options.length):
            null = suite.untrained(subject, out / "answers") if options.untrained else None
            for one in chosen:
                result, outcomes = ask(subject, null, one, console)
                results.append(result)
                if outcomes is not None:
                    if processes.is_main_process():
                        result_files.write_rows(out, result, outcomes)
                    found += against(answered, result, outcomes)
                    answered.append((result, outcomes))
            if processes.is_main_process():
                result_files.write(out, results, found)
    console.print(result_files.tables(results), result_files.comparisons(found))
    console.print(f"{out} has results.json, and a row for each item below {out / 'rows'}")
    return results


def titles(names: Sequence[str]) -> list[str]:
    """What each checkpoint is called: the last part of its path if that is enough, and the step of a run."""
    found = []
    for name in names:
        path, step = language_model.run_folder(name)
        steps = checkpoint.steps(Path(path))
        alike = [other for other in names if Path(language_model.run_folder(other)[0]).name == Path(path).name]
        short = (
            Path(path).name if len({language_model.run_folder(other)[0] for other in alike}) == 1 else path.strip("/")
        )
        found.append(short.replace("/", "-") + (f"@{step or steps[-1]}" if steps else ""))
    return found


def against(
    answered: Sequence[tuple[Result, list[Outcome]]], result: Result, outcomes: Sequence[Outcome]
) -> tuple[Comparison, ...]:
    """The result compared with the first checkpoint's, asked in the same manner if it was, else by the same kind of
    score."""
    first = [
        (one, theirs)
        for one, theirs in answered
        if one.checkpoint == answered[0][0].checkpoint != result.checkpoint
        and (one.task, one.kind) == (result.task, result.kind)
    ]
    if not first:
        return ()
    one, theirs = next((pair for pair in first if pair[0].manner == result.manner), first[0])
    return comparison.compare(one, result, theirs, outcomes)


def ask(
    subject: Subject, null: Subject | None, one: Questions, console: Console
) -> tuple[Result, list[Outcome] | None]:
    """One checkpoint on one task, with a progress bar."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        rows: dict[str, TaskID] = {}

        def progress(share: float, of: str) -> None:
            if of not in rows:
                rows[of] = bar.add_task(of, total=1.0)
            bar.update(rows[of], completed=share)

        before = None if null is None else lambda: suite.answer(null, one, progress)
        return suite.ask(subject, one, before, progress)


def watch(run: Path, chosen: Sequence[Questions], options: Options, out: Path, console: Console) -> None:
    """Evaluates each new checkpoint of a run, the oldest first, until the run has its result. The run deletes old ones
    by itself: what is gone before its turn is named, and left out."""
    seen: set[int] = set()
    while True:
        complete = (run / "result.json").exists()
        new = [step for step in checkpoint.steps(run) if step not in seen]
        for step in new:
            try:
                evaluate([f"{run}@{step}"], chosen, options, out, console)
            except InputError:
                if step in checkpoint.steps(run):
                    raise
                console.print(f"{run}: the checkpoint of step {step:,} was deleted before it was evaluated")
            seen.add(step)
        if complete and not new:
            return
        if not new:
            time.sleep(options.every)
