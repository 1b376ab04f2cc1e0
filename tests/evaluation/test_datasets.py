"""Records from prepared datasets: of tensorflow_datasets, and of Hugging Face."""

import json

import numpy as np
import pytest
import tensorflow_datasets as tfds

from research.errors import InputError
from research.evaluation import datasets
from research.evaluation.datasets import RecordSource

EXAMPLES = [{"question": f"Wie heißt {n}?", "options": ["α", f"b{n}", "c"], "gold": n % 3} for n in range(5)]
FIELDS = {"asked": "question | upper", "options": "options", "gold": "gold"}
EXPECTED = [{"asked": e["question"].upper(), "options": e["options"], "gold": e["gold"]} for e in EXAMPLES]


class Quiz(tfds.core.GeneratorBasedBuilder):
    """Text, a list of texts, and a number."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # its folder has no checksums to look up

    def _info(self):
        options = tfds.features.Sequence(tfds.features.Text())
        features = {"question": tfds.features.Text(), "options": options, "gold": tfds.features.Scalar(np.int64)}
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"test": enumerate(EXAMPLES)}

    def _generate_examples(self):
        raise NotImplementedError


def test_a_dataset_of_tfds(tmp_path):
    Quiz(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    name = f"{tmp_path / 'quiz' / '1.0.0'}:test"
    loaded = datasets.load_records(
        "quiz", [RecordSource(file="quiz.jsonl"), RecordSource(tfds=name, fields=FIELDS)], [tmp_path]
    )
    assert sorted(loaded.records, key=lambda r: r["asked"]) == EXPECTED
    assert loaded.source.name == f"tfds {name}" and len(loaded.digest) == 64


def test_a_dataset_of_hugging_face(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    folder = tmp_path / "quiz"
    folder.mkdir()
    (folder / "test.jsonl").write_text("".join(json.dumps(example) + "\n" for example in EXAMPLES))
    first = datasets.load_records("quiz", [RecordSource(hub=f"{folder}::test", fields=FIELDS)], [])
    assert list(first.records) == EXPECTED and first.source.name == f"hub {folder}::test"
    again = datasets.load_records("quiz", [RecordSource(hub=f"{folder}::test")], [])
    assert list(again.records) == EXAMPLES and again.digest == first.digest


def test_the_first_source_that_is_here_is_used(tmp_path):
    (tmp_path / "quiz.jsonl").write_text(json.dumps({"from": "the file"}) + "\n")
    here = RecordSource(file="quiz.jsonl")
    loaded = datasets.load_records(
        "quiz", [RecordSource(tfds="no_such:test"), here, RecordSource(hub="no::test")], [tmp_path]
    )
    assert loaded.source == here and list(loaded.records) == [{"from": "the file"}]


def test_where_was_looked_is_said(tmp_path):
    places = [RecordSource(file="a.jsonl"), RecordSource(tfds="no_such:test"), RecordSource(hub="no/such::test")]
    with pytest.raises(InputError) as error:
        datasets.load_records("quiz", places, [tmp_path])
    assert f"file a.jsonl: a.jsonl is not in {tmp_path}" in str(error.value)
    assert "tfds no_such:test: " in str(error.value) and "hub no/such::test: Hugging Face" in str(error.value)
