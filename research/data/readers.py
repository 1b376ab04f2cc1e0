"""The forms of data source that read files, one function each. A new form is a function here, and its row in FORMS."""

import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from research.data import chat
from research.data.limits import decompressed
from research.data.records import Record, SkippedRecord, checked
from research.errors import InputError, requires

FIELDS = 8  # of a record, that a message lists
LLM_C_HEADER = 1024  # bytes
LLM_C = {20240520: "<u2", 20240801: "<u4"}  # magic number of its token files -> their dtype
NOT_RAW = {  # how files begin that are no raw numbers, whatever they are called
    b"PK\x03\x04": "a zip archive (an .npz is one; save its arrays as .npy)",
    b"\x93NUMPY": "an .npy file under another name",
    b"PAR1": "a parquet file",
    b"MMIDIDX": "the index of Megatron-LM (name its .bin)",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
    b"\xfd7zXZ": "compressed by xz",
}
BOM = b"\xef\xbb\xbf"  # a mark at the beginning of UTF-8, which is not text


class StoredFile(NamedTuple):
    """A file of a local or a distant file system."""

    system: Any  # of fsspec
    path: str  # in that
    size: int  # bytes
    local: bool

    @property
    def name(self) -> str:
        """As it is shown in messages."""
        return self.path if self.local else str(self.system.unstrip_protocol(self.path))

    def open(self) -> BinaryIO:
        """Its bytes as they are stored."""
        return self.system.open(self.path, "rb")  # type: ignore[no-any-return]

    def stream(self) -> BinaryIO:
        """Its bytes, decompressed."""
        return decompressed(self.open(), self.name, self.size)


Reader = Callable[[StoredFile], Iterator[Record | SkippedRecord]]


@dataclass(frozen=True)
class Form:
    """A form of data source: NAME:GLOB[#ARGUMENT[,ARGUMENT]]."""

    usage: str
    reader: Callable[[tuple[str, ...]], Reader]  # from the arguments; raises InputError if one is wrong
    arguments: tuple[int, ...] = (0,)  # how many there may be
    pairs: bool = False  # whatever the arguments; else two arguments make pairs
    reading: str = ""  # another one where the same file is read otherwise than by an earlier version


def read(file: StoredFile, reader: Reader) -> Iterator[Record | SkippedRecord]:
    """The records of a file. Raises InputError if it cannot be read."""
    try:
        yield from reader(file)
    except (OSError, EOFError, zlib.error, lzma.LZMAError, MemoryError) as error:
        raise InputError(f"{file.name} cannot be read: {error or type(error).__name__}") from error


def _text(file: StoredFile) -> Iterator[Record | SkippedRecord]:
    with file.stream() as stream:
        yield checked(file.name, (stream.read().removeprefix(BOM),), ("text",))


def _jsonl(names: tuple[str, ...], file: StoredFile) -> Iterator[Record | SkippedRecord]:
    for place, entry in _lines(file):
        if isinstance(entry, SkippedRecord):
            yield entry
            continue
        record = checked(place, map(entry.get, names), names)
        if isinstance(record, SkippedRecord) and not entry.keys() >= set(names):
            record = record._replace(hint=f"; it has {', '.join(map(repr, list(entry)[:FIELDS])) or 'none'}")
        yield record


def _chat(file: StoredFile) -> Iterator[Record | SkippedRecord]:
    for place, entry in _lines(file):
        if isinstance(entry, SkippedRecord):
            yield entry
            continue
        try:
            yield from [Record(place, exchange) for exchange in chat.prompt_completions(entry)]
        except ValueError as error:
            yield SkippedRecord(place, str(error))


def _lines(file: StoredFile) -> Iterator[tuple[str, dict[str, Any] | SkippedRecord]]:
    """Each line of JSON that is not empty, with its place."""
    with file.stream() as stream:
        for number, line in enumerate(stream, start=1):
            place = f"{file.name}:{number}"
            line = line.removeprefix(BOM) if number == 1 else line
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


def _parquet(names: tuple[str, ...], file: StoredFile) -> Iterator[Record | SkippedRecord]:
    with requires("parquet", "a parquet file"):
        import pyarrow
        import pyarrow.parquet

    def raw(column: Any) -> Any:
        """Strings as bytes: pyarrow gives up a whole column for one string that is not UTF-8."""
        if pyarrow.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if pyarrow.types.is_string(column.type):
            return column.cast(pyarrow.binary())
        return column.cast(pyarrow.large_binary()) if pyarrow.types.is_large_string(column.type) else column

    try:
        with file.open() as stream:
            table = pyarrow.parquet.ParquetFile(stream)
            missing = [name for name in names if name not in table.schema_arrow.names]
            if missing:
                raise InputError(f"{file.name} has no column {missing[0]!r}; it has {table.schema_arrow.names}")
            number = 0
            for rows in table.iter_batches(batch_size=1024, columns=list(names)):
                columns = [raw(rows.column(name)) for name in names]
                for fields in zip(*(column.to_pylist() for column in columns), strict=True):
                    yield checked(f"{file.name}:{number}", fields, names)
                    number += 1
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError, KeyError) as error:
        raise InputError(f"{file.name} is not a readable parquet file: {error}") from error


def _integers(arguments: tuple[str, ...]) -> Reader:
    name = arguments[0] if arguments else "uint16"
    try:
        dtype = np.dtype(name)
    except Exception:  # numpy parses it, and raises what it meets
        dtype = np.dtype(float)
    if dtype.kind not in "iu":
        raise InputError(f"{name!r} is not an integer dtype such as uint8, uint16, int32")
    return partial(_tokens, dtype, bool(arguments))


def _tokens(dtype: np.dtype, given: bool, file: StoredFile) -> Iterator[Record | SkippedRecord]:
    """Local files are mapped into memory, others are read into it. `given`: the dtype is the user's."""
    order = "C"
    if file.path.endswith(".npy"):
        begin, shape, order, dtype = _npy_header(file)
    else:
        begin, shape, dtype = _raw_layout(file, dtype, given)
    if dtype.kind not in "iu" or len(shape) not in (1, 2):
        raise InputError(f"{file.name} holds {dtype}{list(shape)}, not integers [n] or [documents, n]")
    elements = shape[0] * (shape[1] if len(shape) == 2 else 1)
    if min(shape) < 0 or begin + elements * dtype.itemsize != file.size:
        raise InputError(f"{file.name} does not hold integers of type {dtype}{list(shape)}: it has {file.size} bytes")
    if not elements:
        if not begin:
            raise InputError(f"{file.name} does not hold integers: it is empty")
        yield SkippedRecord(file.name, "empty document")
        return
    array: np.ndarray
    if file.local:
        array = np.memmap(file.path, dtype, "r", begin, shape, "F" if order == "F" else "C")
    else:
        with file.open() as stream:
            stream.seek(begin)
            array = np.frombuffer(stream.read(), dtype).reshape(shape, order="F" if order == "F" else "C")
    for number, document in enumerate(array if array.ndim == 2 else array[None]):
        yield Record(f"{file.name}:{number}" if array.ndim == 2 else file.name, document)


def _raw_layout(file: StoredFile, dtype: np.dtype, given: bool) -> tuple[int, tuple[int, ...], np.dtype]:
    """Where the numbers of a file of raw ones begin, how many there are, and their dtype: after the header of llm.c
    (`dev/data/data_common.py`), if there is one. Raises InputError if the file is of a known format that is not raw."""
    with file.open() as stream:
        head = stream.read(LLM_C_HEADER)
    kind = next((kind for mark, kind in NOT_RAW.items() if head.startswith(mark)), None)
    if kind is not None or file.path.endswith((".gz", ".bz2", ".xz", ".zst")):
        raise InputError(f"{file.name} is {kind or 'compressed'}, not raw numbers as the form tokens: reads them")
    magic = int.from_bytes(head[:4], "little")
    if magic not in LLM_C or len(head) < LLM_C_HEADER:
        return 0, (file.size // dtype.itemsize,), dtype
    own, count = np.dtype(LLM_C[magic]), int.from_bytes(head[8:12], "little")
    if given and dtype != own:
        raise InputError(f"{file.name} has the header of llm.c for {own}, so its numbers are not {dtype}")
    return LLM_C_HEADER, (count,), own


def _npy_header(file: StoredFile) -> tuple[int, tuple[int, ...], str, np.dtype]:
    """Where the data of an .npy file begin, its shape, its order (C or F) and its dtype."""
    with file.open() as stream:
        try:
            version = np.lib.format.read_magic(stream)
            header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
            shape, fortran, dtype = header(stream)
        except Exception as error:  # the header is a Python literal, and its parser raises what it meets
            raise InputError(f"{file.name} is not a readable .npy file: {error}") from error
        return stream.tell(), shape, "F" if fortran else "C", dtype


FORMS = {
    "text": Form("text:GLOB", lambda _: _text),
    "jsonl": Form("jsonl:GLOB#FIELD[,FIELD2]", lambda names: partial(_jsonl, names), (1, 2)),
    "parquet": Form("parquet:GLOB#COLUMN[,COLUMN2]", lambda names: partial(_parquet, names), (1, 2)),
    "chat": Form("chat:GLOB", lambda _: _chat, pairs=True, reading=" with all fields, weights and reasoning"),
    "tokens": Form("tokens:GLOB[#DTYPE]", _integers, (0, 1), reading=" after headers"),
}
