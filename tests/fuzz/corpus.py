"""Inputs that once failed: each is a change of the valid input of a reader. It is refused, or left out."""

import io
import json
import logging
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from research.data.crc32c import masked_crc32c
from research.errors import InputError
from tests.fuzz.readers import READERS


def replace(pattern: str, old: bytes, new: bytes) -> Callable[[Path], None]:
    """The first occurrence of some bytes exchanged in the file of that name."""

    def change(folder: Path) -> None:
        (path,) = folder.glob(pattern)
        content = path.read_bytes()
        assert old in content
        path.write_bytes(content.replace(old, new, 1))

    return change


def bytes_at(pattern: str, place: int, new: bytes) -> Callable[[Path], None]:
    """Bytes from a place on exchanged in the first file that matches."""

    def change(folder: Path) -> None:
        path = sorted(folder.glob(pattern))[0]
        content = bytearray(path.read_bytes())
        content[place : place + len(new) or None] = new
        path.write_bytes(content)

    return change


def tree(name: str, changes: dict[str, Any]) -> Callable[[Path], None]:
    """Values by their path in a JSON file exchanged."""

    def change(folder: Path) -> None:
        whole = json.loads((folder / name).read_text())
        for path, value in changes.items():
            *parents, last = path.split(".")
            node = whole
            for parent in parents:
                node = node[int(parent) if isinstance(node, list) else parent]
            node[int(last) if isinstance(node, list) else last] = value
        (folder / name).write_text(json.dumps(whole))

    return change


def line(name: str, text: bytes) -> Callable[[Path], None]:
    """A line put before the others."""
    return lambda folder: (folder / name).write_bytes(text + b"\n" + (folder / name).read_bytes())


def written(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content) and None


def cut(pattern: str) -> Callable[[Path], None]:
    """Half of the file left out."""

    def change(folder: Path) -> None:
        path = next(folder.glob(pattern))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return change


def removed(pattern: str) -> Callable[[Path], None]:
    return lambda folder: next(folder.glob(pattern)).unlink()


def _folder(name: str) -> Callable[[Path], None]:
    """A folder in place of a file."""

    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return change


def _long_record(folder: Path) -> None:
    """A length of 2^33 whose checksum is right."""
    path = next(folder.glob("*tfrecord-*"))
    length = struct.pack("<Q", 2**33)
    path.write_bytes(length + struct.pack("<I", masked_crc32c(length)) + path.read_bytes()[12:])


def _bomb(folder: Path) -> None:
    import gzip

    (folder / "x.jsonl.gz").write_bytes(gzip.compress(b'{"text": "' + b"x" * 50_000_000 + b'"}'))


RECORD = {"kind": "train", "step": 1, "losses": {"causal": 1.0}, "tokens_per_second": 1.0, "mfu": 0.1}


def record(**changes: Any) -> bytes:
    return json.dumps(RECORD | changes).encode()


CASES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "a header of an array that is not a literal": ("tokens", replace("a.npy", b"'descr'", b"'descr")),
    "a header of an array with a huge shape": ("tokens", replace("a.npy", b"(3, 20)", b"(9, 99)")),
    "a length beyond the file": ("tfrecord", _long_record),
    "a changed byte of a record": ("tfrecord", bytes_at("*tfrecord-*", 20, b"\xff")),
    "no features": ("tfrecord", removed("features.json")),
    "features that are not JSON": ("array_record", bytes_at("features.json", 0, b"]")),
    "an array record without its end": ("array_record", cut("*array_record-*")),
    "an array record without its beginning": ("array_record", bytes_at("*array_record-*", 0, b"\xff" * 80)),
    "a column that is not UTF-8": ("parquet", replace("x.parquet", b"other", b"o\xffher")),
    "a gigabyte in a few bytes": ("compressed", _bomb),
    "a store without its end": ("store", written("tokens.bin", "ab")),
    "no result of an objective": ("report", tree("result.json", {"objectives": {}})),
    "a result that is a list": ("report", written("result.json", "[]")),
    "an evaluation without an estimate": ("report", written("evaluation/results.json", "[{}]")),
    "versions that are a list": ("report", tree("experiment.json", {"versions": []})),
    "a model without width": ("report", tree("experiment.json", {"experiment.model.width": 0})),
    "a model of 10^12 layers": ("report", tree("experiment.json", {"experiment.model.depth": 10**12})),
    "an experiment that is a list": ("experiment", tree("experiment.json", {"experiment": []})),
    "a mesh that is text": ("experiment", tree("experiment.json", {"experiment.mesh": "all"})),
    "an experiment of an earlier format that is text": (
        "experiment",
        written("experiment.json", '{"format": 1, "experiment": "text"}'),
    ),
    "heads that are false": ("experiment", tree("experiment.json", {"experiment.model.attention.heads": False})),
    "a model without a vocabulary": ("report", tree("experiment.json", {"experiment.model.vocabulary": 0})),
    "features that are one text": (
        "tfrecord",
        tree("features.json", {"pythonClassName": "tensorflow_datasets.core.features.text_feature.Text"}),
    ),
    "a name of files with a zero": ("tfrecord", tree("dataset_info.json", {"splits.0.filepathTemplate": "\0"})),
    "10^12 generated records": ("generated_task", tree("task.yaml", {"sources.0.arguments.count": 10**12})),
    "a file outside the folder": ("task", tree("task.yaml", {"sources.0.file": "/etc/passwd"})),
    "a file above the folder": ("task", tree("task.yaml", {"sources.0.file": "../../../../etc/passwd"})),
    "a power in a template": ("task", tree("task.yaml", {"context": "{{ 9 ** (9 ** 9) }}"})),
    "numbers of options without end": ("task", tree("task.yaml", {"options": "range(10 ** 12)"})),
    "a task of no file": ("task", tree("task.yaml", {"sources.0.file": " "})),
    "a name of a file that no disk takes": ("task", tree("task.yaml", {"sources.0.file": "x" * 300})),
    "a field whose name is a number": ("task", replace("task.yaml", b'"tokens": 8', b'"tokens":, 8')),
    "a task that is a list": ("task", written("task.yaml", "[]")),
    "a record that is a list": ("task", line("records.jsonl", b"[1]")),
    "half of a surrogate pair in an alphabet": ("saved_tokenizer", written("alphabet.json", '"ab\\udf89"')),
    "answers that are a folder": ("answers", _folder("answers.jsonl")),
    "records that are a folder": ("metrics", _folder("metrics.jsonl")),
    "an expression that backtracks": ("tokenizer_folder", replace("tokenizer.json", b'"\\\\s+|', b'"(x+)+$|')),
    "an answer without a key": ("answers", line("answers.jsonl", b'{"output": "x"}')),
    "an answer that is a number": ("answers", line("answers.jsonl", b"3")),
    "a score that is text": ("answers", line("answers.jsonl", b'{"key": "k", "log_probabilities": "x"}')),
}  # fmt: skip

LEFT_OUT: dict[str, tuple[str, Callable[[Path], None]]] = {  # a damaged line costs no more than itself
    "a line of metrics that is not UTF-8": ("metrics", line("metrics.jsonl", b'{"kind": "\xff"}')),
    "a line of metrics that is a number": ("metrics", line("metrics.jsonl", b"3")),
    "a record without a step": ("metrics", line("metrics.jsonl", b'{"kind": "train"}')),
    "a step in words": ("metrics", line("metrics.jsonl", record(step="one"))),
    "time spent in words": ("metrics", line("metrics.jsonl", record(spent={"training": "long"}, time=1.0))),
    "time spent that is a list": ("metrics", line("metrics.jsonl", record(spent=[1], time=1.0))),
    "a moment in words": ("metrics", line("metrics.jsonl", record(spent={"training": 1.0}, time="now"))),
    "losses that are a list": ("report", line("metrics.jsonl", record(losses=[1.0]))),
    "a loss in words": ("report", line("metrics.jsonl", record(losses={"causal": "low"}))),
    "time that adds up to nothing": ("report", line("metrics.jsonl", record(spent={"a": 1, "b": -1}, time=1.0))),
    "samples of another form": (
        "report",
        line(
            "metrics.jsonl",
            json.dumps({"kind": "samples", "step": 1, "samples": {"causal": [["a", "b", "c"]]}}).encode(),
        ),
    ),
}


def outcome(case: str) -> str:
    """What comes of reading the input of a case: the one line of its error, else the warnings."""
    name, change = (CASES | LEFT_OUT)[case]
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    logging.getLogger().addHandler(handler)
    try:
        with tempfile.TemporaryDirectory() as folder:
            READERS[name].make(Path(folder))
            change(Path(folder))
            READERS[name].read(Path(folder))
    except InputError as error:
        return f"refused: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        logging.getLogger().removeHandler(handler)
    return log.getvalue()
