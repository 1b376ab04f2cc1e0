"""The command `train CONFIG [--workdir DIR] [--profile FIRST:LAST] [--FIELD VALUE …]`: trains, evaluates, and shows the
result. One process of several shows and writes what all of them know."""

import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from research import config, data, models
from research.commands import command_line, report
from research.config import Experiment, validation
from research.data import Corpus
from research.evaluation import result_files as scores
from research.evaluation.suite import Result
from research.inference.language_model import LanguageModel
from research.models import Params
from research.objectives import Batch
from research.runs import loop, probes, run_folder, samples, task_scores, tracing
from research.runs.clock import Clock, share
from research.runs.log import FILE, Log, read
from research.runs.loop import CompiledSteps
from research.runs.probes import Probed
from research.runs.samples import Sample
from research.runs.tracing import Tracer
from research.runtime import processes
from research.training import checkpoint, held_out_loss, initial, state
from research.training.initial import Initial
from research.training.state import TrainState

UNIGRAM_STEPS = 256  # training batches on which the unigram baseline is counted, at most


def main(arguments: list[str]) -> None:
    chosen = command_line.train(arguments)
    traced = tracing.steps(chosen.profile, chosen.experiment.schedule.steps)
    processes.configure_jax(chosen.experiment.compilation_cache_dir)
    processes.initialize()
    train(chosen.experiment, chosen.workdir, Console(quiet=not processes.is_main_process()), traced)


def train(experiment: Experiment, folder: Path, console: Console, traced: range = range(0)) -> dict[str, Any]:
    """Trains in a run folder, from its newest checkpoint if it has one, to the last step. The steps `traced`, counted
    from 1, are profiled.

    Returns:
      What `result.json` has: {"objectives": {name: {"loss", "unigram", "uniform"}}, "steps", "tokens", "seconds",
      "goodput", "spent", "peak_memory_bytes"}, losses in nats per target, seconds and memory of this process, goodput
      and what time was spent on (see `training/goodput.py`) over all starts of the run; and "probes" (see
      `probes.result`) if the experiment has any.

    Raises:
      InputError: if the experiment cannot run, the folder has another one, or the loss is not finite.
    """
    began, leads = time.time(), processes.is_main_process()
    source = None if experiment.initialize_from is None else initial.open(experiment.initialize_from)
    if source is not None:
        experiment = replace(experiment, model=source.adapted(experiment.model))
    validation.validate(experiment)
    questions = task_scores.open(experiment.evaluation)
    corpus = data.open(experiment, None if source is None else source.tokenizer)
    console.print(corpus.facts, highlight=False)
    longest = max(experiment.data.length, experiment.data.source_length or 0)
    experiment = replace(experiment, model=config.resolve(experiment.model, corpus.vocabulary.size, longest))
    programs = loop.compiled_steps(experiment)
    if leads:
        run_folder.claim(folder, experiment, corpus.tokenizer)
    run_folder.check_shared(folder)

    run = _begin(experiment, programs, folder, source)
    probed: dict[int, Probed] = {}

    def probe(step: int, params: Params) -> None:
        if experiment.evaluation.probes != config.Probes():
            probed[step] = probes.probe(_language_model(experiment, params, corpus), experiment.evaluation.probes)
            said = probes.said(experiment.evaluation.probes, probed[step])
            console.print(f"step {step:,}: {said}", highlight=False, markup=False, soft_wrap=True)

    probe(int(run.step), run.params)
    asked = task_scores.begin(questions, _language_model(experiment, run.params, corpus), programs.layout)
    start, steps = int(run.step), experiment.schedule.steps
    clock = Clock(began, read(folder / FILE), start)
    clock.spent["starting"] += time.time() - began
    with (
        checkpoint.manager(folder, experiment.checkpoint) as checkpoints,
        Log(folder, experiment.logging, start, steps, console, clock, keeps=leads) as log,
        Tracer(folder, traced if leads else range(0)) as tracer,
        processes.ending_at_once(),  # the last save of a process alone would wait for the others
    ):
        log.print(f"{folder}: {models.size(run.params):,} parameters, from step {start:,}")

        def look(step: int, params: Params) -> tuple[list[Result], list[Sample]]:
            probe(step, params)
            model = _language_model(experiment, params, corpus)
            results = task_scores.ask(asked, model, programs.layout, step, folder)
            if results:
                log.record({"kind": "tasks", "step": step, "scores": task_scores.scores(results)})
            said = samples.samples(model, corpus) if experiment.evaluation.samples else []
            if said:
                log.record({"kind": "samples", "step": step, "samples": dict(said)})
            return results, said

        run = loop.train_loop(experiment, corpus, programs, run, checkpoints, log, tracer, look)
        log.print("evaluating on the held-out data …")
        with clock.on("evaluating"):
            losses = loop.held_out(experiment, corpus, programs, run.params, experiment.evaluation.final_batches)
        log.record({"kind": "held_out", "step": steps, "losses": losses})
        with clock.on("evaluating"):
            results, said = look(steps, run.params)
        spent = clock.now()

    result: dict[str, Any] = {
        "objectives": {name: {"loss": loss, **_baselines(experiment, corpus, name)} for name, loss in losses.items()},
        "steps": steps,
        "tokens": steps * experiment.data.batch * experiment.data.length,
        "seconds": time.time() - began,
        "goodput": share(spent),
        "spent": spent,
        "peak_memory_bytes": processes.peak_memory(),
    }
    if probed:
        result["probes"] = probes.result(experiment.evaluation.probes, probed)
    if leads:
        run_folder.write_result(folder, result)
    console.print(_table(result))
    if results:
        console.print(scores.tables(results))
    if probed:
        console.print(probes.show(result["probes"]))
    if said:
        console.print(samples.show(said))
    if leads:
        console.print(f"report: {report.write([folder])}", highlight=False, soft_wrap=True)
    return result


def _language_model(experiment: Experiment, params: Params, corpus: Corpus) -> LanguageModel:
    return LanguageModel(experiment.model, params, corpus.tokenizer, experiment.objectives)


def _begin(experiment: Experiment, programs: CompiledSteps, folder: Path, source: Initial | None) -> TrainState:
    """The newest checkpoint, or the state before the first step."""
    if checkpoint.steps(folder):
        return checkpoint.restore(folder, programs.state)
    seed, update, layout = experiment.seed, programs.optimizer, programs.layout
    if source is None:
        return state.create(experiment.model, update, seed, layout, programs.frozen)
    params = source.params(experiment.model, layout, seed)
    return state.begin(params, update, seed, programs.state, programs.frozen)


def _baselines(experiment: Experiment, corpus: Corpus, name: str) -> dict[str, float]:
    """The held-out losses of the unigram frequencies of an objective's training targets, and of a uniform guess."""
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


def _table(result: dict[str, Any]) -> Table:
    title = f"{result['steps']:,} steps, {result['tokens']:,} tokens, {result['seconds']:,.0f} s"
    table = Table("objective", title=title, title_justify="left")
    for heading in ("held-out loss", "perplexity", "unigram", "uniform", "loss / unigram"):
        table.add_column(heading, justify="right")
    for name, losses in result["objectives"].items():
        loss, unigram, uniform = losses["loss"], losses["unigram"], losses["uniform"]
        numbers = (f"{loss:.3f}", f"{np.exp(loss):,.1f}", f"{unigram:.3f}", f"{uniform:.3f}", f"{loss / unigram:.2f}")
        table.add_row(name, *numbers)
    return table
