"""What a run came to: `result.json`, and what the terminal shows at the end."""

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from research.objectives import Batch
from research.runs.clock import share
from research.runs.evaluating import Evaluators
from research.runs.guard import Guard
from research.runs.prepared import Prepared
from research.runtime import processes
from research.training import held_out_loss

UNIGRAM_STEPS = 256  # training batches on which the unigram baseline is counted, at most


def result(
    run: Prepared, evaluators: Evaluators, guard: Guard, spent: dict[str, float], seconds: float
) -> dict[str, Any]:
    """{"objectives": {name: {"loss", "unigram", "uniform"}}, "steps", "tokens", "seconds", "goodput", "spent",
    "peak_memory_bytes"}, losses in nats per target (None: there were no targets, or it is not a number),
    seconds and memory of this process, goodput and what time was spent on (see `runs/clock.py`) over all starts of the
    run; "skipped" if steps were; and "probes" (see
    `evaluators/probes.py`) if the experiment has any."""
    experiment, losses = run.experiment, evaluators.held_out.losses
    found: dict[str, Any] = {
        "objectives": {name: finite({"loss": loss, **_baselines(run, name)}) for name, loss in losses.items()},
        "steps": experiment.schedule.steps,
        "tokens": experiment.schedule.steps * experiment.data.batch * experiment.data.length,
        "seconds": seconds,
        "goodput": share(spent),
        "spent": spent,
        "peak_memory_bytes": processes.peak_memory(),
    }
    if guard.skipped:
        found["skipped"] = guard.skipped
    if evaluators.probes:
        found["probes"] = evaluators.probes.result()
    return found


def show(console: Console, result: dict[str, Any], evaluators: Evaluators) -> None:
    """Tables of the losses, and what the evaluators have to show."""
    console.print(_table(result))
    for evaluator in evaluators.all:
        if (shown := evaluator.table()) is not None:
            console.print(shown)


def _baselines(run: Prepared, name: str) -> dict[str, float]:
    """The held-out losses of the unigram frequencies of an objective's training targets, and of a uniform guess."""
    experiment, corpus = run.experiment, run.corpus
    names = [objective.name for objective in experiment.objectives]
    objective = experiment.objectives[names.index(name)]

    def training() -> Iterable[Batch]:
        for number in range(min(experiment.schedule.steps, UNIGRAM_STEPS)):
            rows = np.flatnonzero(corpus.objective_of_rows(number) == names.index(name))
            batch = corpus.batch(number)
            yield replace(batch, targets=batch.targets[rows], weights=batch.weights[rows])

    size = corpus.vocabulary.size
    held_out = held_out_loss.target_counts(corpus.held_out(objective)[: experiment.evaluation.final_batches], size)
    unigram = held_out_loss.unigram_loss(held_out_loss.target_counts(training(), size), held_out)
    return {"unigram": unigram, "uniform": float(np.log(size))}


def finite(numbers: dict[str, float]) -> dict[str, float | None]:
    """None for what is not a number, as JSON has none."""
    return {name: number if math.isfinite(number) else None for name, number in numbers.items()}


def _table(result: dict[str, Any]) -> Table:
    skipped = f", {result['skipped']:,} of them skipped" if "skipped" in result else ""
    title = f"{result['steps']:,} steps{skipped}, {result['tokens']:,} tokens, {result['seconds']:,.0f} s"
    table = Table("objective", title=title, title_justify="left")
    for heading in ("held-out loss", "perplexity", "unigram", "uniform", "loss / unigram"):
        table.add_column(heading, justify="right")
    for name, losses in result["objectives"].items():
        loss, unigram, uniform = losses["loss"], losses["unigram"], losses["uniform"]
        if unigram is None:
            numbers = ["no targets", "", "", f"{uniform:.3f}", ""]
        elif loss is None:
            numbers = ["not a number", "", f"{unigram:.3f}", f"{uniform:.3f}", ""]
        else:
            numbers = [f"{loss:.3f}", f"{np.exp(loss):,.1f}", f"{unigram:.3f}", f"{uniform:.3f}"]
            numbers.append(f"{loss / unigram:.2f}" if unigram else "")
        table.add_row(Text(name), *numbers)
    return table
