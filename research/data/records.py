"""What a data source consists of: files of records, each a document, or a fault that is counted."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from research.data.chat import PromptCompletion

VERSIONS = ("mtime", "etag", "ETag", "md5Hash", "updated", "last_modified", "created")  # as file systems name them


class Record(NamedTuple):
    """A document: `fields` are one text, two texts of a pair, a prompt with its completion, or integers."""

    place: str  # "file.jsonl:17"
    fields: tuple[str, ...] | PromptCompletion | np.ndarray


class SkippedRecord(NamedTuple):
    """A record that cannot be used."""

    place: str
    kind: str  # "broken JSON", the same for all records with the same fault
    hint: str = ""  # what the record has instead, which is said of the first one of its kind


@dataclass(frozen=True)
class SourceFile:
    """One file of a source, and what shows whether it has changed."""

    path: str
    size: int  # bytes
    version: str
    records: Callable[[], Iterator[Record | SkippedRecord]]


@dataclass(frozen=True)
class DataSource:
    """The files of a source string, in the order in which they are read."""

    name: str
    parts: int  # 1: documents, 2: pairs
    files: tuple[SourceFile, ...]

    @property
    def fingerprint(self) -> list[str]:
        """Differs whenever the content may differ."""
        return [self.name, *(f"{file.path} {file.size} {file.version}" for file in self.files)]

    def records(self) -> Iterator[Record | SkippedRecord]:
        """Every record, in order."""
        return (record for file in self.files for record in file.records())


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
