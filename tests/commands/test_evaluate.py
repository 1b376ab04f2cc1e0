"""The command `evaluate`, the tasks of a run while it trains, and the job that watches a run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from research.commands import evaluate as evaluate_command
from research.errors import InputError
from research.inference import scoring
from research.runs import evaluate
from research.runs.records import read
from tests.tiny_run import QUESTIONS, STEPS


def results(folder: Path) -> list[dict]:
    return json.loads((folder / "results.json").read_text())


@pytest.fixture
def asked(monkeypatch) -> list[int]:
    """How many requests reach a model, call by call."""
    calls: list[int] = []
    original = scoring.score

    def score(model, params, how, requests, *others):
        calls.append(len(requests))
        return original(model, params, how, requests, *others)

    monkeypatch.setattr(scoring, "score", score)
    return calls


def test_a_run_is_asked_while_it_trains(run):
    found = results(run / "evaluation")
    assert [(r["checkpoint"], r["prompt_format"], r["kind"]) for r in found] == [
        (f"run@{step}", how, kind) for step in STEPS for how, kind in (("causal", "exact"), ("masked", "pseudo"))
    ]
    for result in found:
        assert result["items"] == QUESTIONS and result["truncated"] == QUESTIONS  # their contexts are longer than 64
        assert "untrained model" in result["measured"][0]["baselines"]
    records = [record for record in read(run / "metrics.jsonl") if record["kind"] == "tasks"]
    assert [record["step"] for record in records] == list(STEPS)
    assert set(records[0]["scores"]) == {"copying/causal", "copying/masked"}
    rows = run / "evaluation" / "rows" / "run@2" / "causal" / "copying.jsonl"
    assert len(rows.read_text().splitlines()) == QUESTIONS


def test_a_checkpoint_is_asked_in_all_its_prompt_formats_once(run, tmp_path, capsys, asked):
    arguments = [str(run), "--tasks", "copying", "docs_infill", "--limit", "4", "--out", str(tmp_path)]
    evaluate_command.main(arguments)
    shown = capsys.readouterr().out
    causal, masked = shown.split("run@4, masked prompt format: pseudo scores")
    assert "run@4, causal prompt format: exact scores" in causal
    assert "n/a" in causal and "n/a" not in masked
    infill = next(r for r in results(tmp_path) if (r["task"], r["prompt_format"]) == ("docs_infill", "causal"))
    assert infill["measured"] == [] and infill["note"] == "the model was not trained to do this"  # not a score of 0
    requests = sum(asked)
    evaluate_command.main(arguments)
    assert sum(asked) == requests > 0  # the second time, everything is in the cache
    assert capsys.readouterr().out == shown


def test_checkpoints_are_compared_with_the_first(run, tmp_path, capsys):
    names = [f"{run}@{step}" for step in STEPS]
    evaluate_command.main(
        [*names, "--tasks", "copying", "--limit", "4", "--untrained", "False", "--out", str(tmp_path)]
    )
    assert "run@4 minus run@2, paired: exact scores" in capsys.readouterr().out
    found = json.loads((tmp_path / "comparisons.json").read_text())
    assert {(one["first"], one["other"], one["kind"]) for one in found} == {
        ("run@2", "run@4", "exact"),
        ("run@2", "run@4", "pseudo"),
    }
    by_name = {(r["checkpoint"], r["prompt_format"]): r["measured"][0]["estimate"][0] for r in results(tmp_path)}
    first = next(one for one in found if one["metric"] == "accuracy" and one["kind"] == "exact")
    gain = by_name["run@4", "causal"] - by_name["run@2", "causal"]
    assert first["difference"][0] == pytest.approx(gain)


def test_folders_of_one_name_are_told_apart(tmp_path):
    assert evaluate.titles(["a/model", "b/model", "c/other", "x/model.gguf"]) == [
        "a-model",
        "b-model",
        "other",
        "model.gguf",
    ]


def test_a_job_evaluates_every_new_checkpoint_of_a_run(run, tmp_path, monkeypatch, capsys):
    copy, waited = tmp_path / "run", []
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("result.json", str(STEPS[-1]), "evaluation"))

    def sleep(seconds: float) -> None:
        """Meanwhile the training goes on."""
        waited.append(seconds)
        assert [r["checkpoint"] for r in results(copy / "evaluation")] == [f"run@{STEPS[0]}"]
        shutil.copytree(run / "checkpoints" / str(STEPS[-1]), copy / "checkpoints" / str(STEPS[-1]))
        shutil.copy(run / "result.json", copy)

    monkeypatch.setattr(time, "sleep", sleep)
    options = ["--tasks", "copying", "--limit", "2", "--prompt-format", "causal", "--untrained", "False"]
    evaluate_command.main([str(copy), "--watch", "True", "--every", "5", *options])
    assert waited == [5.0]
    assert [r["checkpoint"] for r in results(copy / "evaluation")] == [f"run@{step}" for step in STEPS]


def test_a_checkpoint_that_is_deleted_before_its_turn_is_named(run, tmp_path, monkeypatch, capsys):
    copy = tmp_path / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("evaluation"))
    seen = []

    def asked(names, *others):
        seen.append(names[0].rpartition("@")[2])
        shutil.rmtree(copy / "checkpoints" / str(STEPS[0]), ignore_errors=True)
        if seen[-1] == str(STEPS[0]):
            raise InputError("it has no such checkpoint")

    monkeypatch.setattr(evaluate, "evaluate", asked)
    evaluate_command.main([str(copy), "--watch", "True", "--tasks", "copying", "--limit", "1"])
    assert seen == [str(step) for step in STEPS]
    assert f"the checkpoint of step {STEPS[0]} was deleted before it was evaluated" in capsys.readouterr().out


def test_a_killed_evaluation_goes_on(run, tmp_path, asked):
    """Killed as soon as answers are on disk; the second process asks only for the others."""
    arguments = [str(run), "--tasks", "addition", "reversal", "subtraction", "--prompt-format", "causal"]
    arguments += ["--untrained", "False", "--out", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "research", "evaluate", *arguments], stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 300
    while not kept(tmp_path) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    there = kept(tmp_path)
    evaluate_command.main(arguments)
    assert there > 0 and sum(asked) == kept(tmp_path) - there > 0
    assert [r["task"] for r in results(tmp_path)] == ["addition", "reversal", "subtraction"]


def kept(folder: Path) -> int:
    """Whole lines of answers on disk."""
    return sum(path.read_bytes().count(b"\n") for path in (folder / "answers").glob("*.jsonl"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "evaluate begins with checkpoints"),
        (["RUN", "--tasks", "lambda"], "no task 'lambda'"),
        (["RUN", "--tasks", "lambada"], r"lambada_test_openai.jsonl is not in a data folder"),
        (["RUN@3", "--tasks", "copying"], "no checkpoint of step 3"),
        (["RUN", "--tasks", "copying", "--prompt-format", "prefix"], "not trained with 'prefix'"),
        (["RUN", "RUN", "--watch", "True"], "--watch follows one run, not 2"),
        (["nowhere", "--tasks", "copying"], "nowhere"),
    ],
)
def test_mistakes_are_told(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        evaluate_command.main([one.replace("RUN", str(run)) for one in arguments])
    assert os.listdir(tmp_path) == []
