"""Checkpoints on tasks, with honest statistics: what the command `evaluate` does. Several processes compute together;
one of them shows and writes the results."""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from research import config, models
from research.errors import InputError
from research.evaluation import comparison, datasets, result_files, suite, tasks
from research.evaluation.comparison import Comparison
from research.evaluation.items import Outcome
from research.evaluation.suite import EvaluatedModel, Result
from research.evaluation.tasks import TaskDataset
from research.inference.language_model import LanguageModel
from research.runs import ladders, loading
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
    """Evaluates checkpoints: run folders (RUN@STEP for another step than the last), Hugging Face folders or hub names
    (NAME@REVISION), GGUF files, or all that a pattern matches ('EleutherAI/pythia-*m@step*'). Several are compared with
    the first one, item by item."""

    tasks: tuple[str, ...] = GENERATED  # names of shipped tasks, paths of YAML files, or `all` whose data is here
    data: tuple[Path, ...] = ()  # folders with the files of tasks
    shots: int | None = None  # worked examples before each question; not given: as many as the task says
    limit: int | None = None  # the first so many questions of each task
    # ask as the objective of this name; not given: as each kind that the model was trained on
    prompt_format: str | None = None
    length: int | None = None  # places that a request may take; not given: as many as the model has positions
    untrained: bool = True  # also ask the model as it was before training, as a baseline
    out: Path | None = None  # for results, rows and answers; not given: `evaluation` in the run folder, or else here
    # devices over which a model that is larger than one is split, as --mesh.tensor 8; not given: one, or copies
    mesh: config.Mesh | None = None
    dtype: loading.Dtype = "float32"  # of the parameters on the devices
    watch: bool = False  # evaluate every checkpoint of one run as it is written, until the run is complete
    every: float = 30.0  # seconds between looks for a new checkpoint


def run(names: Sequence[str], options: Options, console: Console) -> None:
    """Evaluates checkpoints as the options say, once or, with `watch`, as one run writes them.

    Raises:
      InputError: if a checkpoint or a task is not usable, or several processes watch a run.
    """
    names = ladders.expand(names)
    chosen = questions(options, console)
    folder = Path(loading.split_step(names[0])[0])
    out = options.out or (folder if options.watch or checkpoint.steps(folder) else Path()) / "evaluation"
    if not options.watch:
        evaluate(names, chosen, options, out, console)
    elif processes.is_distributed():
        raise InputError("--watch follows a run by one process, not by several")
    else:
        watch(folder, chosen, options, out, console)


def questions(options: Options, console: Console) -> list[TaskDataset]:
    """The tasks that were asked for.

    Raises:
      InputError: if one is unknown or its data is not here; with `all`, those are named and left out.
    """
    if options.tasks != ("all",):
        return [
            tasks.open_task(tasks.load_task(name), options.data, options.shots, options.limit) for name in options.tasks
        ]
    found, missing = [], []
    for name in tasks.names():
        try:
            found.append(tasks.open_task(tasks.load_task(name), options.data, options.shots, options.limit))
        except datasets.Missing:
            missing.append(name)
    if missing:
        console.print(Text(f"without data, and left out: {', '.join(missing)}"))
    return found


def evaluate(
    names: Sequence[str], chosen: Sequence[TaskDataset], options: Options, out: Path, console: Console
) -> list[Result]:
    """Asks every checkpoint every question, prints tables, and writes results, comparisons, rows and answers."""
    results: list[Result] = []
    found: list[Comparison] = []
    answered: list[tuple[Result, list[Outcome]]] = []
    rungs: list[dict[str, Any]] = []
    for name, title in zip(names, titles(names), strict=True):
        model = loading.load(name, options.mesh, options.dtype)
        rungs.append(rung(name, title, model))
        console.print(Text(f"{title}: {rungs[-1]['parameters']:,} parameters in {options.dtype}, {where(model)}"))
        for evaluated in suite.evaluated_models(title, model, out / "answers", options.prompt_format, options.length):
            baseline = suite.untrained(evaluated, out / "answers") if options.untrained else None
            for one in chosen:
                result, outcomes = ask(evaluated, baseline, one, console)
                results.append(result)
                if outcomes is not None:
                    if processes.is_main_process():
                        result_files.write_rows(out, result, outcomes)
                    found += against(answered, result, outcomes)
                    answered.append((result, outcomes))
            if processes.is_main_process():
                result_files.write_results(out, results, found)
                result_files.write_checkpoints(out, rungs)
    console.print(result_files.tables(results), result_files.comparisons(found))
    console.print(Text(f"{out} has results.json, and a row for each item below {out / 'rows'}"))
    return results


def where(model: LanguageModel) -> str:
    """On which devices a model is."""
    count, kind = jax.device_count(), jax.devices()[0].device_kind
    if model.layout is None:
        return f"on {kind}" if count == 1 else f"a copy on each of {count} x {kind}"
    return f"over {count} x {kind}, {model.layout}"


def rung(name: str, title: str, model: LanguageModel) -> dict[str, Any]:
    """What a table of checkpoints says of one: its size and, of a published one, what its training took."""
    trained = ladders.trained(name, model.config)
    took = {} if trained is None else dataclasses.asdict(trained)
    return {"checkpoint": title, "name": name, "parameters": models.size(model.params), **took}


def titles(names: Sequence[str]) -> list[str]:
    """What each checkpoint is called: the last part of its path if that is enough, and the step of a run or the name
    of a revision."""
    found = []
    for name in names:
        path, step = loading.split_step(name)
        steps = checkpoint.steps(Path(path))
        alike = [other for other in names if Path(loading.split_step(other)[0]).name == Path(path).name]
        short = Path(path).name if len({loading.split_step(other)[0] for other in alike}) == 1 else path.strip("/")
        found.append(short.replace("/", "-") + (f"@{step or steps[-1]}" if steps else ""))
    return found


def against(
    answered: Sequence[tuple[Result, list[Outcome]]], result: Result, outcomes: Sequence[Outcome]
) -> tuple[Comparison, ...]:
    """The result compared with the first checkpoint's, asked with the same prompt format if it was, else by the same
    kind of score."""
    first = [
        (one, theirs)
        for one, theirs in answered
        if one.checkpoint == answered[0][0].checkpoint != result.checkpoint
        and (one.task, one.kind) == (result.task, result.kind)
    ]
    if not first:
        return ()
    one, theirs = next((pair for pair in first if pair[0].prompt_format == result.prompt_format), first[0])
    return comparison.compare(one, result, theirs, outcomes)


def ask(
    evaluated: EvaluatedModel, baseline: EvaluatedModel | None, one: TaskDataset, console: Console
) -> tuple[Result, list[Outcome] | None]:
    """One checkpoint on one task, with a progress bar."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        rows: dict[str, TaskID] = {}

        def progress(share: float, of: str) -> None:
            if of not in rows:
                rows[of] = bar.add_task(of, total=1.0)
            bar.update(rows[of], completed=share)

        before = None if baseline is None else lambda: suite.answer(baseline, one, progress)
        return suite.ask(evaluated, one, before, progress)


def watch(run: Path, chosen: Sequence[TaskDataset], options: Options, out: Path, console: Console) -> None:
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
                console.print(Text(f"{run}: the checkpoint of step {step:,} was deleted before it was evaluated"))
            seen.add(step)
        if complete and not new:
            return
        if not new:
            time.sleep(options.every)
