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
                                          DTYPE is not given, or with the header of llm.c) is a document, an .npy of
                                          shape [documents, n] has many
  abilities:NAME-SIZE[*RATE][,…]#COUNT    questions with their answers, made on the spot (`abilities.py`)
  ability_pairs:NAME-SIZE[*RATE][,…]#COUNT  the same as pairs

Files are local or in a bucket (`gs://…`); text and JSON lines may be compressed (.gz, .bz2, .xz, .zst). A path that is
a file is that file, whatever characters it has; else `*`, `?` and `[…]` are a pattern. Records that cannot be used come
out as `SkippedRecord`, so that they can be counted; what makes the whole source unusable raises InputError.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import fsspec

from research.data import abilities, python_docs, readers
from research.data.readers import FORMS, StoredFile
from research.data.records import DataSource, Record, SkippedRecord, SourceFile, checked, version
from research.errors import InputError, requires


def open_source(name: str) -> DataSource:
    """Finds the files of a source; reads none of them.

    Raises:
      InputError: if the form is unknown, or nothing is found.
    """
    form_name, _, rest = name.partition(":")
    if name == "python-docs":
        return DataSource(name, 1, (SourceFile(name, 0, python_docs.fingerprint(), _python_docs),))
    if form_name in abilities.FORMS:
        return abilities.open_abilities(name)
    if form_name == "tfds":
        with requires("tfds", "a prepared dataset"):
            from research.data import tfds_source  # takes seconds to import
        return tfds_source.open_tfds(name)
    form = FORMS.get(form_name)
    if form is None or not rest:
        raise _unknown(name)
    pattern, arguments = (rest, ()) if 0 in form.arguments and _is_file(rest) else _arguments(rest, form.arguments)
    if not pattern or len(arguments) not in form.arguments or not all(arguments):
        raise _unknown(name)
    try:
        reader = form.reader(arguments)
    except InputError as error:
        raise InputError(f"data source {name!r}: {error}") from error
    return DataSource(name, 2 if form.pairs else max(1, len(arguments)), _files(name, pattern, reader, form.reading))


def source_records(name: str) -> Iterator[Record | SkippedRecord]:
    """All records of a source, in order. Raises InputError as `open_source` does."""
    return open_source(name).records()


def _arguments(rest: str, counts: tuple[int, ...]) -> tuple[str, tuple[str, ...]]:
    """The pattern, and what stands behind its last # where the form has arguments."""
    if counts == (0,) or "#" not in rest:
        return rest, ()
    pattern, _, arguments = rest.rpartition("#")
    return pattern, tuple(arguments.split(","))


def _unknown(name: str) -> InputError:
    usages = [form.usage for form in FORMS.values()]
    return InputError(
        f"data source {name!r} is none of python-docs, {', '.join(usages)}, tfds:NAME/CONFIG:SPLIT[#FIELD[,FIELD2]], "
        "abilities:NAME-SIZE[*RATE][,…]#COUNT, ability_pairs:NAME-SIZE[*RATE][,…]#COUNT"
    )


def _system(pattern: str) -> tuple[Any, str]:
    """The file system of a path, and the path in it. A local path may have any characters, `::` among them."""
    if "://" not in pattern:
        system = fsspec.filesystem("file")
        return system, system._strip_protocol(pattern)
    return fsspec.core.url_to_fs(pattern)


def _is_file(pattern: str) -> bool:
    return "://" not in pattern and bool(fsspec.filesystem("file").isfile(pattern))


def _files(name: str, pattern: str, reader: readers.Reader, reading: str) -> tuple[SourceFile, ...]:
    """The file of that name, or the files of a glob, sorted by name."""
    try:
        system, path = _system(pattern)
        local = "file" in (system.protocol if isinstance(system.protocol, tuple) else (system.protocol,))
        listed = {path: system.info(path)} if local and system.isfile(path) else system.glob(path, detail=True)
        found = {path: info for path, info in listed.items() if info["type"] == "file"}
    except (ImportError, ValueError, OSError) as error:  # a bucket whose library is not installed
        raise InputError(f"data source {name!r}: {error}") from error
    if not found:
        raise InputError(f"data source {name!r}: no file matches {pattern!r}")

    def file(path: str) -> SourceFile:
        size = found[path]["size"]
        stored = StoredFile(system, path, size, local)
        records = partial(readers.read, stored, reader)
        return SourceFile(system.unstrip_protocol(path), size, version(found[path]) + reading, records)

    return tuple(map(file, sorted(found)))


def _python_docs() -> Iterator[Record | SkippedRecord]:
    return (checked(place, (text,), ("text",)) for place, text in python_docs.documents())
