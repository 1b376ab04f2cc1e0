"""One run that is killed again and again, before one of its operations on files or at any other moment, and resumed
each time: its parameters and records are those of a run that was never interrupted."""

import collections
import random
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace

import jax
import numpy as np
import pytest

from research import config
from research.config import Checkpoint, Evaluation, Logging, Schedule
from research.runs import stopping
from research.runs.trainer import train
from research.training import checkpoint
from research.training.compiled_steps import compiled_steps
from tests.faults.shared import experiment, measures, quiet

ENDLESS = 100_000
OPERATIONS = 120  # of a start until some checkpoints are saved


@pytest.mark.slow
@pytest.mark.parametrize("kills", [12, 60])
def test_a_chain_of_kills_loses_nothing_that_was_saved(tmp_path, monkeypatch, kills):
    """Two of three kills come before an operation on a file, the third after some time."""
    endless = replace(
        experiment(tmp_path),
        schedule=Schedule(steps=ENDLESS, warmup=2, name="inverse_square_root"),
        checkpoint=Checkpoint(every=2, keep_last=3),
        evaluation=Evaluation(every=6, batches=1, final_batches=1, samples=False),
        logging=Logging(every=1, tensorboard=False),
    )
    config.save(endless, tmp_path / "given.json")
    draw = random.Random(kills)
    deaths = [f"{draw.uniform(0.1, 4):.2f}s" if n % 3 == 2 else str(draw.randint(1, OPERATIONS)) for n in range(kills)]
    command = [sys.executable, "-m", "tests.faults.killed", str(tmp_path / "given.json"), str(tmp_path / "run")]
    ended = subprocess.run([*command, *deaths], capture_output=True, text=True, timeout=1800)
    lines = ended.stdout.splitlines()
    assert len(lines) == kills and all(line.startswith(f"{-signal.SIGKILL} ") for line in lines), [*lines, ended.stderr]
    moments = collections.Counter(line.split()[1] for line in lines)
    print(dict(moments), "steps with a checkpoint:", checkpoint.steps(tmp_path / "run"))
    operations = {"fsync", "os.rename", "open"}
    assert operations <= moments.keys() if kills == 60 else operations & moments.keys()
    saved = checkpoint.steps(tmp_path / "run")
    assert saved and saved[-1] >= 4
    last = saved[-1] + 3
    for folder in (tmp_path / "run", tmp_path / "whole"):
        stop_at(monkeypatch, last)
        with pytest.raises(SystemExit):
            train(endless, folder, quiet())
        assert checkpoint.steps(folder)[-1] == last
        assert not list(folder.rglob("*unfinished*"))
    assert measures(tmp_path / "run") == measures(tmp_path / "whole")
    states = [params(folder, last, endless) for folder in (tmp_path / "run", tmp_path / "whole")]
    jax.tree.map(np.testing.assert_array_equal, *states)


def stop_at(monkeypatch, step):
    """As if SIGTERM arrived during that step."""

    @contextmanager
    def notices():
        yield lambda done: signal.SIGTERM if done == step else None

    monkeypatch.setattr(stopping, "notices", notices)


def params(folder, step, given):
    like = compiled_steps(config.load(folder / "experiment.json")).state
    restored = checkpoint.restore(folder, like, step)
    return jax.device_get((restored.params, restored.optimizer_state))
