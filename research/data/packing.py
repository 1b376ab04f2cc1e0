"""Which pieces of which documents stand in which row.

A plan is made once for a range of documents and an objective. Rows take the documents in order, as much of each as
fits, so that every token is predicted in exactly one row of an epoch.
"""

import json
from array import array
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from research.config import storage
from research.data.cache import key, made
from research.data.store import Store
from research.errors import InputError
from research.objectives import Objective

FORMAT = 3  # of a stored plan
SHORTEST = 8  # tokens: a walk does not cut a document into smaller pieces than this, where rows are long enough


class DocumentRange(NamedTuple):
    """The documents `first` to `last - 1` of a store."""

    store: Store
    first: int
    last: int


class RowShape(NamedTuple):
    """The rows to be filled."""

    length: int
    source_length: int
    encoder_decoder: bool


class Piece(NamedTuple):
    """Some tokens of a document; of a pair, its input and its output."""

    document: int
    parts: tuple[np.ndarray, ...]


class Plan(Protocol):
    """What a plan can do. It travels to worker processes without the data."""

    @property
    def documents(self) -> DocumentRange:
        """What it covers."""
        ...

    @property
    def rows(self) -> int:
        """Rows of an epoch."""
        ...

    @property
    def padding(self) -> float:
        """Share of the places that stay empty."""
        ...

    def read(self, row: int) -> list[Piece]:
        """The pieces of a row, in order."""
        ...


@dataclass(frozen=True)
class ChunkedPacking:
    """Documents as one stream of targets that is cut every `length`: no padding except in the last row."""

    documents: DocumentRange
    length: int
    overlap: int  # tokens that neighbouring pieces of a document share

    @cached_property
    def rows(self) -> int:
        return -(-self._before(self.documents.last) // self.length)

    @property
    def padding(self) -> float:
        return 1 - self._before(self.documents.last) / (self.rows * self.length)

    def read(self, row: int) -> list[Piece]:
        store, first, last = self.documents
        begin, end = row * self.length, (row + 1) * self.length
        document = bisect_right(range(last + 1), begin, lo=first, key=self._before) - 1
        spans = []
        while document < last and (before := self._before(document)) < end:
            start = store.bounds[document]
            stop = min(start + end - before + self.overlap, store.bounds[document + 1])
            start += max(begin - before, 0)
            if stop - start > self.overlap:
                spans.append((document, start, stop))
            document += 1
        first, last = spans[0][1], spans[-1][2]
        tokens = store.read(first, last)
        return [Piece(document, (tokens[start - first : stop - first],)) for document, start, stop in spans]

    def _before(self, document: int) -> int:
        """Targets of the documents before this one."""
        store, first, _ = self.documents
        return store.bounds[document] - store.bounds[first] - (document - first) * self.overlap


@dataclass(frozen=True)
class GreedyPacking:
    """Rows filled one after the other, for objectives whose places are not simply the tokens of a piece. The folder has
    `starts.npy`, int64 `[rows + 1, 2]`: the document, and the token in it, with which each row begins."""

    documents: DocumentRange
    shape: RowShape
    objective: Objective
    folder: Path

    @cached_property
    def _starts(self) -> np.ndarray:
        return np.load(self.folder / "starts.npy", mmap_mode="r").view(np.ndarray)

    @cached_property
    def _fill(self) -> "Callable[[int, int], Filled]":
        return _filler(self.documents, self.shape, self.objective)

    @property
    def rows(self) -> int:
        return len(self._starts) - 1

    @property
    def padding(self) -> float:
        return float(json.loads((self.folder / "plan.json").read_text(encoding="utf-8"))["padding"])

    def read(self, row: int) -> list[Piece]:
        store = self.documents.store
        return [
            Piece(document, tuple(store.part(document, part, *span) for part, span in enumerate(spans)))
            for document, spans in self._fill(*self._starts[row].tolist()).pieces
        ]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}


Spans = tuple[tuple[int, int], ...]  # begin and end in each part of a document


class Filled(NamedTuple):
    """A row: documents with their spans, how many places stay empty, and what comes next."""

    pieces: list[tuple[int, Spans]]
    empty: int
    document: int
    offset: int


def plan(documents: DocumentRange, objective: Objective, shape: RowShape) -> Plan:
    """The plan of an objective over documents; one that must be walked is kept beside the store.

    Raises:
      InputError: if documents are pairs and the objective has no pairs, or the other way round, if rows are too
        short for the objective, or if there is nothing to predict.
    """
    source = documents.store.meta["source"]
    if documents.store.parts != objective.parts:
        needed = "pairs (two fields: #INPUT,OUTPUT)" if objective.parts == 2 else "documents (one field)"
        raise InputError(f"objective {objective.name!r} needs a source of {needed}, not {source!r}")
    if objective.chunked and objective.mode is None:
        length = min(shape.length, shape.source_length) if shape.encoder_decoder else shape.length
        made: Plan = ChunkedPacking(documents, length, objective.overlap)
    else:
        made = _walk(documents, objective, shape)
    if made.rows == 0:
        count = documents.last - documents.first
        raise InputError(f"objective {objective.name!r} has nothing to predict in {count} documents of {source!r}")
    return made


def tokens(documents: DocumentRange) -> int:
    """How many tokens the documents have."""
    store, first, last = documents
    return int(store.offsets[last * store.parts]) - int(store.offsets[first * store.parts])


def longest(objective: Objective, shape: RowShape) -> int:
    """The most tokens of a document that an empty row takes."""
    if objective.parts == 2:
        return shape.length
    return len(_costs(objective, shape)[0]) - 1


def truncated(documents: DocumentRange, objective: Objective, shape: RowShape) -> int:
    """How many pairs are too long for a row, and lose a part of their parts."""
    if objective.parts != 2:
        return 0
    store, first, last = documents
    sizes = np.diff(store.offsets[2 * first : 2 * last + 1]).reshape(-1, 2)
    mode = objective.mode is not None
    if shape.encoder_decoder:
        return int(((sizes[:, 0] > shape.source_length - mode) | (sizes[:, 1] > shape.length)).sum())
    return int((sizes.sum(axis=1) > shape.length + 1 - mode).sum())


def fit(inputs: int, outputs: int, shape: RowShape, mode: bool) -> tuple[int, int]:
    """What a row has room for of a pair of these sizes. Where both stand in one row, an output may take half of it, or
    more if its input is short."""
    if shape.encoder_decoder:
        return min(inputs, shape.source_length - mode), min(outputs, shape.length)
    room = shape.length + 1 - mode  # the last output token is never read
    kept = min(outputs, max(room // 2, room - inputs))
    return min(inputs, room - kept), kept


def _walk(documents: DocumentRange, objective: Objective, shape: RowShape) -> GreedyPacking:
    store, first, last = documents
    same = replace(objective, name="", rate=1.0, weight=1.0, source=None)  # what does not change places
    name = key(FORMAT, store.folder.name, first, last, storage.class_name(type(same)), repr(same), shape)
    walk = GreedyPacking(documents, shape, objective, store.folder.parent / f"plan-{name}")
    made(walk.folder, partial(_plan, walk))
    return walk


def _plan(walk: GreedyPacking, folder: Path) -> None:
    """Walks through all documents once, and keeps where rows begin."""
    _, first, last = walk.documents
    starts, empty = array("q", [first, 0]), 0
    while starts[-2] < last:
        filled = walk._fill(starts[-2], starts[-1])
        if not filled.pieces:  # only documents without anything to predict were left
            break
        empty += filled.empty
        starts.extend((filled.document, filled.offset))
    np.save(folder / "starts.npy", np.array(starts).reshape(-1, 2))
    padding = empty / max((len(starts) // 2 - 1) * walk.shape.length, 1)
    (folder / "plan.json").write_text(json.dumps({"padding": padding}) + "\n", encoding="utf-8")


def _filler(documents: DocumentRange, shape: RowShape, objective: Objective) -> Callable[[int, int], Filled]:
    """Fills a row that begins with a token of a document."""
    if objective.parts == 2:
        return partial(_fill_with_pairs, documents, shape, objective)
    targets, sources = _costs(objective, shape)
    fits = [bisect_right(targets, room) - 1 for room in range(shape.length + 1)]
    source_fits = [bisect_right(sources, room) - 1 for room in range(shape.source_length + 1)]
    bounds, last, overlap = documents.store.bounds, documents.last, objective.overlap
    shortest = max(overlap + 1, min(SHORTEST, (len(targets) - 1) // 2))

    def fill(document: int, offset: int) -> Filled:
        room, source_room = shape.length, shape.source_length
        pieces: list[tuple[int, Spans]] = []
        while document < last:
            rest = bounds[document + 1] - bounds[document] - offset
            take = min(fits[room], source_fits[source_room])
            following = (document + 1, 0)
            if take < rest:  # cut, and leave enough for the next row
                take = min(take, rest + overlap - shortest)
                if take < shortest:
                    break
                following = (document, offset + take - overlap)
            take = min(take, rest)
            if take > overlap:
                pieces.append((document, ((offset, offset + take),)))
                room, source_room = room - targets[take], source_room - sources[take]
            document, offset = following
        return Filled(pieces, room, document, offset)

    return fill


def _fill_with_pairs(
    documents: DocumentRange, shape: RowShape, objective: Objective, document: int, offset: int
) -> Filled:
    """As many whole pairs as fit; `offset` is 0. One that is too long for a row loses the ends of its parts; or
    of its input the beginning, where the objective keeps the end."""
    room, source_room, mode = shape.length, shape.source_length, objective.mode is not None
    pieces: list[tuple[int, Spans]] = []
    while document < documents.last:
        first, middle, last = documents.store.bounds[2 * document : 2 * document + 3]
        inputs, outputs = fit(middle - first, last - middle, shape, mode)
        taken, source_taken = objective.places((inputs, outputs), shape.encoder_decoder)
        left, source_left = room - taken, source_room - source_taken
        if min(left, source_left) < 0:
            break
        begin = middle - first - inputs if objective.keeps_input_end else 0
        pieces.append((document, ((begin, begin + inputs), (0, outputs))))
        room, source_room, document = left, source_left, document + 1
    return Filled(pieces, room, document, 0)


def _costs(objective: Objective, shape: RowShape) -> tuple[list[int], list[int]]:
    """Places that a piece of 0, 1, 2, … tokens takes in a row and on its source side, as far as they fit.

    Raises:
      InputError: if not even the shortest useful piece fits.
    """
    targets, sources = [0], [0]
    while True:
        target, source = objective.places((len(targets),), shape.encoder_decoder)
        if target > shape.length or source > shape.source_length:
            break
        targets.append(target)
        sources.append(source)
    if len(targets) - 1 < objective.overlap + 2:
        raise InputError(f"rows of {shape.length} places are too short for objective {objective.name!r}")
    return targets, sources
