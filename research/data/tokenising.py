"""Sources as token stores: read, tokenised once and written."""

import json
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from research.data import cache, chat, store
from research.data.chat import PromptCompletion
from research.data.records import DataSource, Record, SkippedRecord
from research.data.store import Store
from research.data.token_files import VERIFIED, checksum
from research.data.tokenizers import Tokenizer
from research.errors import InputError

CHUNK = 1 << 21  # characters that are tokenised together
BLOCK = 1 << 24  # integers that are copied together
PLACES = 5  # that are kept of each kind of bad record


@dataclass
class SkippedRecords:
    """Records that could not be used: how many of each kind, and the first places."""

    counts: Counter[str] = field(default_factory=Counter)
    places: dict[str, list[str]] = field(default_factory=dict)
    hints: dict[str, str] = field(default_factory=dict)

    def add(self, bad: SkippedRecord) -> None:
        """Counts one more."""
        self.counts[bad.kind] += 1
        self.hints.setdefault(bad.kind, bad.hint)
        if self.counts[bad.kind] <= PLACES:
            self.places.setdefault(bad.kind, []).append(bad.place)

    def __str__(self) -> str:
        return "; ".join(
            f"{count:,} x {kind}{self.hints[kind]} ({', '.join(self.places[kind])}{', …' * (count > PLACES)})"
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
    name = "store-" + cache.key(store.FORMAT, source.fingerprint, tokenizer.digest, prefix, cut)
    return Store(cache.made(below / name, lambda unfinished: write(unfinished, source, tokenizer, prefix, cut)))


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
        raise nothing_usable(source.name, str(skipped))


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
        raise nothing_usable(source.name, str(skipped))
    return chain.from_iterable(documents[: len(documents) - held_out_count(len(documents), held_out)])


def held_out_count(documents: int, fraction: float | None) -> int:
    """How many of the last documents are held out: at least one, unless there is only one."""
    return 0 if fraction is None else min(max(round(documents * fraction), 1), documents - 1)


def write(
    folder: Path,
    source: DataSource,
    tokenizer: Tokenizer,
    prefix: str = "",
    cut: float | None = None,
    may_be_empty: bool = False,
) -> None:
    """Fills a folder with the store of a source; see `prepare`. Raises InputError if it has no usable document, unless
    it `may_be_empty`, as one of many files may be."""
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
    if not lengths and not may_be_empty:
        raise nothing_usable(source.name, str(skipped))
    seal(folder, lengths, dtype, source.name, source.parts, str(skipped))


def seal(folder: Path, lengths: Sequence[int], dtype: type, source: str, parts: int, skipped: str) -> None:
    """Writes all else of a store whose `tokens.bin` is there.

    Args:
      lengths: of every part of every document, in tokens.
      dtype: of the tokens.
      source, parts, skipped: as in `Store.meta`.
    """
    counted = np.frombuffer(lengths, np.int64) if isinstance(lengths, array) else np.array(lengths, np.int64)
    offsets = write_offsets(folder, len(counted), (counted[n : n + BLOCK] for n in range(0, len(counted), BLOCK)))
    empty = not len(counted)  # then nothing can be mapped
    stored = np.zeros(0, dtype) if empty else np.memmap(folder / "tokens.bin", dtype, "r").view(np.ndarray)
    step = VERIFIED // stored.itemsize
    checksums = [checksum(stored[start : start + step]) for start in range(0, len(stored), step)]
    np.save(folder / "checksums.npy", np.array(checksums, np.uint64))
    write_meta(folder, source, parts, np.dtype(dtype).name, skipped, offsets)


def write_offsets(folder: Path, count: int, lengths: Iterable[np.ndarray]) -> np.ndarray:
    """Writes `offsets.npy` of `count` parts, whose lengths come in arrays of int64, and maps it: there may be more than
    memory holds."""
    with open(folder / "offsets.npy", "wb") as file:
        header = {"descr": "<i8", "fortran_order": False, "shape": (count + 1,)}
        np.lib.format.write_array_header_1_0(file, header)
        total = np.zeros(1, np.int64)
        total.tofile(file)
        for some in lengths:
            ends = some.cumsum() + total
            ends.tofile(file)
            total = ends[-1:] if len(ends) else total
    return np.load(folder / "offsets.npy", mmap_mode="r").view(np.ndarray)


def write_meta(
    folder: Path, source: str, parts: int, dtype: str, skipped: str, offsets: np.ndarray, **more: object
) -> None:
    """Writes `meta.json`, whose content `Store.meta` describes, with what an index has more."""
    meta = {
        "source": source,
        "parts": parts,
        "documents": (len(offsets) - 1) // parts,
        "tokens": int(offsets[-1]),
        "dtype": dtype,
        "skipped": skipped,
        "offsets": checksum(offsets),
        **more,
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")


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


def nothing_usable(source: str, skipped: str) -> InputError:
    """What is raised of a source without a usable document."""
    return InputError(f"data source {source!r} has no usable document: {skipped or 'it is empty'}")
