import itertools
import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from research import config, objectives
from research.data import packing, sources, store, tokenising, tokenizers
from research.data.packing import DocumentRange, RowShape
from research.errors import InputError

ROWS = RowShape(length=16, source_length=16, encoder_decoder=False)
SIDES = RowShape(length=12, source_length=20, encoder_decoder=True)
CASES = [
    (config.Causal(), ROWS),
    (config.Causal(mode="[C]"), ROWS),
    (config.Masked(), ROWS),
    (config.Masked(mode="[M]"), ROWS),
    (config.Prefix(), ROWS),
    (config.Prefix(mode="[P]"), ROWS),
    (config.Prefix(), SIDES),
    (config.Prefix(mode="[P]"), SIDES),
    (config.SpanCorruption(), ROWS),
    (config.SpanCorruption(noise_rate=0.5, mean_span=2.0, mode="[S]"), ROWS),
    (config.SpanCorruption(), SIDES),
]
VOCABULARY = objectives.Vocabulary(
    5000,
    bos=4000,
    eos=4001,
    mask=4002,
    sentinels=tuple(range(4100, 4109)),
    modes=dict.fromkeys(["[C]", "[M]", "[P]", "[S]"], 4003),
)


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    """Makes a store of documents (or of pairs) of given lengths, in which every token has an id of its own."""

    def make(*lengths, parts=1, first=0, last=None):
        folder = tmp_path_factory.mktemp("store")
        np.arange(sum(lengths), dtype=np.uint32).tofile(folder / "tokens.bin")
        tokenising.seal(folder, lengths, np.uint32, "test", parts, "")
        count = len(lengths) // parts
        return DocumentRange(store.Store(folder), first, count if last is None else last)

    return make


def rows(plan):
    return [plan.read(row) for row in range(plan.rows)]


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize(("objective", "shape"), CASES)
@given(st.lists(st.integers(1, 70), min_size=1, max_size=12))
@example([1, 200, 1, 1, 3])
def test_every_token_is_predicted_in_exactly_one_row(documents, objective, shape, lengths):
    if max(lengths) < 2:
        lengths = [*lengths, 2]
    it = documents(*lengths)
    plan = packing.plan(it, objective, shape)
    pieces = [piece for row in rows(plan) for piece in row]
    overlap = objective.overlap
    targets = np.concatenate([piece.parts[0][overlap:] for piece in pieces])
    starts = it.store.offsets[:-1]
    assert targets.tolist() == sorted(set(range(sum(lengths))) - set(starts.tolist() if overlap else []))
    for piece in pieces:  # no piece has tokens of two documents
        begin, end = it.store.offsets[piece.document : piece.document + 2]
        assert begin <= piece.parts[0].min() and piece.parts[0].max() < end


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize(("objective", "shape"), CASES)
@given(st.lists(st.integers(2, 70), min_size=1, max_size=12))
def test_what_is_planned_fits_into_its_row(documents, objective, shape, lengths):
    plan = packing.plan(documents(*lengths), objective, shape)
    for number, row in enumerate(rows(plan)):
        shown = [
            objective.example(piece.parts, (number, n), VOCABULARY, shape.encoder_decoder)
            for n, piece in enumerate(row)
        ]
        objectives.row(shown, shape.length, shape.source_length if shape.encoder_decoder else None)


@pytest.mark.parametrize("objective", [config.Causal(), config.Masked(), config.Prefix()])
def test_streams_have_no_padding_but_in_the_last_row(documents, objective):
    plan = packing.plan(documents(5, 40, 2, 9, 1, 30), objective, ROWS)
    places = [sum(len(p.parts[0]) - objective.overlap for p in row) for row in rows(plan)]
    assert places[:-1] == [16] * (plan.rows - 1)
    assert plan.padding == pytest.approx(1 - sum(places) / (16 * plan.rows))


def test_a_walk_does_not_cut_a_document_into_crumbs(documents):
    plan = packing.plan(documents(*[23] * 30), config.SpanCorruption(), RowShape(64, 64, False))
    sizes = [len(piece.parts[0]) for row in rows(plan) for piece in row]
    assert min(sizes) >= packing.SHORTEST
    assert sum(sizes) == 23 * 30
    assert 0 < plan.padding < 0.2


def test_a_plan_covers_its_range_only(documents):
    for objective in (config.Causal(), config.SpanCorruption()):
        plan = packing.plan(documents(9, 9, 9, 9, first=1, last=3), objective, ROWS)
        assert {piece.document for row in rows(plan) for piece in row} == {1, 2}


@pytest.mark.parametrize(("objective", "shape"), CASES)
def test_a_plan_travels_to_other_processes_without_the_data(documents, objective, shape):
    plan = packing.plan(documents(*[50] * 2000), objective, shape)
    before = rows(plan)[-1]
    pickled = pickle.dumps(plan)
    assert len(pickled) < 2000
    after = pickle.loads(pickled).read(plan.rows - 1)
    assert all(np.array_equal(a.parts[0], b.parts[0]) for a, b in zip(before, after, strict=True))


def test_a_walk_is_planned_once(documents, monkeypatch):
    it = documents(*[50] * 20)
    plan = packing.plan(it, config.SpanCorruption(), ROWS)

    def again(walk, folder):
        raise AssertionError(folder)

    monkeypatch.setattr(packing, "_plan", again)
    assert packing.plan(it, config.SpanCorruption(), ROWS).rows == plan.rows
    with pytest.raises(AssertionError):
        packing.plan(it, config.SpanCorruption(noise_rate=0.3), ROWS)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("mode", [None, "[C]"])
@pytest.mark.parametrize("shape", [ROWS, SIDES])
@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=12))
def test_pairs_stay_whole_and_in_order_and_fit(documents, shape, mode, pairs):
    objective = config.TextToText(mode=mode)
    it = documents(*itertools.chain(*pairs), parts=2)
    plan = packing.plan(it, objective, shape)
    pieces = [piece for row in rows(plan) for piece in row]
    assert [piece.document for piece in pieces] == list(range(len(pairs)))
    cut = 0
    for piece, sizes in zip(pieces, pairs, strict=True):
        kept = tuple(map(len, piece.parts))
        cut += kept != sizes
        assert min(kept) >= 1 and all(a <= b for a, b in zip(kept, sizes, strict=True))
        for part, tokens in enumerate(piece.parts):
            assert tokens[0] == it.store.offsets[2 * piece.document + part]
    assert cut == packing.truncated(it, objective, shape)
    for row in rows(plan):
        shown = [objective.example(p.parts, (0,), VOCABULARY, shape.encoder_decoder) for p in row]
        objectives.row(shown, shape.length, shape.source_length if shape.encoder_decoder else None)


@given(st.integers(1, 50), st.integers(1, 50), st.booleans())
def test_a_pair_that_is_too_long_fills_the_row(inputs, outputs, mode):
    kept = packing.fit(inputs, outputs, ROWS, mode)
    room = ROWS.length + 1 - mode
    assert sum(kept) == min(inputs + outputs, room)
    assert kept[1] >= min(outputs, room // 2)


def test_rows_of_pairs_are_filled_with_what_fits_next(documents):
    plan = packing.plan(documents(4, 5, 3, 6, 2, 2, parts=2), config.TextToText(), ROWS)
    assert [[piece.document for piece in row] for row in rows(plan)] == [[0, 1], [2]]  # 8 + 8 places, then 3
    assert plan.padding == pytest.approx(13 / 32)


def test_the_longest_piece_is_the_longest_that_fits():
    for objective, shape in CASES:
        longest = packing.longest(objective, shape)
        for tokens, fits in ((longest, True), (longest + 1, False)):
            target, source = objective.places((tokens,), shape.encoder_decoder)
            assert (target <= shape.length and source <= shape.source_length) == fits


def test_what_cannot_be_planned_says_why(documents):
    for lengths, parts, objective, length, message in (
        ((5, 5), 1, config.TextToText(), 16, "needs a source of pairs"),
        ((5, 5), 2, config.Causal(), 16, "needs a source of documents"),
        ((5, 5), 1, config.SpanCorruption(), 3, "rows of 3 places are too short"),
        ((1, 1), 1, config.Causal(), 16, "nothing to predict in 2 documents"),
        ((1, 1), 1, config.Causal(mode="[C]"), 16, "nothing to predict in 2 documents"),
    ):
        with pytest.raises(InputError, match=message):
            packing.plan(documents(*lengths, parts=parts), objective, RowShape(length, length, False))


def test_documents_of_a_real_store_are_read_back(tmp_path):
    texts = ["first", "second document", "third"]
    for n, text in enumerate(texts):
        (tmp_path / f"{n}.txt").write_text(text)
    tokenizer = tokenizers.load("bytes")
    prepared = tokenising.prepare(sources.open_source(f"text:{tmp_path}/*.txt"), tokenizer, tmp_path / "cache")
    plan = packing.plan(DocumentRange(prepared, 0, 3), config.Causal(), RowShape(100, 100, False))
    assert [tokenizer.decode(piece.parts[0]) for piece in plan.read(0)] == texts
