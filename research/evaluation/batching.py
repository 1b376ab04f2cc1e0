"""Which examples go together: those with the same beginning share it, those of about the same size share a shape."""

import functools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from research.objectives import Example

SHORTEST = 4  # places: a common beginning of fewer is not worth a pass of its own
MOST = 64  # examples that share a beginning; more are several groups
GRAIN = 8  # sizes of whole rows and of beginnings are multiples of it, so that tasks meet the same shapes
REST_GRAIN = 2  # what follows a beginning is short: rounding it to GRAIN would double the work
SHAPES = 4  # of single examples, of beginnings, and of what follows the beginnings of one size
PASS = 128  # places whose computation takes as long as reading the parameters once more

T = TypeVar("T")


class Group(NamedTuple):
    """Examples with the same beginning, or a single one."""

    members: tuple[int, ...]
    shared: int  # places of the decoder that are the same for all, before any that is scored
    first: int  # the first place of each member that is computed for itself


class Shape(NamedTuple):
    """Sizes of a row."""

    source: int  # places of the source side
    length: int  # places that are computed
    scored: int  # places that are scored

    @property
    def computed(self) -> int:
        return self.source + self.length


class Singles(NamedTuple):
    """Rows that are computed as a whole; None fills up."""

    shape: Shape
    rows: list[int | None]


class Beginnings(NamedTuple):
    """A beginning a row; the parts of a batch, one for each device, one after the other."""

    size: int
    rows: list[Group | None]


class Rest(NamedTuple):
    """A row that continues a beginning."""

    example: int
    owner: int  # row of its beginning, within its part of the batch
    first: int  # place from which on it is computed


class Rests(NamedTuple):
    """Rows that continue the last `Beginnings`, whose size is given once more."""

    size: int
    shape: Shape
    rows: list[Rest | None]


Step = Singles | Beginnings | Rests


def cost(step: Step) -> int:
    """Places that are computed."""
    return len(step.rows) * (step.size if isinstance(step, Beginnings) else step.shape.computed)


def plan(examples: Sequence[Example], budget: int, parts: int) -> list[Step]:
    """The batches in which all examples are computed, of few shapes.

    Args:
      examples: with sources, or without.
      budget: places that a batch holds.
      parts: into how many a batch is split (over devices); what continues a beginning is in the same part.
    """
    found = groups(examples)
    singles = [group.members[0] for group in found if len(group.members) == 1]
    price = budget // 8  # places that a shape more must save, since it is compiled
    shapes = [_whole(examples[number]) for number in singles]
    steps: list[Step] = []
    for shape, members in classes(shapes, SHAPES, GRAIN, price):
        rows = [singles[member] for member in members]
        steps += [Singles(shape, part) for part in _even(rows, budget // shape.computed, parts)]
    several = [group for group in found if len(group.members) > 1]
    sizes = [Shape(0, _beginning_size(group, examples), 0) for group in several]
    for shape, members in classes(sizes, SHAPES, GRAIN, price):
        steps += _with_beginnings(shape.length, [several[member] for member in members], examples, budget, parts)
    return steps


def _with_beginnings(
    size: int, several: Sequence[Group], examples: Sequence[Example], budget: int, parts: int
) -> list[Step]:
    """The groups whose beginnings share a size, and all that follows them."""
    batches = list(_even(several, budget // size, parts))
    rows = [list(_rests(batch, parts)) for batch in batches]
    flat = [(number, part, rest) for number, batch in enumerate(rows) for part, rest in batch]
    steps: list[list[Step]] = [[Beginnings(size, batch)] for batch in batches]
    shapes = [_rest_shape(examples[rest.example], rest.first) for *_, rest in flat]
    for shape, members in classes(shapes, SHAPES, REST_GRAIN, budget // 8):
        queues: list[list[list[Rest]]] = [[[] for _ in range(parts)] for _ in batches]
        for number, part, rest in map(flat.__getitem__, members):
            queues[number][part].append(rest)
        most = max(1, budget // (size + shape.computed) // parts)
        rows_each = _rows_each([max(map(len, queue)) for queue in queues], shape.computed * parts, most)
        for step, queue in zip(steps, queues, strict=True):
            for start in range(0, max(map(len, queue)), rows_each):
                step.append(Rests(size, shape, [rest for part in queue for rest in _filled(part, start, rows_each)]))
    return [one for step in steps for one in step]


def _rests(batch: Sequence[Group | None], parts: int) -> Iterator[tuple[int, Rest]]:
    """What follows the beginnings of a batch, with the part in which it is."""
    each = len(batch) // parts
    for number, group in enumerate(batch):
        for member in group.members if group is not None else ():
            yield number // each, Rest(member, number % each, group.first if group is not None else 0)


def _rows_each(counts: Sequence[int], computed: int, most: int) -> int:
    """The number of rows, the same in every batch, with which so many are computed soonest."""

    def price(rows: int) -> int:
        return sum(-(-count // rows) for count in counts) * (rows * computed + PASS)

    return min(range(1, min(most, max(counts)) + 1), key=price)


def _filled(rows: Sequence[T], start: int, count: int) -> list[T | None]:
    some: list[T | None] = list(rows[start : start + count])
    return some + [None] * (count - len(some))


def _even(rows: Sequence[T], most: int, parts: int) -> Iterator[list[T | None]]:
    """Batches of the same number of rows, as even as possible."""
    most = max(1, most // parts) * parts
    count = -(-len(rows) // most)
    size = -(-len(rows) // count // parts) * parts
    for start in range(0, len(rows), size):
        yield _filled(rows, start, size)


def groups(examples: Sequence[Example]) -> list[Group]:
    """Every example is in one group."""
    by_beginning: dict[tuple[bytes, bytes], list[int]] = defaultdict(list)
    singles = []
    for number, example in enumerate(examples):
        _, shared = _beginning(example)
        if example.source is not None:
            by_beginning[example.source.tobytes(), b""].append(number)
        elif shared >= SHORTEST:
            by_beginning[example.tokens[:shared].tobytes(), example.levels[:shared].tobytes()].append(number)
        else:
            singles.append(number)
    out = [Group((number,), 0, 0) for number in singles]
    for members in by_beginning.values():
        first, shared = (0, 0) if examples[members[0]].source is not None else _beginning(examples[members[0]])
        for start in range(0, len(members), MOST):
            part = tuple(members[start : start + MOST])
            out.append(Group(part, shared, first) if len(part) > 1 else Group(part, 0, 0))
    return out


def _beginning(example: Example) -> tuple[int, int]:
    """The first scored place, and how many places from the start see nothing after them: the beginning that can be
    computed alone. It includes the first scored place where those before see it, as in a prefix."""
    first = int(np.argmax(example.weights > 0))
    sees = ends(example.levels)
    shared = first
    while shared < len(sees) and sees[:shared].max(initial=0) > shared:
        shared = int(sees[:shared].max())
    return (first, shared) if shared <= first + 1 else (0, 0)


def ends(levels: np.ndarray) -> np.ndarray:
    """For each place, the end of the interval of places that it sees (its start is 0)."""
    return np.searchsorted(levels, levels, side="right").astype(np.int32)


def _beginning_size(group: Group, examples: Sequence[Example]) -> int:
    source = examples[group.members[0]].source
    return group.shared if source is None else len(source)


def _whole(example: Example) -> Shape:
    return Shape(0 if example.source is None else len(example.source), *_rest_shape(example, 0)[1:])


def _rest_shape(example: Example, first: int) -> Shape:
    return Shape(0, len(example.tokens) - first, int((example.weights > 0).sum()))


def classes(shapes: Sequence[Shape], most: int, grain: int, price: int = 0) -> list[tuple[Shape, list[int]]]:
    """Divides shapes into at most `most` classes, each with a shape that holds all of its members, such that the least
    is computed in all; a class more must save at least `price` places. The largest class first."""
    if not shapes:
        return []
    rounded = [_rounded(shape, grain) for shape in shapes]
    counts: dict[Shape, int] = defaultdict(int)
    for shape in rounded:
        counts[shape] += 1
    distinct = sorted(counts, key=lambda shape: shape.computed, reverse=True)
    step = -(-len(distinct) // 64)  # classes are divided with this much care
    bins = [distinct[start : start + step] for start in range(0, len(distinct), step)]
    hull = functools.cache(lambda a, b: _hull([shape for one in bins[a:b] for shape in one]))
    found = _cheapest([sum(map(counts.__getitem__, one)) for one in bins], lambda a, b: hull(a, b).computed, most)
    _, cuts = min(enumerate(found), key=lambda pair: pair[1][0] + price * pair[0])[1]
    where = {shape: number for number, (a, b) in enumerate(cuts) for one in bins[a:b] for shape in one}
    members: list[list[int]] = [[] for _ in cuts]
    for index, shape in enumerate(rounded):
        members[where[shape]].append(index)
    return [(_hull([rounded[index] for index in one]), one) for one in members]


def _rounded(shape: Shape, grain: int) -> Shape:
    source, length = (-(-size // grain) * grain for size in shape[:2])
    return Shape(source, length, min(length, 1 << (shape.scored - 1).bit_length()) if shape.scored else 0)


def _hull(shapes: Sequence[Shape]) -> Shape:
    return Shape(*(max(sizes) for sizes in zip(*shapes, strict=True)))


def _cheapest(
    counts: list[int], size: Callable[[int, int], int], most: int
) -> list[tuple[float, list[tuple[int, int]]]]:
    """Cuts a sequence into at most 1, 2, … `most` runs [a, b) with the least sum of count times size; and that sum."""
    n = len(counts)
    before = np.concatenate([[0], np.cumsum(counts)])
    best: dict[int, tuple[float, list[tuple[int, int]]]] = {0: (0.0, [])}
    out = []
    for _ in range(most):
        following = dict(best)
        for a, (price, cuts) in best.items():
            for b in range(a + 1, n + 1):
                new = price + float(before[b] - before[a]) * size(a, b)
                if b not in following or new < following[b][0]:
                    following[b] = (new, [*cuts, (a, b)])
        best = following
        out.append(best[n])
    return out
