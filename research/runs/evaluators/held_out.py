"""The mean held-out loss of each objective."""

from typing import Any

import jax
import numpy as np
from rich.console import RenderableType

from research import sharding
from research.objectives import Batch
from research.runs.evaluators import Moment
from research.runs.prepared import Prepared
from research.training import held_out_loss


class HeldOut:
    """During training over a number of batches, at the end over all of the held-out data or as many as configured."""

    kind = "held_out"

    def __init__(self, run: Prepared) -> None:
        self.run, self.every = run, run.experiment.evaluation.every
        self.losses: dict[str, float] = {}

    def evaluate(self, moment: Moment) -> dict[str, Any]:
        experiment, compiled = self.run.experiment, self.run.compiled
        rows = compiled.layout.rows(experiment.data.batch)
        batches = experiment.evaluation.final_batches if moment.final else experiment.evaluation.batches

        def row_sums(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
            return jax.device_get(compiled.eval_step(moment.params, sharding.shard_batch(compiled.layout, batch)))

        self.losses = {
            objective.name: held_out_loss.mean_loss(row_sums, self.run.corpus.held_out(objective, rows)[:batches])
            for objective in experiment.objectives
        }
        return {"losses": self.losses}

    @property
    def mean(self) -> float:
        """Over the objectives, of the last evaluation; by it, the best checkpoint is known."""
        return float(np.mean(list(self.losses.values())))

    def table(self) -> RenderableType | None:
        return None  # the result's own table has it, beside baselines
