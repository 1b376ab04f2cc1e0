"""Which examples are computed together: rows of few shapes in which little is padding and nothing is computed twice."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from research.objectives import Example

GRAIN = 8  # lengths of rows are multiples of it
ROW = 256  # places: longer rows hold little more, and a query computes as many keys
ALIKE = 2048  # places whose keys take a query as long as all that does not depend on the length of its row
CHUNK = 1024  # groups that are packed together


class Group(NamedTuple):
    """Examples with the same beginning, which a row has once: their shared prefix, then what each has of its own. In an
    encoder-decoder: with the same source."""

    members: tuple[int, ...]
    shared: int  # places of the shared prefix


class BatchShape(NamedTuple):
    """Sizes of a row."""

    source: int  # places of the source side
    length: int
    scored: int  # places that are scored

    @property
    def computed(self) -> int:
        return self.source + self.length


class Step(NamedTuple):
    """A batch. A row without groups fills up."""

    shape: BatchShape
    rows: list[list[Group]]


def cost(step: Step) -> int:
    """Places that are computed."""
    return len(step.rows) * step.shape.computed


def plan(examples: Sequence[Example], budget: int, parts: int, branching: bool = True) -> list[Step]:
    """The batches in which all examples are computed.

    Args:
      examples: with sources, or without.
      budget: places that a batch holds.
      parts: into how many a batch is split (over devices).
      branching: whether examples of one row may have a shared prefix.
    """
    lengths = [len(example.tokens) for example in examples]
    sources = [0 if example.source is None else len(example.source) for example in examples]
    classes: dict[int, list[Group]] = defaultdict(list)  # by the power of two that holds the longest member
    for group in groups(examples, branching):
        longest = max(max(lengths[member], sources[member]) for member in group.members)
        classes[max(ROW, 1 << (longest - 1).bit_length())].append(group)
    steps = []
    for size, several in sorted(classes.items(), reverse=True):
        packed = [_packed(several, lengths, sources, length) for length in _lengths(size, several, lengths, sources)]
        (source, length), rows = min(packed, key=_price)
        scored = [
            sum(int((examples[member].weights > 0).sum()) for group in row for member in group.members) for row in rows
        ]
        shape = BatchShape(source, length, _rounded(max(scored)))
        steps += [Step(shape, part) for part in _even(rows, budget // shape.computed, parts)]
    return steps


def groups(examples: Sequence[Example], branching: bool = True) -> list[Group]:
    """Every example is in one group."""
    found: dict[tuple[bytes, ...], list[int]] = defaultdict(list)
    prefixes = [shared_prefix(example) if branching else 0 for example in examples]
    for number, (example, shared) in enumerate(zip(examples, prefixes, strict=True)):
        if example.source is not None:
            found[(example.source.tobytes(),)].append(number)
        elif shared:
            found[example.tokens[:shared].tobytes(), example.levels[:shared].tobytes()].append(number)
        else:
            found[(b"", str(number).encode())].append(number)
    return [Group(tuple(members), prefixes[members[0]]) for members in found.values()]


def shared_prefix(example: Example) -> int:
    """How many places, up to the first scored one, can be computed without what is behind them."""
    if example.source is not None:
        return 0
    through = int(np.argmax(example.weights > 0)) + 1
    seen = np.searchsorted(example.levels, example.levels[through - 1], side="right")
    return through if seen == through else 0


def _lengths(size: int, several: Sequence[Group], lengths: Sequence[int], sources: Sequence[int]) -> set[int]:
    """Lengths that rows may have: of the longest example, of all of them, or such that many short ones fill a row."""
    members = [member for group in several for member in group.members]
    longest = _rounded(max(max(lengths[member], sources[member]) for member in members))
    total = _rounded(sum(lengths[member] + sources[member] for member in members))
    return {longest, max(longest, min(total, size)), size, 2 * size}


def _packed(
    several: Sequence[Group], lengths: Sequence[int], sources: Sequence[int], most: int
) -> tuple[tuple[int, int], list[list[Group]]]:
    """Rows of at most `most` places on each side, first fit decreasing, and the sizes of both sides."""
    cut = [part for group in several for part in _cut(group, lengths, most)]
    sizes = np.array([(sources[g.members[0]], g.shared + _own(g, lengths)) for g in cut])
    longest, total = sizes.max(axis=0), sizes.sum(axis=0)
    # both sides are full at the same time
    room = np.minimum(most, np.maximum(longest, -(-most * total // total.max())))
    source, length = (_rounded(int(side)) for side in room)
    rows: list[list[Group]] = []
    for begin in range(0, len(cut), CHUNK):
        chunk, opened = sizes[begin : begin + CHUNK], len(rows)
        left = np.tile([source, length], (len(chunk), 1))
        for number in np.argsort(-chunk.max(axis=1), kind="stable"):
            row = int(np.argmax((left >= chunk[number]).all(axis=1)))
            left[row] -= chunk[number]
            if opened + row == len(rows):
                rows.append([])
            rows[opened + row].append(cut[begin + number])
    return (source, length), rows


def _cut(group: Group, lengths: Sequence[int], most: int) -> Iterator[Group]:
    """A group as several that fit into a row."""
    members: list[int] = []
    used = group.shared
    for member in group.members:
        own = lengths[member] - group.shared
        if members and used + own > most:
            yield Group(tuple(members), group.shared)
            members, used = [], group.shared
        members.append(member)
        used += own
    yield Group(tuple(members), group.shared)


def _own(group: Group, lengths: Sequence[int]) -> int:
    return sum(lengths[member] - group.shared for member in group.members)


def _price(packed: tuple[tuple[int, int], list[list[Group]]]) -> float:
    (source, length), rows = packed
    return len(rows) * (source + length) * (1 + (source + length) / ALIKE)


def _rounded(size: int) -> int:
    return -(-size // GRAIN) * GRAIN


def _even(rows: Sequence[list[Group]], most: int, parts: int) -> Iterator[list[list[Group]]]:
    """Batches of the same number of rows, as even as possible."""
    most = max(1, most // parts) * parts
    count = -(-len(rows) // most)
    size = -(-len(rows) // count // parts) * parts
    for start in range(0, len(rows), size):
        some = list(rows[start : start + size])
        yield some + [[] for _ in range(size - len(some))]
