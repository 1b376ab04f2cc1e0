"""The token store: a source, tokenised once, as memory-mapped files.

A store is a folder of `tokens.bin` (all documents one after the other, in the smallest unsigned dtype that holds the
vocabulary), `offsets.npy` (int64 `[documents * parts + 1]`: part p of document d begins at `offsets[d * parts + p]`)
and `meta.json`.
"""

import json
import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from research.data.cache import building, key
from research.data.sources import Bad, Record, Source
from research.data.tokenizers import Tokenizer
from research.errors import InputError

log = logging.getLogger(__name__)

CHUNK = 1 << 21  # characters that are tokenised together
BLOCK = 1 << 24  # integers that are copied together
PLACES = 5  # that are kept of each kind of bad record


@dataclass(frozen=True)
class Store:
    """Documents as tokens."""

    folder: Path

    @cached_property
    def meta(self) -> dict[str, Any]:
        """source, parts, documents, tokens, dtype, skipped {kind: [count, first places]}."""
        meta: dict[str, Any] = json.loads((self.folder / "meta.json").read_text())
        return meta

    @cached_property
    def tokens(self) -> np.ndarray:
        """Every token, `[tokens]`."""
        return np.memmap(self.folder / "tokens.bin", self.meta["dtype"], "r").view(np.ndarray)

    @cached_property
    def offsets(self) -> np.ndarray:
        """Where each part of each document begins, and the end."""
        return np.load(self.folder / "offsets.npy", mmap_mode="r").view(np.ndarray)

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
        first, last = self.offsets[document * self.parts + part : document * self.parts + part + 2].tolist()
        stop = last if end is None else min(first + end, last)
        return self.tokens[first + begin : stop].astype(np.int32)

    @property
    def skipped(self) -> str:
        """What could not be used, in words; empty if there was nothing."""
        return _in_words(self.meta["skipped"])

    def __reduce__(self) -> Any:  # mapped files must not travel to worker processes
        return Store, (self.folder,)


def prepare(source: Source, tokenizer: Tokenizer, cache: Path, prefix: str = "", cut: float | None = None) -> Store:
    """The store of a source: found below `cache`, or made there.

    Args:
      prefix: text before every document (of a pair: before its input).
      cut: a source of one document becomes two, of which the second has this share of the text.

    Raises:
      InputError: if the source has no usable document, or ids outside the vocabulary.
    """
    folder = cache / ("store-" + key(source.fingerprint, tokenizer.digest, prefix, cut))
    if not folder.exists():
        with building(folder) as unfinished:
            _write(unfinished, source, tokenizer, prefix, cut)
    store = Store(folder)
    if store.skipped:
        log.warning("%s: skipped %s", source.name, store.skipped)
    return store


def training_texts(source: Source, held_out: float | None, limit: int = 100_000_000) -> Iterator[str]:
    """The texts that a tokenizer may be trained on: those of the first `limit` characters, without the last fraction
    `held_out` of their documents. Raises InputError if the source has no text."""
    skipped: dict[str, Any] = {}
    documents: list[tuple[str, ...]] = []
    size = 0
    for record in _cut_single(_usable(chain.from_iterable(f.records() for f in source.files), skipped), held_out):
        if isinstance(record.fields, np.ndarray):
            raise InputError(
                f"a tokenizer cannot be made from {source.name!r}, which holds integers: use integers:SIZE"
            )
        documents.append(record.fields)
        size += sum(map(len, record.fields))
        if size > limit:
            break
    if not documents:
        raise _nothing(source, skipped)
    return chain.from_iterable(documents[: len(documents) - held_out_count(len(documents), held_out)])


def held_out_count(documents: int, fraction: float | None) -> int:
    """How many of the last documents are held out."""
    return 0 if fraction is None else min(max(round(documents * fraction), 1), documents - 1)


def _write(folder: Path, source: Source, tokenizer: Tokenizer, prefix: str, cut: float | None) -> None:
    dtype = next(d for d in (np.uint8, np.uint16, np.uint32) if tokenizer.size - 1 <= np.iinfo(d).max)
    skipped: dict[str, Any] = {}
    lengths: list[np.ndarray] = []
    progress = Progress(
        TextColumn(f"tokenising {source.name}"),
        BarColumn(),
        TextColumn("{task.fields[tokens]:,} tokens"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with progress, open(folder / "tokens.bin", "wb") as file, ThreadPoolExecutor(1) as reader:
        total = sum(one.size for one in source.files)
        task = progress.add_task("", total=total or None, tokens=0)

        def all_records() -> Iterator[Record | Bad]:
            for one in source.files:
                yield from one.records()
                progress.advance(task, one.size)

        chunks = _chunks(_cut_single(_usable(all_records(), skipped), cut))
        chunk = next(chunks, None)
        while chunk:
            following = reader.submit(next, chunks, None)  # read the next while the tokenizer's threads work on this
            written = [_append(file, part, dtype) for part in _encoded(chunk, tokenizer, prefix)]
            lengths.append(np.array(written, np.int64))
            progress.update(task, tokens=progress.tasks[0].fields["tokens"] + sum(written))
            chunk = following.result()
    if not lengths:
        raise _nothing(source, skipped)
    offsets = np.concatenate([[0], *lengths]).cumsum()
    np.save(folder / "offsets.npy", offsets)
    meta = {
        "source": source.name,
        "parts": source.parts,
        "documents": (len(offsets) - 1) // source.parts,
        "tokens": int(offsets[-1]),
        "dtype": np.dtype(dtype).name,
        "skipped": skipped,
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")


def _usable(records: Iterable[Record | Bad], skipped: dict[str, Any]) -> Iterator[Record]:
    """The good ones; the others are entered into `skipped`."""
    for record in records:
        if isinstance(record, Record):
            yield record
        else:
            entry = skipped.setdefault(record.kind, [0, []])
            entry[0] += 1
            entry[1] += [record.place] * (len(entry[1]) < PLACES)


def _cut_single(records: Iterator[Record], cut: float | None) -> Iterator[Record]:
    """A single record becomes two, of which the second has the last fraction `cut`."""
    first = list(islice(records, 2))
    if cut is None or len(first) != 1 or len(first[0].fields) == 2:
        yield from chain(first, records)
        return
    place, fields = first[0]
    whole = fields if isinstance(fields, np.ndarray) else fields[0]
    middle = int(len(whole) * (1 - cut))
    for part in (whole[:middle], whole[middle:]):
        yield Record(place, part if isinstance(part, np.ndarray) else (part,))


def _chunks(records: Iterator[Record]) -> Iterator[list[Record]]:
    """Records in lists of about CHUNK characters."""
    chunk, size = [], 0
    for record in records:
        chunk.append(record)
        size += sum(map(len, record.fields)) if isinstance(record.fields, tuple) else len(record.fields)
        if size >= CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _encoded(records: list[Record], tokenizer: Tokenizer, prefix: str) -> Iterator[list[np.ndarray]]:
    """The parts of the records, one after the other, each as arrays to be joined: the first part of a document begins
    with the tokenizer's bos and every part ends with its eos, where it has them."""
    texts = [
        prefix * (n == 0) + text for r in records if isinstance(r.fields, tuple) for n, text in enumerate(r.fields)
    ]
    arrays = iter(tokenizer.encode_many(texts))
    begin, end = ([] if i is None else [np.array([i])] for i in (tokenizer.bos, tokenizer.eos))
    for place, fields in records:
        if isinstance(fields, np.ndarray):
            _check_ids(place, fields, tokenizer.size)
            yield [*begin, fields, *end]
        else:
            for number in range(len(fields)):
                yield [*begin * (number == 0), next(arrays), *end]


def _check_ids(place: str, ids: np.ndarray, size: int) -> None:
    for start in range(0, len(ids), BLOCK):
        block = ids[start : start + BLOCK]
        wrong = np.flatnonzero((block < 0) | (block >= size))
        if len(wrong):
            value, index = block[wrong[0]], start + wrong[0]
            raise InputError(f"{place}: the integer {value} at index {index} is outside the vocabulary of {size} ids")


def _append(file: BinaryIO, arrays: list[np.ndarray], dtype: type) -> int:
    """Writes arrays one after the other and returns their length."""
    for array in arrays:
        for start in range(0, len(array), BLOCK):
            array[start : start + BLOCK].astype(dtype).tofile(file)
    return sum(map(len, arrays))


def _in_words(skipped: dict[str, Any]) -> str:
    return "; ".join(
        f"{count:,} × {kind} ({', '.join(places)}{', …' if count > len(places) else ''})"
        for kind, (count, places) in skipped.items()
    )


def _nothing(source: Source, skipped: dict[str, Any]) -> InputError:
    return InputError(f"data source {source.name!r} has no usable document: {_in_words(skipped) or 'it is empty'}")
