import dataclasses
from collections import Counter

import numpy as np
import pytest

from research import config
from research.data import mixture, packing, sources, tokenising, tokenizers
from research.data.mixture import Mixture
from research.data.packing import DocumentRange, RowShape
from research.errors import InputError
from research.objectives.batch import ARRAYS

SHAPE = RowShape(32, 32, False)
OBJECTIVES = (
    config.Causal(rate=0.5),
    config.Masked(rate=0.2, mode="[M]"),
    config.SpanCorruption(rate=0.3, weight=0.5),
)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Three objectives over some hundred documents."""
    folder = tmp_path_factory.mktemp("mixture")
    for n in range(150):
        (folder / f"{n}.txt").write_text(f"document {n} " * (n % 9 + 1))
    tokenizer = tokenizers.extend(tokenizers.load("bytes"), OBJECTIVES)
    prepared = tokenising.prepare(sources.open_source(f"text:{folder}/*.txt"), tokenizer, folder / "cache")
    plans = tuple(packing.plan(DocumentRange(prepared, 0, prepared.documents), o, SHAPE) for o in OBJECTIVES)
    return Mixture(OBJECTIVES, plans, tokenizer.vocabulary, SHAPE, batch_rows=12, seed=3)


def equal(a, b):
    return all(np.array_equal(x, y) for x, y in ((getattr(a, name), getattr(b, name)) for name in ARRAYS))


@pytest.mark.parametrize("hosts", [2, 3, 4])
def test_any_number_of_hosts_gives_the_same_global_batch(mixed, hosts):
    for step in (0, 5, 123_456):
        whole = mixed.batch(step)
        share = mixed.batch_rows // hosts
        parts = [mixed.batch(step, range(host * share, (host + 1) * share)) for host in range(hosts)]
        joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ARRAYS}
        assert equal(whole, dataclasses.replace(whole, **joined))


def test_a_batch_depends_on_seed_and_step_alone(mixed):
    batch = mixed.batch(7)
    assert equal(batch, dataclasses.replace(mixed).batch(7))
    assert not equal(batch, mixed.batch(8))
    assert not equal(batch, dataclasses.replace(mixed, seed=4).batch(7))


def test_rates_are_exact_in_every_cycle(mixed):
    which = [mixed.place(number).objective for number in range(1000)]
    for start in range(0, 1000, 10):
        assert Counter(which[start : start + 10]) == {0: 5, 1: 2, 2: 3}
    assert len({tuple(which[start : start + 10]) for start in range(0, 1000, 10)}) > 50  # in shuffled order


@pytest.mark.parametrize("objective", range(3))
def test_every_row_is_read_once_an_epoch_in_another_order_each_time(mixed, objective):
    rows = mixed.plans[objective].rows
    places = [place for n in range(12 * rows) if (place := mixed.place(n)).objective == objective][: 2 * rows]
    assert [place.epoch for place in places] == [0] * rows + [1] * rows
    first, second = ([place.row for place in places[e * rows : (e + 1) * rows]] for e in range(2))
    assert sorted(first) == sorted(second) == list(range(rows))
    assert first != second
    assert first != sorted(first)


def test_masks_differ_between_epochs(mixed):
    place = mixture.RowPlace(1, 0, 4)
    first, again, later = (mixed._row(p) for p in (place, place, place._replace(epoch=1)))
    assert np.array_equal(first.targets, later.targets)
    assert equal(first, again)
    assert not np.array_equal(first.weights, later.weights)


def test_the_weight_of_an_objective_is_in_its_rows(mixed):
    for number in range(50):
        place = mixed.place(number)
        weights = mixed._row(place).weights
        assert set(np.unique(weights)) <= {0, np.float32(0.5) if place.objective == 2 else 1}


@pytest.mark.parametrize(
    ("rates", "counts"),
    [
        ((1,), (1,)),
        ((2.5,), (1,)),
        ((1, 1, 1), (1, 1, 1)),
        ((0.5, 0.25, 0.25), (2, 1, 1)),
        ((0.1, 0.9), (1, 9)),
        ((1, 999), (1, 999)),
        ((1, 2**0.5), (414, 586)),
    ],
)
def test_the_cycle_is_the_shortest_with_these_rates(rates, counts):
    assert mixture.cycle(rates) == counts


def test_a_rate_that_would_never_be_seen_is_an_error():
    with pytest.raises(InputError, match="the smallest is below 1 in 1000 rows"):
        mixture.cycle((1, 1e-5))


@pytest.mark.parametrize("in_memory", [0, 1000])
@pytest.mark.parametrize("rows", [1, 2, 7, 100])
def test_an_order_is_a_permutation(rows, in_memory, monkeypatch):
    monkeypatch.setattr(mixture, "IN_MEMORY", in_memory)
    mixture._permutation.cache_clear()
    orders = [[mixture.order(rows, (key,), place) for place in range(rows)] for key in range(3)]
    assert all(sorted(order) == list(range(rows)) for order in orders)
    assert rows < 100 or orders[0] != orders[1] != orders[2]


def test_an_order_of_billions_costs_nothing():
    places = [mixture.order(5_000_000_000, (0,), place) for place in range(1000)]
    assert len(set(places)) == 1000
    assert min(places) < 250_000_000 and 4_750_000_000 < max(places) < 5_000_000_000
