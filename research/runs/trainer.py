"""The story of a run: check, prepare the data, make or restore the state, take the steps, write the result."""

import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from research import models, sharding
from research.config import Experiment
from research.runs import checks, facts, prepared, records, results, run_folder, stopping
from research.runs.checkpointing import Checkpointing
from research.runs.clock import Clock
from research.runs.evaluating import Evaluators
from research.runs.guard import Guard
from research.runs.log import Log
from research.runs.meter import Meter
from research.runs.owner import owned
from research.runs.start import start
from research.runs.tracing import Tracer
from research.runtime import processes


def train(
    experiment: Experiment,
    folder: Path,
    console: Console,
    traced: range = range(0),
    resume_from: int | None = None,
    resume_schedule: bool = False,
) -> dict[str, Any]:
    """Trains in a run folder to the last step, from its newest checkpoint, or that of step `resume_from`. The steps
    `traced`, counted from 1, are profiled. With `resume_schedule`, more steps than before may raise the learning rate
    again. After a SIGTERM or SIGINT it saves and raises SystemExit with 128 + the signal's number. Returns what
    `result.json` has, see `results.result`.

    Raises:
      InputError: if the experiment cannot run, the folder has another one, or the numbers of a step are ruined.
      OSError: if something cannot be written that the run needs; what was saved before is whole.
    """
    began, main = time.monotonic(), processes.is_main_process()
    with stopping.exits():
        checked = checks.check(experiment, folder, resume_from, resume_schedule)
        with owned(folder, lambda text: console.print(Text(text))) if main else nullcontext() as owner:
            run = prepared.prepare(checked, folder, console)
            state, progress, saved = start(run, checked)
            experiment, first, last = run.experiment, int(state.step), run.experiment.schedule.steps
            clock = Clock(began, records.read(folder / records.FILE), first)
            with (
                Checkpointing(run, owner, first) as checkpoints,
                Log(folder, experiment.logging, first, last, console, clock, keeps=main) as log,
                Tracer(folder, traced if main else range(0)) as tracer,
                processes.ending_at_once(),  # the last save of a process alone would wait for the others
            ):
                evaluators = Evaluators(run, checked.tasks, state, log)
                guard = Guard(run, checkpoints.finished, progress.get("guard", {}))
                meter = Meter(run, guard, log, progress.get("meter", {}))
                clock.spent["starting"] += time.monotonic() - began
                if main and first < last:
                    run_folder.drop_result(folder)
                log.print(f"{folder}: {models.size(state.params):,} parameters, from step {first:,}{saved}")
                for line in facts.lines(run, last - first, meter.utilisation):
                    log.print(line)
                rows = run.compiled.layout.rows(experiment.data.batch)
                with stopping.notices() as asked_to_stop, run.corpus.loader(first, last, rows) as loader:
                    for number, host_batch in meter.waiting(loader):
                        with clock.on("compiling") if number == first else nullcontext():
                            batch = sharding.shard_batch(run.compiled.layout, host_batch)
                            state, report = tracer.take(number + 1, guard.take, number, state, batch)
                        meter.note(number, report)  # reads the metrics of the step before
                        done, stop = number + 1, asked_to_stop(number + 1)
                        save = checkpoints.due(done) or stop is not None
                        locally = not save and checkpoints.due_locally(done)
                        due = evaluators.due(done, save and stop is None)
                        if due or save or locally:
                            meter.catch_up()  # so nothing is saved after a bad step
                            evaluators.evaluate(due, done, state.params)
                            if save:
                                checkpoints.save(state, batch, meter, evaluators.loss(due))
                            if locally:
                                checkpoints.save_locally(state, batch, meter)
                            if stop is not None:
                                checkpoints.stop(stop, meter, done)
                            meter.pause()
                log.print("evaluating on the held-out data …")
                evaluators.finish(last, state.params)
                result = results.result(run, evaluators, guard, clock.now(), time.monotonic() - began)
            if main:  # and what was recorded and saved lasts
                run_folder.write_result(folder, result)
    results.show(console, result, evaluators)
    return result
