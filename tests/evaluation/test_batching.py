"""Every example is computed once, in a row that holds it, beside what it continues."""

from collections import Counter

import numpy as np
import pytest

from research.evaluation import batching
from research.evaluation.batching import Beginnings, Rests, Shape, Singles
from research.objectives import Example, join

RANDOM = np.random.default_rng(0)


def continued(context: int, text: int, start: int | None = None) -> Example:
    """A context that its length decides, and a random text after it; with `start`, the context is a source."""
    shown = join(np.arange(context, dtype=np.int32), RANDOM.integers(0, 99, text).astype(np.int32), start)
    if start is not None:
        return shown
    weights = np.zeros(len(shown.tokens), np.float32)
    weights[-text:] = 1
    return shown._replace(weights=weights, levels=np.arange(len(shown.tokens), dtype=np.int32))


def examples(start: int | None = None, questions: int = 40) -> list[Example]:
    contexts = RANDOM.integers(6, 60, questions)
    return [continued(int(c), int(RANDOM.integers(1, 9)), start) for c in contexts for _ in range(3)]


@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("start", [None, 7])
def test_a_plan_computes_every_example_once_where_it_fits(parts, start):
    given = examples(start)
    done: list[int] = []
    begun: Beginnings | None = None
    for step in batching.plan(given, 1024, parts):
        assert len(step.rows) % parts == 0
        if isinstance(step, Beginnings):
            begun = step
        elif isinstance(step, Singles):
            done += [number for number in step.rows if number is not None]
            assert all(len(given[n].tokens) <= step.shape.length for n in step.rows if n is not None)
        else:
            assert isinstance(step, Rests) and begun is not None and step.size == begun.size
            own, each = len(begun.rows) // parts, len(step.rows) // parts
            for place, rest in enumerate(step.rows):
                if rest is None:
                    continue
                group = begun.rows[place // each * own + rest.owner]  # in the same part of the batch
                one = given[rest.example]
                assert group is not None and rest.example in group.members and rest.first == group.first
                assert len(one.tokens) - rest.first <= step.shape.length
                assert (one.weights > 0).sum() <= step.shape.scored
                assert (group.shared if one.source is None else len(one.source)) <= step.size
                done.append(rest.example)
    assert Counter(done) == Counter(range(len(given)))


def test_little_is_padding():
    given = examples(questions=300)
    distinct = {one.tokens[: int(np.argmax(one.weights > 0))].tobytes(): one for one in given}
    beginnings = sum(int(np.argmax(one.weights > 0)) for one in distinct.values())
    needed = beginnings + sum(int((one.weights > 0).sum()) for one in given)
    computed = sum(map(batching.cost, batching.plan(given, 1024, 1)))
    assert needed <= computed < 0.5 * sum(len(one.tokens) for one in given)


def test_shapes_are_few():
    given = examples() + [continued(3, int(n)) for n in RANDOM.integers(1, 50, 100)]
    found = {
        (step.size, None) if isinstance(step, Beginnings) else (getattr(step, "size", 0), step.shape, len(step.rows))
        for step in batching.plan(given, 512, 1)
    }
    assert len(found) <= batching.SHAPES * (2 + batching.SHAPES) + 2  # the last batch of a kind may have fewer rows


def test_classes_are_the_cheapest():
    shapes = [Shape(0, length, 1) for length in (8, 8, 16, 64, 64)]
    assert [(shape.length, rows) for shape, rows in batching.classes(shapes, 2, 8)] == [(64, [3, 4]), (16, [0, 1, 2])]
    assert [shape.length for shape, _ in batching.classes(shapes, 3, 8)] == [64, 16, 8]
    assert [shape.length for shape, _ in batching.classes(shapes, 3, 8, price=20)] == [64, 16]  # 8 would save 16 places
