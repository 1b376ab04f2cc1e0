"""Evaluators are asked at their own intervals, and all of them at the end."""

from dataclasses import replace

from research.config import Checkpoint, Evaluation, Probes
from research.runs import samples
from research.runs.evaluators import samples as evaluator
from research.runs.records import FILE, read
from research.runs.samples import Sample
from research.runs.trainer import train
from research.training import checkpoint
from tests.faults.shared import STEPS, experiment, quiet, said


def test_each_evaluator_has_its_interval(tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "samples", lambda model, corpus: [Sample("causal", [("1 and", "dim")])])
    small = experiment(
        tmp_path,
        evaluation=Evaluation(
            every=6, batches=1, final_batches=1, tasks=("copying",), limit=2, tasks_every=4, samples_every=5,
            probes_every=0, probes=Probes(continuations=(("1 and", " 1"),)),
        ),
    )  # fmt: skip
    result = train(small, tmp_path / "run", quiet())
    found = {
        kind: [record["step"] for record in read(tmp_path / "run" / FILE) if record["kind"] == kind]
        for kind in ("held_out", "tasks", "samples")
    }
    assert found == {"held_out": [6, STEPS], "tasks": [4, 8, STEPS], "samples": [5, 10, STEPS]}
    assert result["probes"]["steps"] == [0, STEPS]


def test_where_the_best_is_kept_every_save_has_a_held_out_loss(tmp_path):
    small = experiment(tmp_path, checkpoint=Checkpoint(every=4, keep_last=1, keep_best=True))
    small = replace(small, evaluation=replace(small.evaluation, every=0))
    train(small, tmp_path / "run", quiet())
    losses = {
        record["step"]: record["losses"]["causal"]
        for record in read(tmp_path / "run" / FILE)
        if record["kind"] == "held_out" and not record.get("final")
    }
    assert list(losses) == [4, 8, STEPS]
    assert set(checkpoint.steps(tmp_path / "run")) == {min(losses, key=lambda step: losses[step]), STEPS}


def test_a_sample_that_fails_is_named_once_and_ends_nothing(tmp_path, monkeypatch):
    def failing(model, corpus):
        raise ValueError("no word")

    monkeypatch.setattr(evaluator.samples, "samples", failing)
    small = experiment(tmp_path)
    console = quiet()
    train(replace(small, evaluation=replace(small.evaluation, samples=True)), tmp_path / "run", console)
    assert said(console).count("samples failed and are tried again later: ValueError: no word") == 1
