"""The token store: a source, tokenised once, as memory-mapped files.

A store is a folder of `tokens.bin` (all documents one after the other, in the smallest unsigned dtype that holds the
vocabulary), `offsets.npy` (int64 `[documents * parts + 1]`: part p of document d begins at `offsets[d * parts + p]`),
`checksums.npy` (uint64: xxHash3 of each VERIFIED bytes of `tokens.bin`) and `meta.json`. What is read is verified when
it is read for the first time, so a changed byte is never trained on. The tokens of an index (`shards.py`) are in the
files that its `meta.json` lists as `pieces`, instead.
"""

import json
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import xxhash
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from research.data import cache, chat
from research.data.chat import PromptCompletion
from research.data.records import DataSource, Record, SkippedRecord
from research.data.token_files import VERIFIED, TokenFile, blocks, checksum, open_tokens
from research.data.tokenizers import Tokenizer
from research.errors import InputError

FORMAT = 4  # of a token store
CHUNK = 1 << 21  # characters that are tokenised together
BLOCK = 1 << 24  # integers that are copied together
PLACES = 5  # that are kept of each kind of bad record


@dataclass(frozen=True)
class Store:
    """Documents as tokens. Every property raises InputError where the store is damaged."""

    folder: Path

    @cached_property
    def meta(self) -> dict[str, Any]:
        """source, parts, documents, tokens, dtype, skipped, the checksum of the offsets; of an index its pieces, and
        the folder or address that they are below."""
        try:
            meta: dict[str, Any] = json.loads((self.folder / "meta.json").read_text(encoding="utf-8"))
            sizes = [meta["parts"], meta["documents"], meta["tokens"], meta["offsets"]]
            right = all(isinstance(size, int) and size >= 0 for size in sizes) and meta["parts"] in (1, 2)
            right &= meta["dtype"] in ("uint8", "uint16", "uint32")
            right &= isinstance(meta["source"], str) and isinstance(meta["skipped"], str)
            if "pieces" in meta:
                pieces = [(path, count) for path, count in meta["pieces"] if count >= 0 and isinstance(path, str)]
                right &= isinstance(meta.get("base", ""), str)
                right &= len(pieces) == len(meta["pieces"]) and sum(n for _, n in pieces) == meta["tokens"]
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise self._damaged(f"meta.json: {error}") from error
        if not right:
            raise self._damaged("meta.json has values that none is written with")
        return meta

    @cached_property
    def tokens(self) -> np.ndarray:
        """Every token of a store that is no index, `[tokens]`, as it is stored, without verification: see `read`."""
        path, size = self.folder / "tokens.bin", self.meta["tokens"] * np.dtype(self.meta["dtype"]).itemsize
        try:
            if path.stat().st_size != size:
                raise self._damaged(f"tokens.bin has {path.stat().st_size:,} bytes instead of {size:,}")
            return np.memmap(path, self.meta["dtype"], "r").view(np.ndarray) if size else np.zeros(0, np.uint8)
        except OSError as error:
            raise self._damaged(str(error)) from error

    @cached_property
    def _pieces(self) -> list[tuple[str, int]]:
        """The files of tokens in their order, with the number of tokens of each."""
        if "pieces" not in self.meta:
            return [(str(self.folder / "tokens.bin"), self.meta["tokens"])]
        base = self.meta.get("base") or str(self.folder.parent)
        return [(f"{base}/{path}", count) for path, count in self.meta["pieces"]]

    @cached_property
    def _starts(self) -> list[int]:
        """The first token of each file among all, and the end."""
        return [0, *accumulate(count for _, count in self._pieces)]

    @cached_property
    def _files(self) -> dict[int, TokenFile]:
        """Those that were opened."""
        return {}

    def _file(self, number: int) -> TokenFile:
        if number not in self._files:
            (path, count), dtype = self._pieces[number], self.meta["dtype"]
            size = np.dtype(dtype).itemsize
            first = sum(blocks(each, size) for _, each in self._pieces[:number])
            checksums = self.checksums[first : first + blocks(count, size)]
            self._files[number] = open_tokens(path, dtype, count, checksums, self._damaged)
        return self._files[number]

    @cached_property
    def offsets(self) -> np.ndarray:
        """Where each part of each document begins, and the end."""
        try:
            offsets = np.load(self.folder / "offsets.npy", mmap_mode="r").view(np.ndarray)
        except Exception as error:  # the header of an .npy is a Python literal, and its parser raises what it meets
            raise self._damaged(f"offsets.npy: {error}") from error
        shape = (self.documents * self.parts + 1,)
        if offsets.shape != shape or offsets.dtype != np.int64 or checksum(offsets) != self.meta["offsets"]:
            raise self._damaged("offsets.npy is not as it was written")
        return offsets

    @cached_property
    def checksums(self) -> np.ndarray:
        """uint64: of each block of VERIFIED bytes of each file of tokens."""
        if "pieces" not in self.meta:
            _ = self.tokens  # so that a file that is cut short is found before anything is read
        try:
            checksums = np.load(self.folder / "checksums.npy")
        except Exception as error:
            raise self._damaged(f"checksums.npy: {error}") from error
        size = np.dtype(self.meta["dtype"]).itemsize
        if checksums.shape != (sum(blocks(n, size) for _, n in self._pieces),) or checksums.dtype != np.uint64:
            raise self._damaged("checksums.npy is not as it was written")
        return checksums

    def read(self, first: int, last: int) -> np.ndarray:
        """int32: the tokens `first` to `last - 1` of all, verified."""
        number = min(bisect_right(self._starts, first), len(self._pieces)) - 1
        if last <= self._starts[number + 1]:
            return self._file(number).read(first - self._starts[number], last - self._starts[number])
        parts = []
        while first < last:
            end = min(last, self._starts[number + 1])
            parts.append(self._file(number).read(first - self._starts[number], end - self._starts[number]))
            first, number = end, number + 1
        return np.concatenate(parts)

    @cached_property
    def digest(self) -> str:
        """Of the content, wherever and whenever it was made."""
        facts = json.dumps([self.meta[name] for name in ("parts", "documents", "tokens", "dtype", "offsets")])
        return f"{xxhash.xxh3_64_intdigest(facts.encode() + self.checksums.tobytes()):016x}"

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
    name = "store-" + cache.key(FORMAT, source.fingerprint, tokenizer.digest, prefix, cut)
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
