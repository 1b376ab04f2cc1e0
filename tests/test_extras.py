"""Without an extra, what needs it says so in one line, and everything else works."""

import json
import re
import sys
import tomllib
from pathlib import Path

import pytest

from research import errors
from research.data import limits, sources
from research.errors import InputError
from research.evaluation import metrics
from research.evaluation.items import Item, Outcome
from research.interop import gguf

ROOT = Path(__file__).resolve().parents[1]
OUTCOME = Outcome(Item("0", references=("one two",)), (), output="one")


@pytest.fixture
def without(monkeypatch):
    """Hides packages, and what has been imported of them or with them."""

    def hide(*packages):
        for name in list(sys.modules):
            if name.split(".")[0] in packages:
                monkeypatch.delitem(sys.modules, name)
        for package in packages:
            monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.delitem(sys.modules, "research.data.tfds_source", raising=False)
        monkeypatch.delattr("research.data.tfds_source", raising=False)

    return hide


@pytest.mark.parametrize(
    ("metric", "package"),
    [("edit_distance", "nltk"), ("rouge1", "rouge_score"), ("rougeL", "rouge_score")],
)
def test_a_metric_names_the_extra(without, metric, package):
    without(package)
    with pytest.raises(InputError, match=rf"the metric {metric}\w* needs the package {package}.* the extra metrics"):
        metrics.sums(metric, [OUTCOME])


def test_a_metric_of_sacrebleu_names_the_extra(without):
    without("sacrebleu")
    with pytest.raises(InputError, match=r"the metric bleu needs the package sacrebleu.* the extra metrics"):
        metrics._sacrebleu("BLEU").rows([OUTCOME])


def test_other_metrics_need_no_extra(without):
    without("nltk", "rouge_score", "sacrebleu")
    assert metrics.sums("f1", [OUTCOME]).value == pytest.approx(2 / 3)


def test_a_gguf_file_names_the_extra(without, tmp_path):
    without("gguf")
    with pytest.raises(InputError, match=r"a GGUF file needs the package gguf.* the extra gguf"):
        gguf._tensor(tmp_path / "x.gguf", 100, 0, "x", [4], 0, 0)


def test_parquet_zstd_and_tfds_name_the_extra_and_lines_need_none(without, tmp_path):
    without("pyarrow", "tensorflow_datasets", "array_record")
    (tmp_path / "x.jsonl").write_text(json.dumps({"text": "one"}))
    assert len(list(sources.source_records(f"jsonl:{tmp_path}/x.jsonl#text"))) == 1
    with pytest.raises(InputError, match=r"a parquet file needs the package pyarrow.* the extra parquet"):
        list(sources.source_records(f"parquet:{tmp_path}/x.jsonl#text"))
    with pytest.raises(InputError, match=r"a file compressed by zstd needs the package pyarrow.* the extra parquet"):
        limits.decompressed((tmp_path / "x.jsonl").open("rb"), "x.zst", 1)
    with pytest.raises(InputError, match=r"a prepared dataset needs the package .* the extra tfds"):
        sources.open_source("tfds:c4:train")


def test_what_is_missing_is_installed_by_one_line(monkeypatch, tmp_path):
    """By the script that made the environment, or by pip; and each extra that is named is one."""
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert errors.install("tpu") == "pip install --constraint constraints.txt --editable '.[tpu]'"
    (tmp_path / "installed.json").touch()
    assert errors.install("tpu") == "python3 launch/install.py tpu"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "research").rglob("*.py"))
    named = set(re.findall(r"""(?:install|requires)\(["'](\w+)["']""", text))
    assert {"tpu", "wandb", "harness", "gguf", "parquet", "tfds", "metrics"} <= named <= set(extras)
