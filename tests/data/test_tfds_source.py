"""Datasets that tfds itself prepares as ArrayRecord. TFRecord files are written here: tfds would need TensorFlow."""

import json
import struct
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource

from research.data import sources
from research.data.crc32c import masked_crc32c
from research.data.records import Record, SkippedRecord
from research.errors import InputError

DOCUMENTS = {
    "train": [f"document {n} é" for n in range(50)],
    "test": ["held out", "", "last"],
}


class Tiny(tfds.core.GeneratorBasedBuilder):
    """Two fields of text and a number."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # its folder has no checksums to look up

    def _info(self):
        features = {"text": tfds.features.Text(), "title": tfds.features.Text(), "n": tfds.features.Scalar(np.int64)}
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(texts) for split, texts in DOCUMENTS.items()}

    def _generate_examples(self, texts):
        for n, text in enumerate(texts):
            yield f"{n:04}", {"text": text, "title": f"title {n}", "n": n}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The data_dir of the dataset as ArrayRecord in several files."""
    folder = tmp_path_factory.mktemp("tfds")
    builder = Tiny(data_dir=folder, file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=3))
    return folder


def tfrecord(raw):
    """A record as TensorFlow writes it."""
    length = struct.pack("<Q", len(raw))
    return length + struct.pack("<I", masked_crc32c(length)) + raw + struct.pack("<I", masked_crc32c(raw))


@pytest.fixture(scope="module")
def as_tfrecord(prepared, tmp_path_factory):
    """The same as TFRecord."""
    folder = tmp_path_factory.mktemp("tfrecord")
    for file in (prepared / "tiny" / "1.0.0").iterdir():
        target = folder / file.name.replace("array_record", "tfrecord")
        if "array_record" in file.name:
            with ArrayRecordDataSource([str(file)]) as records, open(target, "wb") as out:
                for raw in records.__getitems__(list(range(len(records)))):
                    out.write(tfrecord(raw))
        else:
            target.write_text(file.read_text().replace("array_record", "tfrecord"))
    return folder


def texts(name):
    return [r.fields for r in sources.source_records(name) if isinstance(r, Record)]


@pytest.fixture(params=["array_record", "tfrecord"])
def folder(request, prepared, as_tfrecord):
    """A prepared folder in each format."""
    return prepared / "tiny" / "1.0.0" if request.param == "array_record" else as_tfrecord


def test_both_formats_give_every_example_once(folder):
    assert sorted(t for (t,) in texts(f"tfds:{folder}:train")) == sorted(DOCUMENTS["train"])
    assert len(sources.open_source(f"tfds:{folder}:train").files) > 1


def test_both_formats_give_the_same_order_and_slices_are_parts_of_it(prepared, as_tfrecord):
    first, second = (texts(f"tfds:{it}:train") for it in (prepared / "tiny" / "1.0.0", as_tfrecord))
    assert first == second
    for it in (prepared / "tiny" / "1.0.0", as_tfrecord):
        assert texts(f"tfds:{it}:train[:20%]") == first[:10]
        assert texts(f"tfds:{it}:train[7:31]") == first[7:31]
        assert texts(f"tfds:{it}:train[90%:]+test") == first[45:] + texts(f"tfds:{it}:test")


def test_fields_and_bad_examples(folder):
    assert sorted(texts(f"tfds:{folder}:test#title,text")) == [("title 0", "held out"), ("title 2", "last")]
    assert [r.kind for r in sources.source_records(f"tfds:{folder}:test") if isinstance(r, SkippedRecord)] == [
        "empty document"
    ]
    assert [r.kind for r in sources.source_records(f"tfds:{folder}:test#n")] == ["field 'n' is not text"] * 3


def test_a_name_is_looked_up_in_the_data_dir(prepared, monkeypatch):
    monkeypatch.setattr(tfds.core.utils.file_utils, "list_data_dirs", lambda *a, **k: [str(prepared)])
    assert texts("tfds:tiny:1.0.0:test") == texts(f"tfds:{prepared / 'tiny' / '1.0.0'}:test")


def test_no_tensorflow_was_needed():
    assert "tensorflow" not in sys.modules


def test_what_is_wrong_with_a_name(folder, tmp_path):
    for name, message in {
        f"tfds:{folder}": "not of the form tfds:NAME/CONFIG:SPLIT",
        f"tfds:{folder}:validation": r"splits are \['test', 'train'\]",
        f"tfds:{folder}:train#body": r"choose one or two fields among \['n', 'text', 'title'\]",
        f"tfds:{tmp_path}/nothing:train": "no such prepared dataset",
        "tfds:no_such_dataset_anywhere:train": "no such prepared dataset; set TFDS_DATA_DIR",
    }.items():
        with pytest.raises(InputError, match=message):
            sources.open_source(name)


def test_a_file_that_is_cut_off(as_tfrecord, tmp_path):
    for file in as_tfrecord.iterdir():
        content = file.read_bytes()
        (tmp_path / file.name).write_bytes(content[:-7] if "test" in file.name else content)
    with pytest.raises(InputError, match="is cut off or damaged at record"):
        texts(f"tfds:{tmp_path}:test")


def test_a_changed_byte_and_a_length_beyond_the_file_are_found(as_tfrecord, tmp_path):
    for place, value in ((20, b"\xff"), (0, b"\1"), (7, b"\x7f"), (9, b"\1")):
        for file in as_tfrecord.iterdir():
            content = bytearray(file.read_bytes())
            if "tiny-train.tfrecord-00000" in file.name:
                assert content[place : place + 1] != value
                content[place : place + 1] = value
            (tmp_path / file.name).write_bytes(content)
        with pytest.raises(InputError, match=r"tfrecord-00000-of-\d+ is (cut off or )?damaged at record 0"):
            texts(f"tfds:{tmp_path}:train")


def test_an_example_that_cannot_be_parsed_is_counted(as_tfrecord, tmp_path):
    for file in as_tfrecord.iterdir():
        content = file.read_bytes()
        if "tiny-train.tfrecord-00000" in file.name:
            (length,) = struct.unpack("<Q", content[:8])
            content = tfrecord(b"\xff" * 8 + content[20 : 12 + length]) + content[length + 16 :]
        (tmp_path / file.name).write_bytes(content)
    bad = [r for r in sources.source_records(f"tfds:{tmp_path}:train") if isinstance(r, SkippedRecord)]
    assert [record.kind for record in bad] == ["damaged example"]
    assert "tfrecord-00000" in bad[0].place


def test_a_changed_byte_of_an_array_record(prepared, tmp_path):
    for file in (prepared / "tiny" / "1.0.0").iterdir():
        content = bytearray(file.read_bytes())
        if "tiny-train.array_record-00000" in file.name:
            content[len(content) // 2] ^= 0xFF
        (tmp_path / file.name).write_bytes(content)
    with pytest.raises(InputError, match="array_record-00000"):
        texts(f"tfds:{tmp_path}:train")


def test_another_format_is_refused(as_tfrecord, tmp_path):
    for file in as_tfrecord.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    info = json.loads((tmp_path / "dataset_info.json").read_text())
    (tmp_path / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "parquet"}))
    with pytest.raises(InputError, match="prepare it as array_record"):
        sources.open_source(f"tfds:{tmp_path}:train")
