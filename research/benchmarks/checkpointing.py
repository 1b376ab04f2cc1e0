"""What an asynchronous checkpoint costs the steps beside it, checksums included."""

import tempfile
import time
from pathlib import Path

import jax

from research import sharding
from research.benchmarks.pairs import Made, Measured
from research.benchmarks.training import opened
from research.config import Checkpoint, Experiment
from research.runtime import processes
from research.training import checkpoint, state
from research.training.compiled_steps import compiled_steps


def steps(experiment: Experiment, saving: bool) -> Made:
    """A unit of work is a step; with `saving`, a turn begins with a checkpoint, written while its steps are taken."""
    processes.configure_jax()
    experiment, corpus = opened(experiment)
    programs = compiled_steps(experiment)
    run = state.create(experiment.model, programs.optimizer, experiment.seed, programs.layout, programs.frozen)
    batch = sharding.shard_batch(programs.layout, corpus.batch(0))

    def turn(count: int) -> Measured:
        nonlocal run
        with tempfile.TemporaryDirectory() as folder, checkpoint.manager(Path(folder), Checkpoint()) as manager:
            begin = time.perf_counter()
            if saving:
                checkpoint.save(manager, run, None)
            for _ in range(count):
                run, metrics = programs.train_step(run, batch)
                jax.block_until_ready(metrics)
            manager.wait_until_finished()
            seconds = time.perf_counter() - begin
        return {"rate": count / seconds, "seconds": seconds}

    size = sum(leaf.nbytes for leaf in jax.tree.leaves(run))
    return {"bytes": size}, turn
