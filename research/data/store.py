"""The token store: a source, tokenised once, as memory-mapped files.

A store is a folder of `tokens.bin` (all documents one after the other, in the smallest unsigned dtype that holds the
vocabulary), `offsets.npy` (int64 `[documents * parts + 1]`: part p of document d begins at `offsets[d * parts + p]`),
`checksums.npy` (uint64: xxHash3 of each VERIFIED bytes of `tokens.bin`) and `meta.json`. What is read is verified when
it is read for the first time, so a changed byte is never trained on.
"""

import json
import logging
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import xxhash
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from research.data import cache, chat
from research.data.chat import PromptCompletion
from research.data.records import DataSource, Record, SkippedRecord
from research.data.tokenizers import Tokenizer
from research.errors import InputError

log = logging.getLogger(__name__)

FORMAT = 4  # of a token store
CHUNK = 1 << 21  # characters that are tokenised together
BLOCK = 1 << 24  # integers that are copied together
VERIFIED = 1 << 16  # bytes of a checksum
PLACES = 5  # that are kept of each kind of bad record


@dataclass(frozen=True)
class Store:
    """Documents as tokens. Every property raises InputError where the store is damaged."""

    folder: Path

    @cached_property
    def meta(self) -> dict[str, Any]:
        """source, parts, documents, tokens, dtype, skipped; and the checksum of the offsets."""
        try:
            meta: dict[str, Any] = json.loads((self.folder / "meta.json").read_text(encoding="utf-8"))
            sizes = [meta["parts"], meta["documents"], meta["tokens"], meta["offsets"]]
            right = all(isinstance(size, int) and size >= 0 for size in sizes) and meta["parts"] in (1, 2)
            right &= meta["dtype"] in ("uint8", "uint16", "uint32")
            right &= isinstance(meta["source"], str) and isinstance(meta["skipped"], str)
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise self._damaged(f"meta.json: {error}") from error
        if not right:
            raise self._damaged("meta.json has values that none is written with")
        return meta

    @cached_property
    def tokens(self) -> np.ndarray:
        """Every token, `[tokens]`, as it is stored, without verification: see `read`."""
        path, size = self.folder / "tokens.bin", self.meta["tokens"] * np.dtype(self.meta["dtype"]).itemsize
        try:
            if path.stat().st_size != size:
                raise self._damaged(f"tokens.bin has {path.stat().st_size:,} bytes instead of {size:,}")
            return np.memmap(path, self.meta["dtype"], "r").view(np.ndarray)
        except OSError as error:
            raise self._damaged(str(error)) from error

    @cached_property
    def offsets(self) -> np.ndarray:
        """Where each part of each document begins, and the end."""
        try:
            offsets = np.load(self.folder / "offsets.npy", mmap_mode="r").view(np.ndarray)
        except Exception as error:  # the header of an .npy is a Python literal, and its parser raises what it meets
            raise self._damaged(f"offsets.npy: {error}") from error
        shape = (self.documents * self.parts + 1,)
        if offsets.shape != shape or offsets.dtype != np.int64 or _checksum(offsets) != self.meta["offsets"]:
            raise self._damaged("offsets.npy is not as it was written")
        return offsets

    @cached_property
    def _checksums(self) -> np.ndarray:
        try:
            checksums = np.load(self.folder / "checksums.npy")
        except Exception as error:
            raise self._damaged(f"checksums.npy: {error}") from error
        if checksums.shape != (-(-self.tokens.nbytes // VERIFIED),) or checksums.dtype != np.uint64:
            raise self._damaged("checksums.npy is not as it was written")
        return checksums

    @cached_property
    def _verified(self) -> bytearray:
        """1 for each block of `tokens.bin` that this process has verified."""
        return bytearray(len(self._checksums))

    def read(self, first: int, last: int) -> np.ndarray:
        """int32: the tokens `first` to `last - 1` of all, verified."""
        size = self.tokens.itemsize
        for block in range(first * size // VERIFIED, -(-last * size // VERIFIED) if last > first else 0):
            if not self._verified[block]:
                stored = self.tokens[block * VERIFIED // size : (block + 1) * VERIFIED // size]
                if _checksum(stored) != int(self._checksums[block]):
                    raise self._damaged(f"tokens.bin is not as it was written at byte {block * VERIFIED:,} or after")
                self._verified[block] = 1
        return self.tokens[first:last].astype(np.int32)

    @cached_property
    def digest(self) -> str:
        """Of the content, wherever and whenever it was made."""
        facts = json.dumps([self.meta[name] for name in ("parts", "documents", "tokens", "dtype", "offsets")])
        return f"{xxhash.xxh3_64_intdigest(facts.encode() + self._checksums.tobytes()):016x}"

    def _damaged(self, what: str) -> InputError:
        return InputError(f"the token store {self.folder} is damaged ({what}); delete the folder, and it is made again")

    @cached_property
    def bounds(self) -> memoryview:
        """The offsets again, of which single ones are read faster here."""
        return self.offsets.data

    @cached_property
    def parts(self) -> int:
        """1: documents, 2: pairs."""
        return int(self.meta["parts"])

    @cached_property
    def documents(self) -> int:
        """How many."""
        return int(self.meta["documents"])

    def part(self, document: int, part: int = 0, begin: int = 0, end: int | None = None) -> np.ndarray:
        """int32: tokens `begin` to `end` of one part of a document."""
        place = document * self.parts + part
        first, last = self.bounds[place], self.bounds[place + 1]
        stop = last if end is None else min(first + end, last)
        return self.read(first + begin, max(stop, first + begin))

    @property
    def skipped(self) -> str:
        """What could not be used, in words; empty if there was nothing."""
        return str(self.meta["skipped"])

    def __reduce__(self) -> Any:  # mapped files must not travel to worker processes
        return Store, (self.folder,)


@dataclass
class SkippedRecords:
    """Records that could not be used: how many of each kind, and the first places."""

    counts: Counter[str] = field(default_factory=Counter)
    places: dict[str, list[str]] = field(default_factory=dict)

    def add(self, bad: SkippedRecord) -> None:
        """Counts one more."""
        self.counts[bad.kind] += 1
        if self.counts[bad.kind] <= PLACES:
            self.places.setdefault(bad.kind, []).append(bad.place)

    def __str__(self) -> str:
        return "; ".join(
            f"{count:,} x {kind} ({', '.join(self.places[kind])}{', …' * (count > PLACES)})"
            for kind, count in self.counts.items()
        )


def prepare(source: DataSource, tokenizer: Tokenizer, below: Path, prefix: str = "", cut: float | None = None) -> Store:
    """The store of a source.

    Args:
      below: the folder where it is found, or else made.
      prefix: text before every document (of a pair: before its input).
      cut: a source of one document becomes two, of which the second has this share of the text.

    Raises:
      InputError: if the source has no usable document, or ids outside the vocabulary.
    """

    def make(unfinished: Path) -> None:
        _write(unfinished, source, tokenizer, prefix, cut)
        if Store(unfinished).skipped:
            log.warning("%s: skipped %s", source.name, Store(unfinished).skipped)

    return Store(
        cache.made(below / ("store-" + cache.key(FORMAT, source.fingerprint, tokenizer.digest, prefix, cut)), make)
    )


def texts(source: DataSource) -> Iterator[str]:
    """Every usable text. Raises InputError if there is none."""
    skipped = SkippedRecords()
    some = False
    for record in _usable(source.records(), skipped):
        if not isinstance(record.fields, tuple):
            raise _without_text(source)
        some = True
        yield from record.fields
    if not some:
        raise _nothing(source, skipped)


def training_texts(source: DataSource, held_out: float | None, limit: int = 100_000_000) -> Iterator[str]:
    """The texts that a tokenizer may be trained on: of the documents that make up the first `limit` characters, all but
    the last fraction `held_out`. Raises InputError if the source has no text."""
    skipped = SkippedRecords()
    documents: list[tuple[str, ...]] = []
    size = 0
    for record in _cut_single(_usable(source.records(), skipped), held_out):
        if not isinstance(record.fields, tuple):
            raise _without_text(source)
        documents.append(record.fields)
        size += sum(map(len, record.fields))
        if size > limit:
            break
    if not documents:
        raise _nothing(source, skipped)
    return chain.from_iterable(documents[: len(documents) - held_out_count(len(documents), held_out)])


def held_out_count(documents: int, fraction: float | None) -> int:
    """How many of the last documents are held out: at least one, unless there is only one."""
    return 0 if fraction is None else min(max(round(documents * fraction), 1), documents - 1)


def _write(folder: Path, source: DataSource, tokenizer: Tokenizer, prefix: str, cut: float | None) -> None:
    dtype = next(d for d in (np.uint8, np.uint16, np.uint32) if tokenizer.size - 1 <= np.iinfo(d).max)
    skipped = SkippedRecords()
    lengths = array("q")  # of the parts of the documents
    console = Console(stderr=True)
    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[tokens]:,} tokens"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with progress, open(folder / "tokens.bin", "wb") as file, ThreadPoolExecutor(1) as reader:
        size = sum(one.size for one in source.files)
        task = progress.add_task(f"tokenising {source.name}", total=size or None, tokens=0)

        def all_records() -> Iterator[Record | SkippedRecord]:
            for one in source.files:
                yield from one.records()
                progress.advance(task, one.size)

        chunks = _chunks(_cut_single(_usable(all_records(), skipped), cut))
        chunk = next(chunks, None)
        while chunk:
            following = reader.submit(next, chunks, None)  # read the next while the tokenizer's threads work on this
            parts = list(_encoded(chunk, tokenizer, prefix, skipped))
            lengths.extend(sum(map(len, part)) for part in parts)
            _append(file, [one for part in parts for one in part], dtype)
            progress.update(task, tokens=file.tell() // np.dtype(dtype).itemsize)
            chunk = following.result()
    if not lengths:
        raise _nothing(source, skipped)
    seal(folder, lengths, dtype, source.name, source.parts, str(skipped))


def seal(folder: Path, lengths: Sequence[int], dtype: type, source: str, parts: int, skipped: str) -> None:
    """Writes all else of a store whose `tokens.bin` is there.

    Args:
      lengths: of every part of every document, in tokens.
      dtype: of the tokens.
      source, parts, skipped: as in `Store.meta`.
    """
    offsets = np.concatenate([np.zeros(1, np.int64), np.array(lengths, np.int64)]).cumsum()
    np.save(folder / "offsets.npy", offsets)
    stored = np.memmap(folder / "tokens.bin", dtype, "r").view(np.ndarray)
    step = VERIFIED // stored.itemsize
    checksums = [_checksum(stored[start : start + step]) for start in range(0, len(stored), step)]
    np.save(folder / "checksums.npy", np.array(checksums, np.uint64))
    meta = {
        "source": source,
        "parts": parts,
        "documents": len(lengths) // parts,
        "tokens": int(offsets[-1]),
        "dtype": np.dtype(dtype).name,
        "skipped": skipped,
        "offsets": _checksum(offsets),
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")


def _checksum(array: np.ndarray) -> int:
    return xxhash.xxh3_64_intdigest(array.data)


def _usable(records: Iterable[Record | SkippedRecord], skipped: SkippedRecords) -> Iterator[Record]:
    """The good ones; the others are counted."""
    for record in records:
        if isinstance(record, Record):
            yield record
        else:
            skipped.add(record)


def _cut_single(records: Iterator[Record], cut: float | None) -> Iterator[Record]:
    """A single record becomes two, of which the second has the last fraction `cut`. A pair stays whole."""
    first = list(islice(records, 2))
    if cut is None or len(first) != 1 or _is_pair(first[0]):
        yield from chain(first, records)
        return
    place, fields = first[0]
    assert not isinstance(fields, PromptCompletion)
    whole = fields if isinstance(fields, np.ndarray) else fields[0]
    middle = int(len(whole) * (1 - cut))
    for part in (whole[:middle], whole[middle:]):
        yield Record(place, part if isinstance(part, np.ndarray) else (part,))


def _chunks(records: Iterator[Record]) -> Iterator[list[Record]]:
    """Records in lists of about CHUNK characters."""
    chunk: list[Record] = []
    size = 0
    for record in records:
        chunk.append(record)
        size += _size(record.fields)
        if size >= CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _encoded(
    records: list[Record], tokenizer: Tokenizer, prefix: str, skipped: SkippedRecords
) -> Iterator[list[np.ndarray]]:
    """The parts of the documents, one after the other, each as arrays to be joined: the first part of a document begins
    with the tokenizer's bos and every part ends with its eos, where it has them."""
    fields = [record.fields for record in records if isinstance(record.fields, tuple)]
    arrays = iter(tokenizer.encode_many([text for first, *second in fields for text in (prefix + first, *second)]))
    begin, end = ([] if i is None else [np.array([i])] for i in (tokenizer.bos, tokenizer.eos))
    for record in records:
        if isinstance(record.fields, PromptCompletion):
            yield from chat.encode(record.fields, tokenizer)
            continue
        if isinstance(record.fields, np.ndarray):
            _check_ids(record.place, record.fields, tokenizer.size)
            yield [*begin, record.fields, *end]
            continue
        parts = [next(arrays) for _ in record.fields]
        if all(map(len, parts)):
            yield from ([*begin * (number == 0), part, *end] for number, part in enumerate(parts))
        else:
            skipped.add(SkippedRecord(record.place, "no token"))


def _check_ids(place: str, ids: np.ndarray, size: int) -> None:
    for start in range(0, len(ids), BLOCK):
        block = np.asarray(ids[start : start + BLOCK])
        wrong = np.flatnonzero((block < 0) | (block >= size))
        if len(wrong):
            value, index = block[wrong[0]], start + wrong[0]
            raise InputError(f"{place}: the integer {value} at index {index} is outside the vocabulary of {size} ids")


def _append(file: BinaryIO, arrays: list[np.ndarray], dtype: type) -> None:
    """Writes arrays one after the other; long ones, which may be mapped files, in blocks."""
    if sum(map(len, arrays)) <= BLOCK:
        arrays = [np.concatenate(arrays)] if arrays else []
    for one in arrays:
        for start in range(0, len(one), BLOCK):
            one[start : start + BLOCK].astype(dtype).tofile(file)


def _is_pair(record: Record) -> bool:
    return isinstance(record.fields, PromptCompletion) or (isinstance(record.fields, tuple) and len(record.fields) == 2)


def _size(fields: tuple[str, ...] | PromptCompletion | np.ndarray) -> int:
    """Characters, or integers."""
    if isinstance(fields, PromptCompletion):
        return fields.size
    return len(fields) if isinstance(fields, np.ndarray) else sum(map(len, fields))


def _without_text(source: DataSource) -> InputError:
    what = (
        "conversations: use that of a chat model" if source.name.startswith("chat:") else "integers: use integers:SIZE"
    )
    return InputError(f"a tokenizer cannot be made from {source.name!r}, which holds {what}")


def _nothing(source: DataSource, skipped: SkippedRecords) -> InputError:
    return InputError(f"data source {source.name!r} has no usable document: {str(skipped) or 'it is empty'}")
