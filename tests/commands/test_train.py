"""A whole run: what it leaves behind, and that no interruption changes its result."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

from research import config, models
from research.config import (
    MLP,
    Attention,
    Causal,
    Checkpoint,
    Data,
    Evaluation,
    Experiment,
    Logging,
    Masked,
    Model,
    Optimizer,
    Schedule,
)
from research.errors import InputError
from research.runs import prepared, run_folder
from research.runs.clock import KINDS
from research.runs.records import read
from research.runs.trainer import train
from research.training import checkpoint
from research.training.compiled_steps import compiled_steps

STEPS = 6
LONGER = 40


def _tiny(text: str, cache: str) -> Experiment:
    """Two objectives, and dropout, so that every kind of randomness takes part."""
    return Experiment(
        model=Model(width=16, depth=1, dropout=0.1, attention=Attention(heads=2, dropout=0.1), mlp=MLP(width=32)),
        objectives=(Causal(), Masked()),
        data=Data(source=f"text:{text}", tokenizer="bytes", length=32, batch=8, held_out=0.2, cache=cache),
        optimizer=Optimizer(learning_rate=1e-2),
        schedule=Schedule(steps=STEPS, warmup=2),
        checkpoint=Checkpoint(every=2, keep_last=10),
        evaluation=Evaluation(every=4, batches=1, samples=False),
        logging=Logging(every=1),
    )


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    text = folder / "text.txt"
    text.write_text("\n".join(f"{n} and {n * n} are a number and its square." for n in range(400)))
    return _tiny(str(text), str(folder / "cache"))


@pytest.fixture(scope="module")
def whole(experiment, tmp_path_factory):
    """An uninterrupted run: its folder and its result."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, train(experiment, folder, _quiet(), traced=range(3, 5))


def _quiet() -> Console:
    return Console(file=io.StringIO())


def _params(folder: Path, step: int):
    resolved = config.load(folder / "experiment.json")
    like = compiled_steps(resolved).state.params
    return jax.tree.map(np.asarray, checkpoint.restore_params(folder, like, step))


def _losses(folder: Path) -> list:
    return [(record["kind"], record["step"], record["losses"]) for record in read(folder / "metrics.jsonl")]


def test_a_run_folder_is_all_that_a_later_command_needs(experiment, whole):
    folder, result = whole
    files = {
        "experiment.json",
        "tokenizer",
        "checkpoints",
        "metrics.jsonl",
        "tensorboard",
        "profile",
        "result.json",
    }
    assert set(os.listdir(folder)) == files
    assert sum(file.stat().st_size for file in (folder / "tensorboard").iterdir()) > 1000
    assert run_folder.read_result(folder) == result
    assert set(result) == {"objectives", "steps", "tokens", "seconds", "goodput", "spent", "peak_memory_bytes"}
    assert set(result["objectives"]) == {"causal", "masked"}
    for losses in result["objectives"].values():
        assert set(losses) == {"loss", "unigram", "uniform"}
        assert (
            0
            < losses["unigram"]
            < losses["uniform"]
            == pytest.approx(np.log(config.load(folder / "experiment.json").model.vocabulary), abs=1)
        )
    assert result["tokens"] == STEPS * experiment.data.batch * experiment.data.length
    saved = json.loads((folder / "experiment.json").read_text())
    assert saved["versions"]["jax"] == jax.__version__ and saved["hardware"]["devices"] == jax.device_count()
    steps = [record["step"] for record in read(folder / "metrics.jsonl") if record["kind"] == "train"]
    assert steps == list(range(1, STEPS + 1))


def test_the_traced_steps_are_in_the_profile(whole):
    folder, _ = whole
    (path,) = (folder / "profile").rglob("*.xplane.pb")
    planes = jax.profiler.ProfileData.from_file(str(path)).planes
    events = [event for plane in planes for line in plane.lines for event in line.events]
    assert sorted(dict(e.stats)["step_num"] for e in events if e.name == "train") == [3, 4]
    assert any("dot" in event.name for event in events)  # what was computed


def test_all_time_is_accounted_for(whole):
    folder, result = whole
    spent = result["spent"]
    assert sum(spent.values()) == pytest.approx(result["seconds"], rel=0.5) and sum(spent.values()) <= result["seconds"]
    assert min(spent[kind] for kind in ("training", "starting", "compiling", "waiting", "saving", "evaluating")) > 0
    assert spent["repeating"] == spent["down"] == 0
    assert result["goodput"] == spent["training"] / sum(spent.values())
    records = read(folder / "metrics.jsonl")
    for before, after in pairwise(records):
        assert all(after["spent"][kind] >= before["spent"][kind] for kind in KINDS[1:])


def test_training_lowers_the_loss_of_both_objectives(whole):
    folder, result = whole
    first = next(record for record in read(folder / "metrics.jsonl"))
    for name, losses in result["objectives"].items():
        assert losses["loss"] < first["losses"][name] - 0.3


@pytest.fixture(scope="module")
def longer(experiment):
    return replace(experiment, schedule=replace(experiment.schedule, steps=LONGER))


@pytest.fixture(scope="module")
def undisturbed(longer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    train(longer, folder, _quiet())
    return folder


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_run_that_is_stopped_and_goes_on_equals_one_that_was_not(longer, undisturbed, tmp_path, number):
    """Stopped by a real signal at whatever step it is; then the rest is taken, bit for bit like an undisturbed run."""
    path, stopped = tmp_path / "experiment.json", tmp_path / "stopped"
    config.save(longer, path)
    command = [sys.executable, "-P", "-m", "research", "train", str(path), "--workdir", str(stopped)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 120
    while not checkpoint.steps(stopped) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number), output
    there = checkpoint.steps(stopped)
    assert there and there[-1] < LONGER
    if number == signal.SIGTERM:
        assert f"saved at step {there[-1]}" in output
        assert "attention: plain (its weights have dropout)" in output
    train(longer, stopped, _quiet())
    one, other = (jax.tree.leaves(_params(folder, LONGER)) for folder in (stopped, undisturbed))
    for left, right in zip(one, other, strict=True):
        np.testing.assert_array_equal(left, right)
    assert _losses(stopped) == _losses(undisturbed)


def test_another_seed_gives_another_run(experiment, whole, tmp_path):
    folder, _ = whole
    train(replace(experiment, seed=1), tmp_path, _quiet())
    assert _losses(tmp_path) != _losses(folder)


def test_a_finished_run_is_evaluated_again_and_nothing_else(experiment, whole):
    folder, result = whole
    again = train(experiment, folder, _quiet())
    assert again["objectives"] == result["objectives"]
    assert checkpoint.steps(folder)[-1] == STEPS


def test_the_folder_of_another_experiment_is_refused(experiment, whole):
    folder, _ = whole
    other = replace(experiment, optimizer=replace(experiment.optimizer, learning_rate=0.5))
    with pytest.raises(InputError, match=r"optimizer.learning_rate: 0.01 there, 0.5 here"):
        train(other, folder, _quiet())


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(experiment, tmp_path, monkeypatch):
    """Parameters go to infinity at the fifth step; the checkpoint before it is kept, and the documents are named."""

    def poisoned(experiment):
        made = compiled_steps(experiment)

        def train_step(state, batch):
            poison = 1.0 if int(state.step) < 4 else np.inf
            return made.train_step(replace(state, params=jax.tree.map(lambda x: x * poison, state.params)), batch)

        return replace(made, train_step=train_step)

    monkeypatch.setattr(prepared, "compiled_steps", poisoned)
    with pytest.raises(InputError, match=r"step 5: the loss is nan(.|\n)*text\.txt"):
        train(experiment, tmp_path, _quiet())
    assert checkpoint.steps(tmp_path) == [2, 4]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(_params(tmp_path, 4)))


def test_half_a_line_of_metrics_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "stop", "step": 1}\n{"kind": "train", "st')
    assert read(path) == [{"kind": "stop", "step": 1}]


def test_parameters_are_counted(whole):
    folder, _ = whole
    resolved = config.load(folder / "experiment.json").model
    counted = models.size(jax.eval_shape(lambda: models.init(resolved, jax.random.key(0))))
    assert counted == models.size(_params(folder, STEPS))
