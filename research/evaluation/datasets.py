"""Records of a task: from a local file, a TFDS or Hugging Face dataset, or a generator, checked before use."""

import hashlib
import io
import json
import lzma
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from research.data.limits import decompressed, limited
from research.errors import InputError, requires
from research.evaluation import generated_tasks
from research.evaluation.templates import Expression

TaskRecord = dict[str, Any]
SECONDS, MEMORY = 30.0, 1 << 30  # that generating records, or cutting a text, may take


@dataclass(frozen=True)
class RecordSource:
    """One place where a task's records can be; exactly one of `file`, `tfds`, `hub` and `generate` is given.

    Formats of a file: `jsonl` (a JSON object a line), `bigbench` (the examples of a `task.json`), `cbt` (blocks of the
    Children's Book Test), `lines` (several files with the same number of lines; a record has one line of each, as
    `lines`) and `text` (one record). `.gz`, `.bz2`, `.xz` and `.zst` are decompressed.
    """

    file: str | None = None  # names of files in the data folder, separated by spaces
    format: Literal["jsonl", "bigbench", "cbt", "lines", "text"] = "jsonl"
    sha256: tuple[str, ...] = ()  # of each file, as it is on disk; none: not known, the result still records it
    tfds: str | None = None  # NAME/CONFIG:SPLIT
    hub: str | None = None  # NAME:CONFIG:SPLIT, CONFIG may be empty
    generate: str | None = None  # a function of `generated.py`
    arguments: dict[str, Any] = field(default_factory=dict)  # of that function
    split: str | None = None  # cut the text of a record where this regular expression matches
    each: str | None = None  # expression: a list, of which every element makes a record, as `each`
    where: str | None = None  # expression: which records are used
    fields: dict[str, str] = field(default_factory=dict)  # new field -> expression

    @property
    def name(self) -> str:
        """As it is shown in messages and results."""
        given = [(kind, getattr(self, kind)) for kind in ("file", "tfds", "hub", "generate")]
        return " ".join(f"{kind} {value}" for kind, value in given if value)


@dataclass(frozen=True)
class LoadedRecords:
    """The records of a task, and where they came from."""

    source: RecordSource
    records: tuple[TaskRecord, ...]
    digest: str  # SHA-256 of the files, or of the records where there are none


def load_records(task: str, sources: Sequence[RecordSource], data: Sequence[Path]) -> LoadedRecords:
    """The records of the first source that is here.

    Args:
      task: its name, for messages.
      sources: in the order in which they are tried.
      data: folders where files are looked for.

    Raises:
      Missing: if none is here; it says what was looked for.
      InputError: if the one that is here is corrupt.
    """
    missing = []
    for source in sources:
        try:
            found = _read(source, data)
        except _NotHere as error:
            missing.append(f"{source.name}: {error}")
            continue
        records = tuple(_prepare(task, source, found.records))
        if not records:
            raise InputError(f"task {task}: {source.name} has no records")
        return LoadedRecords(source, records, found.digest)
    raise Missing(f"task {task}: no data here.\n  " + "\n  ".join(missing))


class Missing(InputError):
    """No source of a task is on this machine."""


class _NotHere(Exception):
    """A source is not on this machine; the message says what would bring it."""


@dataclass(frozen=True)
class _Found:
    records: Iterator[TaskRecord]
    digest: str


def _read(source: RecordSource, data: Sequence[Path]) -> _Found:
    if source.generate is not None:
        records = _generated(source)
        return _Found(iter(records), _digest(json.dumps(records).encode()))
    if source.file is not None:
        paths = [_find(name, data) for name in source.file.split()]
        if not paths:
            raise InputError(f"file {source.file!r} names no file")
        try:
            contents = [path.read_bytes() for path in paths]
        except OSError as error:
            raise InputError(f"{source.name} cannot be read: {error}") from error
        digests = [_digest(content) for content in contents]
        for path, expected, digest in zip(paths, source.sha256, digests, strict=False):
            if expected != digest:
                raise InputError(
                    f"{path} is not the file that the task is defined on: its SHA-256 is {digest}, not {expected}; "
                    "fetch it again, or define a task of another name for it"
                )
        return _Found(_parse(source, paths, contents), "+".join(digests))
    records = _tfds(source.tfds) if source.tfds is not None else _hub(source.hub or "")
    return _Found(iter(records), _digest(json.dumps(records, default=str).encode()))


def _generated(source: RecordSource) -> list[TaskRecord]:
    try:
        made = generated_tasks.GENERATORS[source.generate or ""]
        return limited(SECONDS, MEMORY, lambda: list(made(**source.arguments)))
    except InputError:
        raise
    except Exception as error:  # other arguments than the function has, or values that it cannot use
        reason = str(error) or type(error).__name__
        raise InputError(f"{source.name} cannot be made with {source.arguments}: {reason}") from error


def _find(name: str, data: Sequence[Path]) -> Path:
    """The file of that name in the first folder that has it; a task file may not name files anywhere else.

    Raises:
      InputError: if the name, or a link behind it, leads out of the folders.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise InputError(f"file {name!r}: a task names files in the data folders, without .. and without a leading /")
    found = [folder / name for folder in data if os.path.isfile(folder / name)]  # False for a name of any length
    for folder in data:
        if folder / name in found and not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise InputError(f"file {name!r} is a link out of {folder}, to {(folder / name).resolve()}")
    if not found:
        raise _NotHere(f"{name} is not in {', '.join(map(str, data)) or 'a data folder (--data FOLDER)'}")
    return found[0]


def _parse(source: RecordSource, paths: Sequence[Path], contents: Sequence[bytes]) -> Iterator[TaskRecord]:
    texts = [_text(path, content) for path, content in zip(paths, contents, strict=True)]
    path, text = paths[0], texts[0]
    match source.format:
        case "text":
            yield {"text": text}
        case "lines":
            columns = [one.removesuffix("\n").split("\n") for one in texts]
            if len({len(column) for column in columns}) > 1:
                lengths = ", ".join(f"{p.name} {len(c)}" for p, c in zip(paths, columns, strict=True))
                raise InputError(f"parallel files must have as many lines: {lengths}")
            yield from ({"lines": list(row)} for row in zip(*columns, strict=True))
        case "cbt":
            yield from _cbt(path, text)
        case "bigbench":
            tree = _json(text, str(path))
            if not isinstance(tree, dict) or not isinstance(tree.get("examples"), list):
                raise InputError(f"{path} has no list of `examples`, as a BIG-bench task has")
            if not all(isinstance(example, dict) for example in tree["examples"]):
                raise InputError(f"{path} has `examples` that are no JSON objects")
            yield from ({"task_prefix": tree.get("task_prefix", ""), **example} for example in tree["examples"])
        case "jsonl":
            for number, line in enumerate(text.split("\n"), start=1):  # splitlines knows more line ends than JSON
                if line.strip():
                    record = _json(line, f"{path}, line {number}")
                    if not isinstance(record, dict):
                        raise InputError(f"{path}, line {number}: not a JSON object: {line[:60]!r}")
                    yield record


def _text(path: Path, content: bytes) -> str:
    try:
        stream = decompressed(io.BytesIO(content), str(path), len(content))
        return stream.read().decode("utf-8-sig").replace("\r\n", "\n")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, lzma.LZMAError, MemoryError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _json(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: broken JSON: {error}") from error


def _cbt(path: Path, text: str) -> Iterator[TaskRecord]:
    """Twenty numbered sentences, then the question with XXXXX, the answer and the candidates between tabs."""
    for block in filter(None, (block.strip() for block in text.split("\n\n"))):
        try:
            *context, last = (line.split(" ", 1)[1] for line in block.split("\n"))
            question, answer, *_, candidates = last.split("\t")
        except (IndexError, ValueError) as error:
            raise InputError(f"{path}: a block that is not of the Children's Book Test: {block[:60]!r}") from error
        if "XXXXX" not in question:
            raise InputError(f"{path}: a question without XXXXX: {question[:60]!r}")
        yield {"sentences": context, "question": question, "answer": answer, "options": candidates.split("|")}


def _tfds(name: str) -> list[TaskRecord]:
    try:
        with requires("tfds", "a prepared dataset"):
            from research.data import tfds_source  # takes seconds to import
        return [_decoded(example) for example in tfds_source.tfds_examples(name)]
    except (InputError, UnicodeDecodeError) as error:
        raise _NotHere(str(error)) from error


def _hub(name: str) -> list[TaskRecord]:
    try:
        path, config, split = name.split(":")
        import datasets

        return [_decoded(row) for row in datasets.load_dataset(path, config or None, split=split)]
    except Exception as error:  # not installed, no network, no such dataset: whatever it is, it is not here
        raise _NotHere(f"Hugging Face `datasets` does not give it ({type(error).__name__})") from error


def _decoded(value: Any) -> Any:
    """Bytes as text, and NumPy's numbers and arrays as Python's."""
    if isinstance(value, dict):
        return {key: _decoded(one) for key, one in value.items()}
    if isinstance(value, bytes):
        return value.decode()
    value = value.tolist() if hasattr(value, "tolist") else value
    return [_decoded(one) for one in value] if isinstance(value, list | tuple) else value


def _prepare(task: str, source: RecordSource, records: Iterator[TaskRecord]) -> Iterator[TaskRecord]:
    """Cuts, expands, selects and renames, as the source says."""
    each, where = (
        Expression.parse(task, name, text) if text else None
        for name, text in (("each", source.each), ("where", source.where))
    )
    fields = {name: Expression.parse(task, f"fields.{name}", text) for name, text in source.fields.items()}
    for record in records:
        if source.split:
            parts: list[TaskRecord] = [{**record, "text": part} for part in _cut(task, source.split, record)]
        else:
            parts = [record]
        for part in parts:
            rows = [part] if each is None else [{**part, "each": one} for one in _elements(task, each(part))]
            for row in rows:
                if where is None or where(row):
                    yield {name: field(row) for name, field in fields.items()} or row


def _cut(task: str, pattern: str, record: TaskRecord) -> list[str]:
    """The parts of a record's text between matches of a regular expression, without empty ones."""
    try:
        # an expression may try ways without number
        parts = limited(SECONDS, MEMORY, lambda: re.compile(pattern).split(record["text"]))
        return [part for part in parts if part and part.strip()]
    except (re.error, KeyError, TypeError, TimeoutError, MemoryError, RecursionError, OverflowError) as error:
        reason = str(error) or type(error).__name__
        raise InputError(f"task {task}: split {pattern!r} fails on a record: {reason}") from error


def _elements(task: str, value: Any) -> list[Any]:
    if not isinstance(value, list | tuple | range):
        raise InputError(f"task {task}: each must be a list, not {value!r}"[:500])
    return list(value)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
