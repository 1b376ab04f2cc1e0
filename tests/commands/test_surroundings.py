"""Commands where not everything is as usual: other encodings, paths with odd characters, no home, no accelerator."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from research.commands import command_line
from research.config import Probes, config_file
from research.data import cache, tokenizers
from research.errors import InputError
from research.runs.evaluators import probes as shown_probes
from research.runtime import processes
from tests.faults.shared import quiet, said

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "[INST] Who? [/INST] :smile: [bold]"
CONFIG = '''\
from __future__ import annotations

from dataclasses import dataclass
from research.config import *


@dataclass
class Size:
    """Whose annotations are text."""

    width: int | None = 16


def get_config() -> Experiment:
    """Größe."""
    return Experiment(
        model=Model(width=Size().width, depth=1, attention=Attention(heads=2), mlp=MLP(width=32)),
        data=Data(source="text:TEXT", tokenizer="characters", length=16, batch=8, held_out=0.2, cache="CACHE"),
        schedule=Schedule(steps=2, warmup=1),
        evaluation=Evaluation(every=1, batches=1, final_batches=1, probes=Probes(texts=("é [/INST] :smile:",))),
        logging=Logging(tensorboard=False),
    )
'''


def command(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    usual = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": "", **environment}
    return subprocess.run(
        [sys.executable, "-P", "-m", "research", *map(str, arguments)],
        cwd=ROOT,
        env=usual,
        capture_output=True,
        check=False,
    )


@pytest.fixture
def written(tmp_path) -> Path:
    """A config and its text, both in UTF-8 with a byte order mark; the text lies in a folder with odd characters."""
    folder = tmp_path / "a [b] *?#@{x} %"
    folder.mkdir()
    text = "Größe é [/INST] :smile: 世界\n" * 40
    (folder / "x#y.txt").write_text(text, encoding="utf-8-sig")
    source = CONFIG.replace("TEXT", f"{folder}/x#y.txt").replace("CACHE", str(tmp_path / "cache"))
    (tmp_path / "mine.py").write_text(source, encoding="utf-8-sig")
    return tmp_path / "mine.py"


def locales(folder: Path) -> list[dict[str, str]]:
    """Settings of a process whose files would be opened as ASCII, and of one of Latin-1 where that can be made."""
    found = [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
    made = subprocess.run(
        ["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(folder / "en_US.ISO-8859-1")], capture_output=True
    )
    if (folder / "en_US.ISO-8859-1").is_dir() and made.returncode in (0, 1):  # 1: with warnings
        found.append({"LOCPATH": str(folder), "LC_ALL": "en_US.ISO-8859-1", "PYTHONUTF8": "0"})
    return found


def test_encodings_and_odd_names_do_not_matter(written, tmp_path):
    """The second locale finds the run of the first, whose data it must read as the same, from a cache of its own."""
    run = tmp_path / "[bold] #@{x}"
    for number, settings in enumerate(locales(tmp_path)):
        ended = command("train", written, "--workdir", run, "--data.cache", tmp_path / str(number), **settings)
        assert ended.returncode == 0, ended.stderr.decode(errors="replace")
        out = ended.stdout.decode("latin-1")
        assert "[/INST] :smile:" in out and f"report: {run}" in out
        assert "x#y.txt" in (run / "report.html").read_text(encoding="utf-8")
    ids = tokenizers.load(str(run / "tokenizer")).encode("Größe é 世")
    assert tokenizers.load(str(run / "tokenizer")).decode(ids) == "Größe é 世"
    with pytest.raises(InputError):
        tokenizers.load(str(run / "tokenizer")).encode("\ufeff")


def test_an_accelerator_that_is_not_here_is_told_in_one_line(written, tmp_path):
    ended = command("train", written, "--workdir", tmp_path / "run", JAX_PLATFORMS="cuda")
    lines = ended.stderr.decode().splitlines()
    assert ended.returncode == 2, lines
    assert lines[-1].startswith("error: JAX_PLATFORMS=cuda: ") and "unset it to use" in lines[-1]
    assert not any("Traceback" in line for line in lines)


def test_without_a_home_directory_the_setting_that_helps_is_named(monkeypatch):
    def nobody(*_):
        raise KeyError("uid not found")

    monkeypatch.delenv("HOME")
    monkeypatch.delenv("RESEARCH_CACHE", raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    with pytest.raises(InputError, match=r"no home directory; set RESEARCH_CACHE"):
        processes.cache_folder()
    monkeypatch.setenv("RESEARCH_CACHE", "/somewhere")
    assert processes.cache_folder() == Path("/somewhere")
    import research

    with pytest.raises(InputError, match=r"~/model: there is no such home directory"):
        research.load("~/model")


def test_a_cache_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cache .*file cannot be written: File exists; .* --data\.cache"):
        cache.made(tmp_path / "file" / "store", lambda _: None)
    with pytest.raises(InputError, match=r"cannot be written: Not a directory"):
        cache.made(tmp_path / "file" / "deeper" / "store", lambda _: None)

    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(cache.FileLock, "acquire", refused)
    with pytest.raises(InputError, match=r"cannot be written: Permission denied"):
        cache.made(tmp_path / "store", lambda _: None)


def test_a_config_whose_annotations_are_text_is_read(written):
    known = set(sys.modules)
    assert config_file.read(written).model.width == 16
    assert command_line.train([str(written), "--seed", "3"]).experiment.seed == 3
    assert written.stem not in set(sys.modules) - known  # an import could mean it


def test_a_probe_is_shown_as_it_is():
    """In a terminal too, where markup and names of emoji would be read."""
    probes = Probes(continuations=((PROMPT, "[/x] :smile:"),), texts=(PROMPT,))
    probed = shown_probes.Probed([0.5], [[1.0]], [["[/b]"]], [])
    console = quiet()
    console.print(shown_probes.show(shown_probes.result(probes, {0: probed})))
    shown = said(console)
    assert f"P('[/x] :smile:' | {PROMPT!r})" in shown and f"loss of '[/b]' in {PROMPT!r}" in shown


def test_names_of_tasks_and_checkpoints_are_shown_as_they_are():
    from research.evaluation import result_files
    from research.evaluation.suite import Result

    result = Result("[bold] run [/x]", "[/INST] task", "causal", "exact", 0, 0, 0, 0, "s", "d", (), "[/n] :smile:")
    console = quiet()
    console.print(result_files.tables([result]))
    assert all(
        text in said(console) for text in ("[bold] run [/x], causal prompt format", "[/INST] task", "[/n] :smile:")
    )


def test_numbers_that_are_none_and_verdicts_are_shown_as_they_are():
    """Of one question there is no interval, and a verdict names a checkpoint."""
    from research.evaluation import result_files
    from research.evaluation.comparison import Comparison
    from research.evaluation.statistics import Estimate
    from research.evaluation.suite import Measured, Result

    estimate = Estimate(0.5, math.nan, math.nan)
    measured = Measured("accuracy", "higher", estimate, {"majority": 0.5}, None, "no verdict [/x]")
    result = Result("run", "task", "causal", "exact", 0, 1, 1, 0, "s", "d", (measured,))
    console = quiet()
    console.print(result_files.tables([result]))
    verdict = "[bold] run is better"
    console.print(result_files.comparisons([Comparison("t", "accuracy", "a", "b", "exact", 0, 1, estimate, verdict)]))
    assert all(text in said(console) for text in ("0.500 [nan, nan]", "no verdict [/x]", "[+nan, +nan]", verdict))


def test_an_objective_without_targets_has_no_numbers(tmp_path):
    from types import SimpleNamespace

    from research.runs import results, run_folder

    numbers = {"nothing": {"loss": float("nan"), "unigram": float("nan"), "uniform": 5.0}}
    objectives = {name: results.finite(each) for name, each in numbers.items()}
    found = {"objectives": objectives, "steps": 1, "tokens": 1, "seconds": 1.0, "peak_memory_bytes": 1}
    assert found["objectives"]["nothing"] == {"loss": None, "unigram": None, "uniform": 5.0}
    run_folder.write_result(tmp_path, found)
    text = (tmp_path / "result.json").read_text(encoding="utf-8")
    assert "NaN" not in text and run_folder.read_result(tmp_path) == found
    console = quiet()
    results.show(console, found, SimpleNamespace(all=[]))
    assert "no targets" in said(console) and "nan" not in said(console)
