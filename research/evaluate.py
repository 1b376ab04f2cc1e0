"""The command `evaluate CHECKPOINT… [--tasks …] [--shots …] [--limit …]`: zero-shot tasks, with honest statistics."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jax
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from research import command_line, lm, runtime
from research.errors import InputError
from research.evaluation import report, sources, suite, tasks
from research.evaluation.requests import Outcome
from research.evaluation.suite import Result, Subject
from research.evaluation.tasks import Questions
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
    manner: str | None = None  # ask as this objective; not given: in every manner that the model was trained in
    length: int | None = None  # places that a request may take; not given: as many as the model has positions
    untrained: bool = True  # also ask the model as it was before training, as a baseline
    out: Path | None = None  # for results, rows and answers; not given: `evaluation` in the run folder, or else here
    watch: bool = False  # evaluate every checkpoint of one run as it is written, until the run is complete
    every: float = 30.0  # seconds between looks for a new checkpoint


def main(arguments: list[str]) -> None:
    first_option = next((n for n, argument in enumerate(arguments) if argument.startswith("-")), len(arguments))
    names = arguments[:first_option]
    options = command_line.parse("evaluate CHECKPOINT…", arguments[first_option:], Options())
    if not names:
        raise InputError("evaluate begins with checkpoints: evaluate runs/quickstart --tasks lambada --data FOLDER")
    if options.watch and len(names) > 1:
        raise InputError(f"--watch follows one run, not {len(names)}")
    console = Console() if sys.stdout.isatty() else Console(width=150)
    chosen = questions(options, console)
    runtime.start()
    out = options.out or (Path(names[0]) if checkpoint.steps(Path(names[0])) else Path()) / "evaluation"
    if options.watch:
        watch(Path(names[0]), chosen, options, out, console)
    else:
        evaluate(names, chosen, options, out, console)


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
        except sources.Missing:
            missing.append(name)
    if missing:
        console.print(f"without data, and left out: {', '.join(missing)}")
    return found


def evaluate(
    names: Sequence[str], chosen: Sequence[Questions], options: Options, out: Path, console: Console
) -> list[Result]:
    """Asks every checkpoint every question, prints tables, and writes `results.json`, the rows and the answers."""
    results: list[Result] = []
    firsts: dict[tuple[str, str], tuple[str, list[Outcome]]] = {}
    comparisons = []
    for name in names:
        for subject in subjects(name, options, out):
            null = suite.untrained(subject, out / "answers") if options.untrained else None
            for one in chosen:
                result, outcomes = ask(subject, null, one, console)
                results.append(result)
                if outcomes is None:
                    continue
                report.write_rows(out / subject.name / result.manner / f"{result.task}.jsonl", outcomes)
                first, theirs = firsts.setdefault((result.task, result.manner), (subject.name, outcomes))
                if first != subject.name:
                    comparisons.append(report.comparison(one, first, subject.name, theirs, outcomes))
            report.write(out, results)
    console.print(report.tables(results), *comparisons)
    console.print(f"{out / 'results.json'}, and a row for each item below {out}")
    return results


def subjects(name: str, options: Options, out: Path) -> list[Subject]:
    """A checkpoint, in the manner that was asked for, or in every one.

    Raises:
      InputError: if it cannot be read, or was not trained in that manner.
    """
    path, _, step = name.partition("@")
    steps = checkpoint.steps(Path(path))
    if step and step not in map(str, steps):
        raise InputError(f"{name}: {path} has the checkpoints {', '.join(map(str, steps)) or 'of no run'}")
    shown = f"{Path(path).name}@{step or steps[-1]}" if steps else Path(path).name
    model = lm.load(path)
    if step and int(step) != steps[-1]:
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), model.params)
        model = replace(model, params=checkpoint.restore_params(Path(path), like, int(step)))
    found = suite.subjects(shown, model, out / "answers", options.length)
    manners = {subject.manner.objective.name: subject for subject in found}
    if options.manner is not None and options.manner not in manners:
        raise InputError(f"--manner {options.manner}: {name} can be asked as {', '.join(manners)}")
    return found if options.manner is None else [manners[options.manner]]


def ask(
    subject: Subject, null: Subject | None, one: Questions, console: Console
) -> tuple[Result, list[Outcome] | None]:
    """One checkpoint on one task, with a progress bar."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        row = bar.add_task(one.task.name, total=1.0)

        def progress(share: float, of: str) -> None:
            bar.update(row, completed=share, description=of)

        try:
            outcomes = suite.answer(subject, one, progress)
        except InputError as error:
            return suite.not_applicable(subject, one, str(error)), None
        if outcomes is None:
            return suite.not_applicable(subject, one, "the model was not trained to do this"), None
        bar.reset(row)
        null_outcomes = suite.answer(null, one, progress) if null is not None and one.task.kind != "generate" else None
    others = {} if null_outcomes is None else {"untrained model": null_outcomes}
    return suite.measure(subject, one, outcomes, others), outcomes


def watch(run: Path, chosen: Sequence[Questions], options: Options, out: Path, console: Console) -> None:
    """Evaluates each new checkpoint of a run, the oldest first, until the run has its result."""
    seen: set[int] = set()
    while True:
        complete = (run / "result.json").exists()
        for step in checkpoint.steps(run):
            if step not in seen:
                evaluate([f"{run}@{step}"], chosen, options, out, console)
                seen.add(step)
        if complete:
            return
        time.sleep(options.every)


if __name__ == "__main__":
    command_line.run(main, sys.argv[1:])
