"""What a report says of runs, complete, killed or several."""

import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from research.analysis import curves, page, runs, scores, summary, time_spent
from research.commands import report
from research.errors import InputError
from tests.analysis.runs import STEPS, evaluate, experiment, write


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write(tmp_path_factory.mktemp("runs") / "first")
    evaluate(folder)
    return folder


@pytest.fixture(scope="module")
def other(folder):
    """A run that was killed, with another batch; its last record is half a line."""
    path = folder.parent / "other"
    write(path, seed=1, complete=False, data=replace(experiment().data, batch=32))
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 21, "losses": {"causal": 7')
    return path


def test_a_killed_run_is_read_up_to_the_last_whole_line(other):
    (run,) = runs.read([other])
    assert run.step == STEPS // 2 == run.of_kind("train")[-1]["step"]
    shown = dict(summary.overview([run]))
    assert shown["state"] == [f"at step 20 of 40, {20 * 32 * 128:,} tokens"] and "time and memory" not in shown


def test_a_run_without_any_record_is_a_page(tmp_path):
    write(tmp_path, complete=False)
    (tmp_path / "metrics.jsonl").unlink()
    assert "at step 0 of 40" in page.write([tmp_path]).read_text()


def test_curves_are_what_was_recorded(folder):
    (run,) = runs.read([folder])
    charts = {chart.title: chart.curves for chart in curves.charts([run])}
    training, held_out, baseline = charts["causal: loss, nats per target"]
    assert training.steps == list(range(1, STEPS + 1)) and held_out.steps == [10, 20, 30, 40]
    recorded = [record["losses"]["causal"] for record in run.of_kind("train")]
    np.testing.assert_allclose(training.values, recorded, rtol=1e-4)
    assert set(baseline.values) == {3.0}
    assert len(charts["masked: loss, nats per target"]) == 2  # nothing was held out
    assert charts["score on cloze/causal"][0].values == [0.1, 0.2, 0.3, 0.4]
    assert set(charts["model FLOPs utilisation, %"][0].values) == {25.0}


def test_long_curves_keep_their_spikes():
    values = np.sin(np.arange(50_000) / 5000)
    values[[777, 31_234]] = 9, -9
    kept = curves.thin(values)
    assert len(kept) <= curves.POINTS and {777, 31_234} <= set(kept.tolist())
    assert (np.diff(kept) > 0).all() and np.diff(kept).max() < 200


def test_the_latest_record_of_a_step_counts(folder):
    (run,) = runs.read([folder])
    again = {"kind": "held_out", "step": 40, "losses": {"causal": 1.5}}
    run = replace(run, records=[*run.records, again])
    assert [record["losses"]["causal"] for record in run.of_kind("held_out")][-1] == 1.5
    assert [record["step"] for record in run.of_kind("held_out")] == [10, 20, 30, 40]


def test_runs_are_compared_by_what_differs_first_and_seeds_belong_together(folder, other):
    first, second = runs.read([folder, other])
    headings, rows = summary.comparison([first, second])
    assert headings == ["data.batch", "step", "causal, held-out", "tokens/s"]
    assert rows[0][:2] == ["16", "40"] and rows[1][:2] == ["32", "20"] and float(rows[0][2]) < float(rows[1][2])
    again = replace(first, experiment=replace(first.experiment, seed=7))
    assert summary.seeds([first, second, again]) == [0, 1, 0]


def test_hours_are_all_time_since_the_first_start(folder):
    (run,) = runs.read([folder])
    steps, hours = curves.hours(run)
    assert steps == list(range(STEPS + 1)) and hours[0] == 0
    assert hours[-1] == pytest.approx((STEPS / 2 + 3 + STEPS / 2) / 3600, rel=1e-4)


def test_settings_are_those_that_differ(folder, other):
    first, second = runs.read([folder, other])
    assert summary.settings([first, second]) == [("data.batch", ["16", "32"])]
    alone = dict(summary.settings([first]))
    assert alone["model.width"] == ["16"] and alone["objectives.1"] == ["Masked, rate 0.5"]
    assert "data.length" not in alone and "objectives.0" not in alone


def test_runs_of_one_name_are_told_apart_by_their_paths(folder, tmp_path):
    same = write(tmp_path / "first")
    assert [run.name for run in runs.read([folder, same])] == [str(folder), str(same)]


def test_samples_are_thinned_out_from_the_last_one(folder):
    (run,) = runs.read([folder])
    assert [record["step"] for record in summary.samples(run)] == [40, 30, 20, 10]
    many = [{"kind": "samples", "step": step, "samples": {}} for step in range(1, 101)]
    steps = [record["step"] for record in summary.samples(replace(run, records=many))]
    assert steps[0] == 100 and len(steps) <= summary.SAMPLES and set(np.diff(steps)) == {-5}


def test_the_scores_of_the_last_step_lie_within_their_pictures(folder):
    (run,) = runs.read([folder])
    accuracy, bits = scores.evaluations([run])
    assert (accuracy.scores[0].low, accuracy.scores[0].dot, accuracy.scores[0].mark) == (40, 50, 25)
    assert bits.range == (1.5, 4.0) and bits.scores[0].mark == 100 and bits.scores[0].low == 0
    without = replace(run, evaluations=[_without_interval(run.evaluations[0])])
    assert scores.evaluations([without])[0].scores[0].value == "0.500"


def _without_interval(result: dict) -> dict:
    measured = [{**one, "estimate": [one["estimate"][0], None, None]} for one in result["measured"]]
    return {**result, "measured": measured}


def test_time_is_what_was_recorded_last(folder, other):
    whole, half = runs.read([folder, other])
    parts = time_spent.time(whole)
    assert {part.name: part.seconds for part in parts} == {"training": 20, "compiling": 3, "waiting": 20}
    assert sum(part.share for part in parts) == pytest.approx(100)
    assert time_spent.time(half)[0].seconds == 10
    ended = replace(whole, result={**whole.result, "spent": {"training": 25.0}})
    assert [part.seconds for part in time_spent.time(ended)] == [25]
    assert time_spent.time(replace(whole, records=[], result=None)) == []


def test_what_is_no_run_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"has no experiment\.json"):
        page.write([tmp_path])
    with pytest.raises(InputError, match="report begins with run folders"):
        report.main([])


def test_where_the_page_goes(folder, other, tmp_path, capsys):
    assert page.write([folder]) == folder / "report.html"
    assert page.write([folder, other]) == folder.parent / "report.html"
    report.main([str(folder), "--out", str(tmp_path / "new" / "page.html")])
    assert capsys.readouterr().out == f"{tmp_path / 'new' / 'page.html'}\n"


def test_a_page_of_a_long_run_is_quick_and_small(folder):
    (run,) = runs.read([folder])
    long = [{**record, "step": n} for n, record in enumerate(run.of_kind("train") * 500, start=1)]
    from research.analysis import page

    began = time.process_time()
    text = page.html([replace(run, records=long)] * 4)
    assert time.process_time() - began < 3
    assert len(text.encode()) < 2_000_000


def test_the_command_line_is_answered_without_heavy_imports():
    code = "import research.commands.report, sys; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
