import bz2
import gzip
import importlib.util
import itertools
import json
import lzma
import signal

import fsspec
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from research.data import limits, sources
from research.data.limits import limited
from research.data.records import Record, SkippedRecord
from research.errors import InputError


def kinds(name):
    return [r.kind for r in sources.source_records(name) if isinstance(r, SkippedRecord)]


def fields(name):
    return [r.fields for r in sources.source_records(name) if isinstance(r, Record)]


def test_every_text_file_is_a_document_in_the_order_of_names(tmp_path):
    (tmp_path / "b.txt").write_text("two\r\nlines ")
    (tmp_path / "a.txt").write_bytes("été".encode())
    (tmp_path / "c.md").write_text("not asked for")
    (tmp_path / "more.txt").mkdir()
    found = list(sources.source_records(f"text:{tmp_path}/*.txt"))
    assert [record.fields for record in found] == [("été",), ("two\r\nlines ",)]
    assert found[0].place == f"{tmp_path}/a.txt"


def test_a_line_of_json_is_a_document_or_a_pair(tmp_path):
    lines = [{"a": "one", "b": "eins"}, {"a": "two", "b": "zwei"}]
    (tmp_path / "x.jsonl").write_text("\n\n".join(map(json.dumps, lines)) + "\n")
    assert fields(f"jsonl:{tmp_path}/x.jsonl#a") == [("one",), ("two",)]
    assert fields(f"jsonl:{tmp_path}/x.jsonl#b,a") == [("eins", "one"), ("zwei", "two")]


def test_bad_lines_are_named_one_by_one_and_the_others_are_read(tmp_path):
    lines = [
        b'{"text": "good"}',
        b'{"text": "cut',
        b'["text"]',
        b'{"other": "x"}',
        b'{"text": 3}',
        b'{"text": "\xff"}',
        b'{"text": " \\n"}',
        b'{"text": "half a pair \\ud800"}',
        b'{"text": "also good"}',
    ]
    (tmp_path / "x.jsonl").write_bytes(b"\n".join(lines))
    name = f"jsonl:{tmp_path}/x.jsonl#text"
    assert fields(name) == [("good",), ("also good",)]
    bad = [record for record in sources.source_records(name) if isinstance(record, SkippedRecord)]
    assert [(record.place.rpartition(":")[2], record.kind) for record in bad] == [
        ("2", "broken JSON"),
        ("3", "not a JSON object"),
        ("4", "no field 'text'"),
        ("5", "field 'text' is not text"),
        ("6", "invalid UTF-8"),
        ("7", "empty document"),
        ("8", "invalid UTF-8"),
    ]


def test_compressed_lines(tmp_path):
    with gzip.open(tmp_path / "x.jsonl.gz", "wt") as file:
        file.write('{"text": "one"}\n{"text": "two"}\n')
    assert fields(f"jsonl:{tmp_path}/*.gz#text") == [("one",), ("two",)]
    whole = (tmp_path / "x.jsonl.gz").read_bytes()
    (tmp_path / "x.jsonl.gz").write_bytes(whole[:-12])
    with pytest.raises(InputError, match=r"x\.jsonl\.gz cannot be read"):
        fields(f"jsonl:{tmp_path}/*.gz#text")


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [
        ("gz", gzip.compress),
        ("bz2", bz2.compress),
        ("xz", lzma.compress),
        ("zst", lambda data: pyarrow.compress(data, codec="zstd", asbytes=True)),
    ],
)
def test_every_compression_and_its_bound(tmp_path, monkeypatch, suffix, compress):
    lines = b"".join(b'{"text": "line %d"}\n' % number for number in range(1000))
    (tmp_path / f"x.jsonl.{suffix}").write_bytes(compress(lines[:9000]) + compress(lines[9000:]))
    name = f"jsonl:{tmp_path}/x.jsonl.{suffix}#text"
    assert fields(name) == [(f"line {number}",) for number in range(1000)]
    monkeypatch.setattr(limits, "ALWAYS", 1000)
    (tmp_path / f"bomb.txt.{suffix}").write_bytes(compress(b"x" * 3_000_000))
    with pytest.raises(InputError, match=f"bomb.txt.{suffix} becomes more than 200 times as large"):
        fields(f"text:{tmp_path}/bomb.txt.{suffix}")
    monkeypatch.setenv("RESEARCH_DECOMPRESSION_RATIO", "100000000")
    assert len(fields(f"text:{tmp_path}/bomb.txt.{suffix}")[0][0]) == 3_000_000
    monkeypatch.setenv("RESEARCH_DECOMPRESSION_RATIO", "-1")
    with pytest.raises(InputError, match="it must be a positive integer"):
        fields(name)


def test_a_byte_order_mark_is_not_text(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"\xef\xbb\xbfone")
    (tmp_path / "x.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "one"}\n{"text": "\xef\xbb\xbftwo"}\n')
    assert fields(f"text:{tmp_path}/x.txt") == [("one",)]
    assert fields(f"jsonl:{tmp_path}/x.jsonl#text") == [("one",), ("\ufefftwo",)]
    (tmp_path / "utf16.txt").write_bytes("one".encode("utf-16"))
    assert kinds(f"text:{tmp_path}/utf16.txt") == ["invalid UTF-8"]


@pytest.mark.parametrize("name", ["a b", "[1]", "a#b", "a@3", "a::b", "*", "é", "a?b", "~", "100%"])
def test_a_path_may_have_any_characters(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    (folder / f"{name}.txt").write_text("text")
    (folder / f"{name}.jsonl").write_text('{"text": "line"}\n')
    np.array([8, 9], np.uint16).tofile(folder / f"{name}.bin")
    assert fields(f"text:{folder}/{name}.txt") == [("text",)]
    assert fields(f"jsonl:{folder}/{name}.jsonl#text") == [("line",)]
    assert fields(f"tokens:{folder}/{name}.bin")[0].tolist() == [8, 9]
    assert fields(f"tokens:{folder}/{name}.bin#uint8")[0].tolist() == [8, 0, 9, 0]


def test_parquet_columns(tmp_path):
    good = {"a": ["one", None, "", "four"], "b": ["eins", "zwei", "drei", "vier"], "n": [1, 2, 3, 4]}
    pyarrow.parquet.write_table(pyarrow.table(good), tmp_path / "x.parquet")
    name = f"parquet:{tmp_path}/x.parquet"
    assert fields(f"{name}#a") == [("one",), ("four",)]
    assert kinds(f"{name}#a") == ["no field 'a'", "empty document"]
    assert fields(f"{name}#b,a") == [("eins", "one"), ("vier", "four")]
    assert kinds(f"{name}#n") == ["field 'n' is not text"] * 4
    with pytest.raises(InputError, match=r"no column 'z'; it has \['a', 'b', 'n'\]"):
        fields(f"{name}#z")


def test_parquet_with_invalid_text_and_a_file_that_is_not_parquet(tmp_path):
    raw = pyarrow.array([b"good", b"\xff\xfe", b"fine"], pyarrow.binary())
    strings = pyarrow.StringArray.from_buffers(3, raw.buffers()[1], raw.buffers()[2])
    pyarrow.parquet.write_table(pyarrow.table({"text": strings}), tmp_path / "x.parquet")
    assert fields(f"parquet:{tmp_path}/x.parquet#text") == [("good",), ("fine",)]
    large = pyarrow.LargeStringArray.from_buffers(3, *raw.cast(pyarrow.large_binary()).buffers()[1:])
    for odd in (large, strings.cast(pyarrow.binary()).dictionary_encode().cast(pyarrow.binary())):
        pyarrow.parquet.write_table(pyarrow.table({"text": odd}), tmp_path / "x.parquet")
        assert fields(f"parquet:{tmp_path}/x.parquet#text") == [("good",), ("fine",)]
    (tmp_path / "y.parquet").write_text("no")
    with pytest.raises(InputError, match=r"y\.parquet is not a readable parquet file"):
        fields(f"parquet:{tmp_path}/y.parquet#text")


def test_integers(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[1, 2, 3], [4, 5, 6]], np.int64))
    np.array([7, 70_000], np.uint32).tofile(tmp_path / "b.bin")
    np.array([8, 9], np.uint16).tofile(tmp_path / "c.bin")
    assert [f.tolist() for f in fields(f"tokens:{tmp_path}/a.npy")] == [[1, 2, 3], [4, 5, 6]]
    assert [f.tolist() for f in fields(f"tokens:{tmp_path}/b.bin#uint32")] == [[7, 70_000]]
    assert [f.tolist() for f in fields(f"tokens:{tmp_path}/c.bin")] == [[8, 9]]


def test_token_files_of_llm_c(tmp_path):
    """As `write_datafile` of its `dev/data/data_common.py` writes them: a header of 256 int32, then the numbers."""
    for magic, version, dtype, numbers in (
        (20240520, 1, np.uint16, [5, 50_256]),
        (20240801, 7, np.uint32, [128_000, 6]),
    ):
        header = np.zeros(256, np.int32)
        header[:3] = magic, version, len(numbers)
        (tmp_path / "x.bin").write_bytes(header.tobytes() + np.array(numbers, dtype).tobytes())
        assert [f.tolist() for f in fields(f"tokens:{tmp_path}/x.bin")] == [numbers]
        with pytest.raises(InputError, match=r"has the header of llm\.c for uint"):
            fields(f"tokens:{tmp_path}/x.bin#int32")
        header[2] = 3
        (tmp_path / "x.bin").write_bytes(header.tobytes() + np.array(numbers, dtype).tobytes())
        with pytest.raises(InputError, match="does not hold integers of type"):
            fields(f"tokens:{tmp_path}/x.bin")


def test_files_of_known_formats_are_no_raw_numbers(tmp_path):
    np.savez(tmp_path / "x.npz", np.arange(3))
    np.save(tmp_path / "x.npy", np.arange(4))
    (tmp_path / "x.npy").rename(tmp_path / "y.bin")
    for name, complaint in (("x.npz", "is a zip archive"), ("y.bin", "is an .npy file under another name")):
        with pytest.raises(InputError, match=complaint):
            fields(f"tokens:{tmp_path}/{name}")


@pytest.mark.parametrize(
    ("content", "dtype", "message"),
    [
        (b"\1\2\3", "#uint16", "does not hold integers of type uint16"),
        (b"", "", "does not hold integers"),
        (b"\1\2", "#float32", "'float32' is not an integer dtype"),
        (b"\1\2", "#m8", "'m8' is not an integer dtype"),
        (b"\1\2", "#letters", "'letters' is not an integer dtype"),
    ],
)
def test_files_that_do_not_hold_integers(tmp_path, content, dtype, message):
    (tmp_path / "x.bin").write_bytes(content)
    with pytest.raises(InputError, match=message):
        fields(f"tokens:{tmp_path}/x.bin{dtype}")


def test_headers_of_arrays_that_promise_what_is_not_there(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(6, dtype=np.int32).reshape(2, 3))
    whole = (tmp_path / "x.npy").read_bytes()
    for old, new in ((b"(2, 3)", b"(9, 9)"), (b"(2, 3)", b"(-2,3)"), (b"'<i4'", b"'|O8'"), (b"descr", b"d\0scr")):
        assert old in whole
        (tmp_path / "x.npy").write_bytes(whole.replace(old, new))
        with pytest.raises(InputError, match=r"x\.npy (holds|does not hold|is not a readable)"):
            fields(f"tokens:{tmp_path}/x.npy")
    np.save(tmp_path / "x.npy", np.asfortranarray(np.arange(6).reshape(2, 3)))
    assert [f.tolist() for f in fields(f"tokens:{tmp_path}/x.npy")] == [[0, 1, 2], [3, 4, 5]]


def test_an_array_of_floats_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.ones(3))
    with pytest.raises(InputError, match="holds float64"):
        fields(f"tokens:{tmp_path}/x.npy")


def test_files_in_a_bucket():
    with fsspec.open("memory://bucket/x.jsonl", "w") as file:
        file.write('{"text": "far away"}\n')
    with fsspec.open("memory://bucket/x.npy", "wb") as file:
        np.save(file, np.array([1, 2, 3]))
    assert fields("jsonl:memory://bucket/*.jsonl#text") == [("far away",)]
    assert fields("tokens:memory://bucket/x.npy")[0].tolist() == [1, 2, 3]
    before = sources.open_source("jsonl:memory://bucket/*.jsonl#text").fingerprint
    with fsspec.open("memory://bucket/x.jsonl", "w") as file:
        file.write('{"text": "far off!"}\n')
    assert sources.open_source("jsonl:memory://bucket/*.jsonl#text").fingerprint != before


@pytest.mark.skipif(importlib.util.find_spec("gcsfs") is not None, reason="gcsfs is installed")
def test_a_bucket_whose_library_is_not_installed_says_which():
    with pytest.raises(InputError, match="Please install gcsfs"):
        sources.open_source("text:gs://bucket/*.txt")


def test_fingerprints_follow_the_files(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    name = f"text:{tmp_path}/*.txt"
    first = sources.open_source(name).fingerprint
    assert sources.open_source(name).fingerprint == first
    (tmp_path / "a.txt").write_text("two")
    second = sources.open_source(name).fingerprint
    (tmp_path / "b.txt").write_text("three")
    third = sources.open_source(name).fingerprint
    assert len({str(f) for f in (first, second, third)}) == 3


@pytest.mark.parametrize(
    "name",
    [
        "",
        "python_docs",
        "text:",
        "jsonl:x",
        "jsonl:x#a,b,c",
        "jsonl:#a",
        "parquet:x",
        "tokens:",
        "csv:x",
    ],
)
def test_an_unknown_form_lists_the_known_ones(name):
    with pytest.raises(InputError, match="is none of python-docs, text:GLOB"):
        sources.open_source(name)


def test_a_glob_without_files_is_an_error_at_once(tmp_path):
    with pytest.raises(InputError, match="no file matches"):
        sources.open_source(f"text:{tmp_path}/*.txt")


def test_python_docs_are_long_texts_each_once_in_an_order_without_meaning():
    found = fields("python-docs")
    texts = [text for (text,) in found]
    assert len(texts) > 5000
    assert sum(map(len, texts)) > 1_000_000
    assert len(set(texts)) == len(texts)
    assert kinds("python-docs") == []
    topics = [
        number for number, text in enumerate(texts) if '"assert" statement\n***' in text or "Boolean" in text[:20]
    ]
    assert topics
    firsts = [text[:1] for text in texts]  # sorted texts would have equal neighbours
    assert sum(a == b for a, b in itertools.pairwise(firsts)) < 0.3 * len(firsts)


def test_a_time_that_is_over_just_when_the_work_is():
    """Whatever ends first, it is the work or TimeoutError, and nothing of the signal is left."""
    before, ended = signal.getsignal(signal.SIGALRM), set()
    for length in range(0, 40_000, 100):
        try:
            ended.add(type(limited(2e-4, 1 << 30, lambda n=length: sum(range(n)))))
        except TimeoutError:
            ended.add(TimeoutError)
    assert ended == {int, TimeoutError}
    assert signal.getsignal(signal.SIGALRM) == before and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
