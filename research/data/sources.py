"""Where documents come from. A source is one string:

  python-docs                             what every CPython carries (`python_docs.py`)
  text:GLOB                               every file is a document
  jsonl:GLOB#FIELD[,FIELD2]               every line is a document, or with two fields a pair
  parquet:GLOB#COLUMN[,COLUMN2]           every row
  tfds:NAME/CONFIG:SPLIT[#FIELD[,FIELD2]] every example of a prepared dataset (`tfds_source.py`); FIELD is `text` if
                                          not given, SPLIT may be a slice (`train[:10%]`)
  chat:GLOB                               every answer of the conversations in lines of JSON, a pair with what
                                          precedes it (`chat.py`)
  tokens:GLOB[#DTYPE]                     integers: every .npy of shape [n] and every other file (raw numbers, uint16 if
                                          DTYPE is not given) is a document, an .npy of shape [documents, n] has many

Files are local or in a bucket (`gs://…`); text and JSON lines may be compressed (.gz, .xz, .zst). What cannot be used
comes out as `Bad`, so that it can be counted; what makes the whole source unusable raises InputError.
"""

import json
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import fsspec
import numpy as np

from research.data import chat, python_docs
from research.data.chat import PromptCompletion
from research.errors import InputError

VERSIONS = ("mtime", "etag", "ETag", "md5Hash", "updated", "last_modified", "created")  # as file systems name them


class Record(NamedTuple):
    """A document: `fields` are one text, two texts of a pair, what was said in a conversation, or integers."""

    place: str  # "file.jsonl:17"
    fields: tuple[str, ...] | PromptCompletion | np.ndarray


class SkippedRecord(NamedTuple):
    """A record that cannot be used."""

    place: str
    kind: str  # "broken JSON", the same for all records with the same fault


@dataclass(frozen=True)
class SourceFile:
    """One file of a source, and what tells whether it has changed."""

    path: str
    size: int
    version: str
    records: Callable[[], Iterator[Record | SkippedRecord]]


@dataclass(frozen=True)
class DataSource:
    """What a source string stands for: files in the order in which they are read."""

    name: str
    parts: int  # 1: documents, 2: pairs
    files: tuple[SourceFile, ...]

    @property
    def fingerprint(self) -> list[str]:
        """Differs whenever the content may differ."""
        return [self.name, *(f"{file.path} {file.size} {file.version}" for file in self.files)]

    def records(self) -> Iterator[Record | SkippedRecord]:
        """Everything in it, in order."""
        return (record for file in self.files for record in file.records())


def open_source(name: str) -> DataSource:
    """Finds the files of a source; reads none of them.

    Raises:
      InputError: if the form is unknown, or nothing is found.
    """
    form, _, rest = name.partition(":")
    if name == "python-docs":
        return DataSource(name, 1, (SourceFile(name, 0, python_docs.fingerprint(), lambda: _python_docs()),))
    if form == "tfds":
        from research.data import tfds_source  # takes seconds to import

        return tfds_source.open_tfds(name)
    pattern, _, argument = rest.rpartition("#") if "#" in rest else (rest, "", "")
    names = tuple(argument.split(",")) if argument else ()
    match form:
        case "text" if rest and not argument:
            return DataSource(name, 1, _files(name, pattern, _text))
        case "jsonl" if pattern and len(names) in (1, 2):
            return DataSource(name, len(names), _files(name, pattern, lambda path: _jsonl(path, names)))
        case "chat" if rest and not argument:
            return DataSource(name, 2, _files(name, pattern, _chat))
        case "parquet" if pattern and len(names) in (1, 2):
            return DataSource(name, len(names), _files(name, pattern, lambda path: _parquet(path, names)))
        case "tokens" if pattern and len(names) <= 1:
            dtype = _dtype(name, argument or "uint16")
            return DataSource(name, 1, _files(name, pattern, lambda path: _tokens(path, dtype)))
    raise InputError(
        f"data source {name!r} is none of python-docs, text:GLOB, jsonl:GLOB#FIELD[,FIELD2], "
        "parquet:GLOB#COLUMN[,COLUMN2], chat:GLOB, tfds:NAME/CONFIG:SPLIT[#FIELD[,FIELD2]], tokens:GLOB[#DTYPE]"
    )


def source_records(name: str) -> Iterator[Record | SkippedRecord]:
    """All records of a source, in order. Raises InputError as `open_source` does."""
    return open_source(name).records()


def checked(place: str, fields: Iterable[object], names: tuple[str, ...]) -> Record | SkippedRecord:
    """A record of texts, if they are text: strings or UTF-8, not empty, without halves of surrogate pairs."""
    texts = []
    for field, name in zip(fields, names, strict=True):
        if field is None:
            return SkippedRecord(place, f"no field {name!r}")
        if not isinstance(field, str | bytes):
            return SkippedRecord(place, f"field {name!r} is not text")
        try:
            text = field.decode() if isinstance(field, bytes) else field
            text.encode()
        except UnicodeError:
            return SkippedRecord(place, "invalid UTF-8")
        if not text.strip():
            return SkippedRecord(place, "empty document")
        texts.append(text)
    return Record(place, tuple(texts))


def version(info: dict[str, Any]) -> str:
    """What a file system tells of the state of a file."""
    return next((str(info[name]) for name in VERSIONS if name in info), "")


def _files(name: str, pattern: str, read: Callable[[str], Iterator[Record | SkippedRecord]]) -> tuple[SourceFile, ...]:
    """The files of a glob, sorted by name."""
    try:
        system, path = fsspec.core.url_to_fs(pattern)
        found = {path: info for path, info in system.glob(path, detail=True).items() if info["type"] == "file"}
    except (ImportError, ValueError) as error:  # a bucket whose library is not installed
        raise InputError(f"data source {name!r}: {error}") from error
    if not found:
        raise InputError(f"data source {name!r}: no file matches {pattern!r}")

    def file(path: str) -> SourceFile:
        url = system.unstrip_protocol(path)
        return SourceFile(url, found[path]["size"], version(found[path]), lambda: _readable(url, read))

    return tuple(map(file, sorted(found)))


def _readable(url: str, read: Callable[[str], Iterator[Record | SkippedRecord]]) -> Iterator[Record | SkippedRecord]:
    try:
        yield from read(url)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise InputError(f"{_shown(url)} cannot be read: {error}") from error


def _shown(url: str) -> str:
    return url.removeprefix("file://")


def _python_docs() -> Iterator[Record | SkippedRecord]:
    return (checked(place, (text,), ("text",)) for place, text in python_docs.documents())


def _text(url: str) -> Iterator[Record | SkippedRecord]:
    with fsspec.open(url, "rb", compression="infer") as file:
        yield checked(_shown(url), (file.read(),), ("text",))


def _jsonl(url: str, names: tuple[str, ...]) -> Iterator[Record | SkippedRecord]:
    for place, entry in _lines(url):
        yield entry if isinstance(entry, SkippedRecord) else checked(place, map(entry.get, names), names)


def _chat(url: str) -> Iterator[Record | SkippedRecord]:
    for place, entry in _lines(url):
        if isinstance(entry, SkippedRecord):
            yield entry
            continue
        try:
            yield from [Record(place, exchange) for exchange in chat.prompt_completions(entry)]
        except ValueError as error:
            yield SkippedRecord(place, str(error))


def _lines(url: str) -> Iterator[tuple[str, dict[str, Any] | SkippedRecord]]:
    """Each line of JSON that is not empty, with its place."""
    with fsspec.open(url, "rb", compression="infer") as file:
        for number, line in enumerate(file, start=1):
            place = f"{_shown(url)}:{number}"
            if not line.strip():
                continue
            try:
                entry = json.loads(line.decode())
            except UnicodeDecodeError:
                yield place, SkippedRecord(place, "invalid UTF-8")
            except (ValueError, RecursionError):
                yield place, SkippedRecord(place, "broken JSON")
            else:
                yield place, entry if isinstance(entry, dict) else SkippedRecord(place, "not a JSON object")


def _parquet(url: str, names: tuple[str, ...]) -> Iterator[Record | SkippedRecord]:
    import pyarrow
    import pyarrow.parquet

    try:
        with fsspec.open(url, "rb") as file:
            table = pyarrow.parquet.ParquetFile(file)
            missing = [name for name in names if name not in table.schema_arrow.names]
            if missing:
                raise InputError(f"{_shown(url)} has no column {missing[0]!r}; it has {table.schema_arrow.names}")
            number = 0
            for rows in table.iter_batches(batch_size=1024, columns=list(names)):
                columns = [  # strings as bytes: pyarrow gives up a whole column for one that is not UTF-8
                    column.cast(pyarrow.binary()) if pyarrow.types.is_string(column.type) else column
                    for column in (rows.column(name) for name in names)
                ]
                for fields in zip(*(column.to_pylist() for column in columns), strict=True):
                    yield checked(f"{_shown(url)}:{number}", fields, names)
                    number += 1
    except pyarrow.ArrowException as error:
        raise InputError(f"{_shown(url)} is not a readable parquet file: {error}") from error


def _dtype(name: str, dtype: str) -> np.dtype:
    try:
        parsed = np.dtype(dtype)
    except TypeError:
        parsed = np.dtype(float)
    if not np.issubdtype(parsed, np.integer):
        raise InputError(f"data source {name!r}: {dtype!r} is not an integer dtype such as uint8, uint16, int32")
    return parsed


def _tokens(url: str, dtype: np.dtype) -> Iterator[Record | SkippedRecord]:
    """Local files are mapped into memory, others are read into it."""
    path = _shown(url)
    if url.startswith("file://"):
        array = _mapped(path, dtype)
    else:
        with fsspec.open(url, "rb") as file:
            array = np.load(file) if path.endswith(".npy") else np.frombuffer(file.read(), dtype)
    if not np.issubdtype(array.dtype, np.integer) or array.ndim not in (1, 2):
        raise InputError(f"{path} holds {array.dtype}{list(array.shape)}, not integers [n] or [documents, n]")
    for number, document in enumerate(array if array.ndim == 2 else array[None]):
        place = f"{path}:{number}" if array.ndim == 2 else path
        yield Record(place, document) if len(document) else SkippedRecord(place, "empty document")


def _mapped(path: str, dtype: np.dtype) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r") if path.endswith(".npy") else np.memmap(path, dtype, "r")
    except ValueError as error:  # empty, of a broken header, or not a multiple of the dtype
        raise InputError(f"{path} does not hold integers of type {dtype}: {error}") from error
