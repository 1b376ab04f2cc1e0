"""Every example is computed once, in a row that holds it and what it continues."""

from collections import Counter

import numpy as np
import pytest

from research.inference import batching
from research.inference.batching import Group
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


def examples(start: int | None = None, questions: int = 40, longest: int = 60) -> list[Example]:
    contexts = RANDOM.integers(6, longest, questions)
    return [continued(int(c), int(RANDOM.integers(1, 9)), start) for c in contexts for _ in range(3)]


def places(given: list[Example], group: Group) -> tuple[int, int]:
    """That a group takes of the source side, and of the other."""
    source = given[group.members[0]].source
    own = sum(len(given[member].tokens) - group.shared for member in group.members)
    return 0 if source is None else len(source), group.shared + own


@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("start", [None, 7])
@pytest.mark.parametrize("longest", [60, 700])
def test_a_plan_computes_every_example_once_where_it_fits(parts, start, longest):
    given = examples(start, longest=longest)
    steps = batching.plan(given, 4096, parts)
    done = [member for step in steps for row in step.rows for group in row for member in group.members]
    assert Counter(done) == Counter(range(len(given)))
    for step in steps:
        assert len(step.rows) % parts == 0
        assert batching.cost(step) <= max(4096, parts * step.shape.computed)
        for row in step.rows:
            taken = np.array([places(given, group) for group in row]).reshape(-1, 2).sum(axis=0)
            assert (taken <= [step.shape.source, step.shape.length]).all()
            scored = sum((given[member].weights > 0).sum() for group in row for member in group.members)
            assert scored <= step.shape.scored


def test_a_shared_prefix_is_what_all_members_begin_with():
    given = examples()
    shared = [group for group in batching.groups(given) if len(group.members) > 1]
    assert shared and batching.groups(given, branching=False) == [Group((n,), 0) for n in range(len(given))]
    for group in shared:
        first = given[group.members[0]]
        assert group.shared == int(np.argmax(first.weights > 0)) + 1  # whose last place predicts what differs
        for member in group.members:
            np.testing.assert_array_equal(given[member].tokens[: group.shared], first.tokens[: group.shared])
    both_sides = continued(20, 5)._replace(levels=np.zeros(24, np.int32))
    assert batching.shared_prefix(both_sides) == 0


@pytest.mark.parametrize(("start", "most"), [(None, 1.15), (7, 1.35)])
def test_little_is_padding(start, most):
    given = examples(start, questions=300)
    needed = sum(map(sum, (places(given, group) for group in batching.groups(given))))
    computed = sum(map(batching.cost, batching.plan(given, 4096, 1)))
    assert needed <= computed < most * needed


def test_shapes_are_few():
    given = examples() + [continued(3, int(n)) for n in RANDOM.integers(1, 900, 100)]
    found = {(step.shape, len(step.rows)) for step in batching.plan(given, 2048, 1)}
    assert len(found) <= 6  # up to 256, 512 and 1024 places; the last batch of each may have fewer rows


def test_a_group_that_does_not_fit_is_several():
    given = [continued(20, 30) for _ in range(100)]
    steps = batching.plan(given, 4096, 1)
    groups = [group for step in steps for row in step.rows for group in row]
    assert len(groups) > 1 and all(sum(places(given, group)) <= steps[0].shape.length for group in groups)
