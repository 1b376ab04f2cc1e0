"""One step of a run once more, for a look at its batch: from the checkpoint before it, and nothing is written."""

from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from research import sharding
from research.config import Experiment
from research.errors import InputError
from research.runs import checks, prepared, run_folder, start
from research.training import checkpoint
from research.training.step import Metrics


def replay(experiment: Experiment, folder: Path, step: int, console: Console) -> Metrics:
    """Takes the steps from the last checkpoint before `step`, counted from 1, to it, and shows the rows of its batch
    with their losses and documents, the worst first.

    Raises:
      InputError: if the experiment cannot run, the data is not what it was, or the run does not have that step.
    """
    if not 1 <= step <= experiment.schedule.steps:
        raise InputError(f"--replay {step}: steps are between 1 and {experiment.schedule.steps}")
    if not (folder / "experiment.json").exists():
        raise InputError(f"--replay {step}: {folder} is not a run folder")
    checked = checks.check(experiment, folder)
    run = prepared.open_data(checked, folder, console)
    run_folder.check_data(folder, run.corpus.contents)
    before = [saved for saved in checkpoint.steps(folder) if saved < step]
    state = checkpoint.restore(folder, run.compiled.state, before[-1]) if before else start.first_state(run, checked)
    console.print(f"from step {int(state.step):,}", highlight=False)
    rows = run.compiled.layout.rows(run.experiment.data.batch)
    for number in range(int(state.step), step):
        batch = sharding.shard_batch(run.compiled.layout, run.corpus.batch(number, rows))
        state, metrics = run.compiled.train_step(state, batch)
    found: Metrics = jax.device_get(metrics)
    console.print(_table(found, step, run.corpus.documents(step - 1)))
    return found


def _table(metrics: Metrics, step: int, documents: list[list[tuple[str, int]]]) -> Table:
    norms = f"gradient norm {metrics.gradient_norm:.4g}, parameter norm {metrics.parameter_norm:.4g}"
    table = Table(title=f"step {step:,}: loss {metrics.loss:.4g}, {norms}", title_justify="left")
    for heading in ("row", "loss", "targets", "documents"):
        table.add_column(heading, overflow="fold")
    losses = metrics.rows.losses / np.maximum(metrics.rows.weights, 1e-9)
    for row in np.argsort(-np.nan_to_num(losses, nan=np.inf), kind="stable"):
        places = ", ".join(f"{source} #{number}" for source, number in documents[row])
        table.add_row(str(row), f"{losses[row]:.4g}", f"{metrics.rows.weights[row]:g}", Text(places))
    return table
