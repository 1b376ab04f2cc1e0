"""Which examples go together: those with the same beginning share it, those of about the same size share a shape."""

import functools
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from research.objectives import Example

SHORTEST = 4  # places: a common beginning of fewer is not worth a pass of its own
MOST = 8  # examples that share a beginning; more are several groups
GRAIN = 8  # sizes are multiples of it, so that tasks meet the same shapes


class Group(NamedTuple):
    """Examples with the same beginning, or a single one."""

    members: tuple[int, ...]
    shared: int  # places of the decoder that are the same for all, before any that is scored
    first: int  # the first place of each member that is computed for itself


class Shape(NamedTuple):
    """Sizes of a batch. Without a shared beginning, `options` is 1 and `context` is 0."""

    source: int  # places of the source side
    context: int  # places of the shared beginning
    options: int  # examples that share it
    length: int  # places of each example, those of the context excepted
    scored: int  # scored places of each example

    @property
    def computed(self) -> int:
        """Places that go through the model for one group."""
        return self.source + self.context + self.options * self.length

    @property
    def kept(self) -> int:
        """Places that one group holds at the same time."""
        return self.options * (self.source + self.context + self.length)


def groups(examples: Sequence[Example]) -> list[Group]:
    """Every example is in one group."""
    by_beginning: dict[tuple[bytes, bytes], list[int]] = defaultdict(list)
    singles = []
    for number, example in enumerate(examples):
        first, shared = _beginning(example)
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


def shape_of(group: Group, examples: Sequence[Example]) -> Shape:
    """The least shape that holds a group."""
    members = [examples[number] for number in group.members]
    source = 0 if members[0].source is None else len(members[0].source)
    length = max(len(example.tokens) for example in members) - group.first
    return Shape(source, group.shared, len(members), length, max(int((e.weights > 0).sum()) for e in members))


def classes(shapes: Sequence[Shape], most: int, grain: int = GRAIN) -> list[tuple[Shape, list[int]]]:
    """Divides shapes into at most `most` classes, each with a shape that holds all of its members, such that the least
    is computed in all; the largest class first."""
    rounded = [_rounded(shape, grain) for shape in shapes]
    counts: dict[Shape, int] = defaultdict(int)
    for shape in rounded:
        counts[shape] += 1
    distinct = sorted(counts, key=lambda shape: shape.computed, reverse=True)
    step = -(-len(distinct) // 64)  # classes are divided with this much care
    bins = [distinct[start : start + step] for start in range(0, len(distinct), step)]
    hull = functools.cache(lambda a, b: _hull([shape for one in bins[a:b] for shape in one]))
    cuts = _cheapest([sum(map(counts.__getitem__, one)) for one in bins], lambda a, b: hull(a, b).computed, most)
    where = {shape: number for number, (a, b) in enumerate(cuts) for one in bins[a:b] for shape in one}
    members: list[list[int]] = [[] for _ in cuts]
    for index, shape in enumerate(rounded):
        members[where[shape]].append(index)
    return [(_hull([rounded[index] for index in one]), one) for one in members]


def _rounded(shape: Shape, grain: int) -> Shape:
    source, context, options, length, scored = shape
    up = [-(-size // grain) * grain for size in (source, context)]
    # the options of a question are short: rounding those to the grain would double the work
    length = length + length % 2 if context else -(-length // grain) * grain
    return Shape(up[0], up[1], options, length, min(length, 1 << (scored - 1).bit_length()))


def _hull(shapes: Sequence[Shape]) -> Shape:
    return Shape(*(max(sizes) for sizes in zip(*shapes, strict=True)))


def _cheapest(counts: list[int], size: Callable[[int, int], int], most: int) -> list[tuple[int, int]]:
    """Cuts a sequence into at most `most` runs [a, b) with the least sum of count times size."""
    n = len(counts)
    before = np.concatenate([[0], np.cumsum(counts)])
    best: dict[int, tuple[float, list[tuple[int, int]]]] = {0: (0.0, [])}
    for _ in range(most):
        following = dict(best)
        for a, (cost, cuts) in best.items():
            for b in range(a + 1, n + 1):
                new = cost + float(before[b] - before[a]) * size(a, b)
                if b not in following or new < following[b][0]:
                    following[b] = (new, [*cuts, (a, b)])
        best = following
    return best[n][1]
