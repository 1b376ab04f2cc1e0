"""Which pieces of which documents stand in which row.

A plan is made once for a range of documents and an objective. Rows take the documents in order, as much of each as
fits, so that every token is predicted in exactly one row of an epoch.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from research import config, objectives
from research.data.cache import building, key
from research.data.store import Store
from research.errors import InputError

SHORTEST = 8  # tokens: a walk does not cut a document into smaller pieces than this, where rows are long enough


class Range(NamedTuple):
    """The documents `first` to `last - 1` of a store."""

    store: Store
    first: int
    last: int


class Shape(NamedTuple):
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
    def documents(self) -> Range:
        """What it covers."""
        ...

    @property
    def rows(self) -> int:
        """Rows of an epoch."""
        ...

    def read(self, row: int) -> list[Piece]:
        """The pieces of a row, in order."""
        ...


@dataclass(frozen=True)
class Stream:
    """Documents as one stream of targets that is cut every `length`: no padding except in the last row."""

    documents: Range
    length: int
    overlap: int  # tokens that neighbouring pieces of a document share

    @cached_property
    def rows(self) -> int:
        return -(-self._before(self.documents.last) // self.length)

    def read(self, row: int) -> list[Piece]:
        store, first, last = self.documents
        begin, end = row * self.length, (row + 1) * self.length
        document = bisect_right(range(last + 1), begin, lo=first, key=self._before) - 1
        pieces = []
        while document < last and (before := self._before(document)) < end:
            tokens = store.part(document, 0, max(begin - before, 0), end - before + self.overlap)
            if len(tokens) > self.overlap:
                pieces.append(Piece(document, (tokens,)))
            document += 1
        return pieces

    def _before(self, document: int) -> int:
        """Targets of the documents before this one."""
        store, first, _ = self.documents
        return int(store.offsets[document]) - int(store.offsets[first]) - (document - first) * self.overlap


@dataclass(frozen=True)
class Walk:
    """Rows filled one after the other, for objectives whose places are not simply the tokens of a piece."""

    documents: Range
    shape: Shape
    objective: config.Objective
    file: Path  # int64 [rows + 1, 2]: the document, and the token in it, with which each row begins

    @cached_property
    def _starts(self) -> np.ndarray:
        array: np.ndarray = np.load(self.file, mmap_mode="r")
        return array

    @cached_property
    def _row(self) -> "Callable[[int, int], tuple[list[Piece], int, int]]":
        pairs = isinstance(self.objective, config.TextToText)
        return _pairs_walker(self) if pairs else _pieces_walker(self)

    @property
    def rows(self) -> int:
        return len(self._starts) - 1

    def read(self, row: int) -> list[Piece]:
        document, offset = self._starts[row].tolist()
        cuts, _, _ = self._row(document, offset)
        store = self.documents.store
        return [
            Piece(number, tuple(store.part(number, part, *span) for part, span in enumerate(spans)))
            for number, spans in cuts
        ]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}


Spans = tuple[tuple[int, int], ...]  # begin and end in each part of a document
Row = Callable[[int, int], tuple[list[tuple[int, Spans]], int, int]]


def plan(documents: Range, objective: config.Objective, shape: Shape) -> Plan:
    """The plan of an objective over documents; one that must be walked is kept beside the store.

    Raises:
      InputError: if documents are pairs and the objective is not text-to-text, or the other way round, or if rows are
        too short for the objective.
    """
    pairs = isinstance(objective, config.TextToText)
    if (documents.store.parts == 2) != pairs:
        needed = "pairs (two fields: #INPUT,OUTPUT)" if pairs else "documents (one field)"
        raise InputError(
            f"objective {objective.name!r} needs a source of {needed}, not {documents.store.meta['source']!r}"
        )
    if isinstance(objective, config.Causal | config.Masked | config.Prefix) and objective.mode is None:
        length = min(shape.length, shape.source_length) if shape.encoder_decoder else shape.length
        return Stream(documents, length, objectives.overlap(objective))
    _, first, last = documents
    name = key(documents.store.folder.name, first, last, repr(objective), shape)
    folder = documents.store.folder.parent / f"plan-{name}"
    walk = Walk(documents, shape, objective, folder / "starts.npy")
    if not folder.exists():
        with building(folder) as unfinished:
            np.save(unfinished / "starts.npy", np.array(list(_starts(walk)), np.int64))
    return walk


def tokens(documents: Range) -> int:
    """How many tokens the documents have."""
    store, first, last = documents
    return int(store.offsets[last * store.parts]) - int(store.offsets[first * store.parts])


def longest(objective: config.Objective, shape: Shape) -> int:
    """The most tokens of a document that an empty row takes."""
    return len(_costs(objective, shape)[0]) - 1


def truncated(documents: Range, shape: Shape, mode: bool) -> int:
    """How many pairs are too long for a row, and lose the ends of their parts."""
    store, first, last = documents
    sizes = np.diff(store.offsets[2 * first : 2 * last + 1]).reshape(-1, 2)
    return int((fit(sizes, shape, mode) < sizes).any(axis=1).sum())


def fit(sizes: np.ndarray, shape: Shape, mode: bool) -> np.ndarray:
    """`[pairs, 2]`: what a row has room for of inputs and outputs of these sizes. Where both stand in one row, an
    output may take half of it, or more if its input is short."""
    inputs, outputs = sizes[:, 0], sizes[:, 1]
    if shape.encoder_decoder:
        return np.stack([np.minimum(inputs, shape.source_length - mode), np.minimum(outputs, shape.length)], axis=1)
    room = shape.length + 1 - mode  # the last output token is never read
    kept = np.minimum(outputs, np.maximum(room // 2, room - inputs))
    return np.stack([np.minimum(inputs, room - kept), kept], axis=1)


def _starts(walk: Walk) -> Iterator[tuple[int, int]]:
    position = (walk.documents.first, 0)
    while position[0] < walk.documents.last:
        yield position
        _, *position = walk._row(*position)
    yield position


def _pieces_walker(walk: Walk) -> Row:
    """Rows of single documents, cut where a row is full."""
    store, _, last = walk.documents
    offsets, overlap = store.offsets, objectives.overlap(walk.objective)
    targets, sources = _costs(walk.objective, walk.shape)
    fits = [bisect_right(targets, room) - 1 for room in range(walk.shape.length + 1)]
    source_fits = [bisect_right(sources, room) - 1 for room in range(walk.shape.source_length + 1)]
    shortest = max(overlap + 1, min(SHORTEST, (len(targets) - 1) // 2))

    def row(document: int, offset: int) -> tuple[list[tuple[int, Spans]], int, int]:
        room, source_room = walk.shape.length, walk.shape.source_length
        pieces: list[tuple[int, Spans]] = []
        while document < last:
            rest = int(offsets[document + 1]) - int(offsets[document]) - offset
            take = min(fits[room], source_fits[source_room])
            if take >= rest:
                take, following = rest, (document + 1, 0)
            else:  # cut, and leave enough for the next row
                take = min(take, rest + overlap - shortest)
                if take < shortest:
                    break
                following = (document, offset + take - overlap)
            if take > overlap:
                pieces.append((document, ((offset, offset + take),)))
                room, source_room = room - targets[take], source_room - sources[take]
            document, offset = following
        return pieces, document, offset

    return row


def _pairs_walker(walk: Walk) -> Row:
    """Rows of whole pairs."""
    store, _, last = walk.documents
    mode = walk.objective.mode is not None
    shape = walk.shape

    def row(document: int, offset: int) -> tuple[list[tuple[int, Spans]], int, int]:
        room, source_room = shape.length, shape.source_length
        pieces: list[tuple[int, Spans]] = []
        while document < last:
            sizes = np.diff(store.offsets[2 * document : 2 * document + 3])[None]
            inputs, outputs = fit(sizes, shape, mode)[0].tolist()
            if shape.encoder_decoder:
                room, source_room = room - outputs, source_room - inputs - mode
            else:
                room -= inputs + outputs - 1 + mode
            if min(room, source_room) < 0:
                break
            pieces.append((document, ((0, inputs), (0, outputs))))
            document += 1
        return pieces, document, 0

    return row


def _costs(objective: config.Objective, shape: Shape) -> tuple[list[int], list[int]]:
    """Places of a piece of 0, 1, 2, … tokens in a row and on its source side, as far as they fit.

    Raises:
      InputError: if not even the shortest useful piece fits.
    """
    targets, sources = [0], [0]
    while True:
        target, source = objectives.places(objective, len(targets), shape.encoder_decoder)
        if target > shape.length or source > shape.source_length:
            break
        targets.append(target)
        sources.append(source)
    if len(targets) - 1 < objectives.overlap(objective) + 2:
        raise InputError(f"rows of {shape.length} places are too short for objective {objective.name!r}")
    return targets, sources
