import dataclasses
import json
import multiprocessing
import re

import numpy as np
import pytest

from research import config, data
from research.config import Data, Experiment, Model
from research.errors import InputError
from research.objectives.batch import ARRAYS
from tests.data.shared import SHARED, needs_shared


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sources of several forms, each in words of its own."""
    folder = tmp_path_factory.mktemp("corpus")
    with (folder / "prose.jsonl").open("w") as file:
        for n in range(200):
            file.write(json.dumps({"text": f"prose {n} " + "of words " * (n % 13)}) + "\n")
        file.write('{"text": ""}\n')
    with (folder / "pairs.jsonl").open("w") as file:
        for n in range(60):
            file.write(json.dumps({"en": f"number {n}", "fr": f"nombre {n}"}) + "\n")
    with (folder / "other.jsonl").open("w") as file:
        for n in range(40):
            file.write(json.dumps({"text": f"OTHER {n} " + "THINGS " * 5}) + "\n")
    return folder


@pytest.fixture
def experiment(folder):
    """A mixture over `prose.jsonl`, of bytes."""
    return Experiment(
        objectives=(config.Causal(rate=0.5), config.Masked(rate=0.25), config.SpanCorruption(rate=0.25)),
        data=Data(
            source=f"jsonl:{folder}/prose.jsonl#text",
            held_out=0.1,
            tokenizer="bytes",
            length=64,
            batch=8,
            cache=str(folder / "cache"),
        ),
        seed=1,
    )


def vary(experiment, objectives=None, model=None, seed=None, **changes):
    experiment = dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, **changes))
    if objectives is not None:
        experiment = dataclasses.replace(experiment, objectives=tuple(objectives))
    if model is not None:
        experiment = dataclasses.replace(experiment, model=model)
    return experiment if seed is None else dataclasses.replace(experiment, seed=seed)


def equal(a, b):
    sides = all(np.array_equal(x, y) for x, y in ((getattr(a, name), getattr(b, name)) for name in ARRAYS))
    return sides and ((a.source is None and b.source is None) or equal(a.source, b.source))


def words(corpus, batch):
    """The text of all ordinary tokens of a batch."""
    return corpus.tokenizer.decode(batch.tokens[batch.segments > 0])


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_gives_the_batches_of_its_steps_and_ends_its_processes(experiment, workers):
    corpus = data.open_corpus(vary(experiment, workers=workers))
    half = range(4, 8)
    with corpus.loader(3, 9, half) as loader:
        loaded = list(loader)
    assert [step for step, _ in loaded] == list(range(3, 9))
    assert all(equal(batch, corpus.batch(step, half)) for step, batch in loaded)
    with corpus.loader(0, 10**9) as loader:  # left early
        assert next(loader)[0] == 0
    assert not multiprocessing.active_children()


def test_a_bad_thing_in_a_worker_is_not_swallowed(experiment):
    corpus = data.open_corpus(experiment)
    broken = dataclasses.replace(corpus.training, plans=(None, None, None))
    with pytest.raises(Exception, match="rows"), dataclasses.replace(corpus, training=broken).loader(0, 3) as loader:
        next(loader)


def test_batches_have_the_contracts_shapes_and_types(experiment):
    corpus = data.open_corpus(experiment)
    batch = corpus.batch(0)
    for name, array in ((name, getattr(batch, name)) for name in ARRAYS):
        assert array.shape == (8, 64)
        assert array.dtype == (np.float32 if name == "weights" else np.int32)
    assert batch.source is None
    assert corpus.vocabulary.size == 258 + 100 + 1
    assert batch.tokens.max() < corpus.vocabulary.size


def test_the_objective_of_each_row_is_told(experiment):
    corpus = data.open_corpus(experiment)
    batch, which = corpus.batch(2), corpus.objective_of_rows(2)
    assert sorted(which) == [0, 0, 0, 0, 1, 1, 2, 2]
    is_masked = (batch.levels == 0).all(axis=1)
    assert np.array_equal(is_masked, which == 1)


def test_the_documents_of_a_row_are_told(experiment, folder):
    corpus = data.open_corpus(experiment)
    texts = [json.loads(line)["text"] for line in (folder / "prose.jsonl").open()]
    batch, documents = corpus.batch(0), corpus.documents(0)
    for row in np.flatnonzero(corpus.objective_of_rows(0) == 0):
        numbers = [number for source, number in documents[row] if source == experiment.data.source]
        assert len(numbers) == batch.segments[row].max()
        for segment, number in enumerate(numbers, start=1):
            shown = corpus.tokenizer.decode(batch.tokens[row][batch.segments[row] == segment])
            assert shown and shown in texts[number]


def test_held_out_batches_read_every_held_out_token_once_and_no_other(experiment, folder):
    texts = ["a" * (n + 5) for n in range(90)] + ["b" * (n + 5) for n in range(10)]
    (folder / "letters.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    corpus = data.open_corpus(vary(experiment, source=f"jsonl:{folder}/letters.jsonl#text"))
    batches = corpus.held_out(experiment.objectives[0])
    counts = sum(np.bincount(batch.targets[batch.weights > 0], minlength=258) for batch in batches)
    assert np.flatnonzero(counts).tolist() == [ord("b"), corpus.tokenizer.eos]
    assert counts[ord("b")] == sum(range(5, 15)) and counts[corpus.tokenizer.eos] == 10
    for step in range(100):
        assert ord("b") not in corpus.batch(step).targets


def test_held_out_batches_are_the_same_for_every_seed_and_mixture(experiment):
    masked = experiment.objectives[1]
    first = data.open_corpus(experiment).held_out(masked)
    other = data.open_corpus(vary(experiment, objectives=[masked], seed=9, tokenizer="bytes")).held_out(masked)
    assert len(first) == len(other)
    assert all(np.array_equal(a.weights, b.weights) for a, b in zip(first, other, strict=True))


def test_held_out_batches_are_a_sequence_that_hosts_share(experiment):
    corpus = data.open_corpus(experiment)
    for objective in experiment.objectives:
        batches = corpus.held_out(objective)
        rows = corpus.held_out_plans[objective.name].rows
        assert len(batches) == -(-rows // 8)
        filled = [int((batch.segments > 0).any(axis=1).sum()) for batch in batches]
        assert sum(filled) == rows and filled[:-1] == [8] * (len(batches) - 1)
        assert all(batch.tokens.shape == (8, 64) for batch in batches)
        assert equal(batches[-1], batches[len(batches) - 1])
        with pytest.raises(IndexError):
            batches[len(batches)]
        assert len(batches[:1]) == 1 and equal(batches[:1][0], batches[0])
        assert len(batches[:None]) == len(batches)
        halves = [corpus.held_out(objective, range(4 * h, 4 * h + 4))[0] for h in range(2)]
        assert np.array_equal(np.concatenate([half.tokens for half in halves]), batches[0].tokens)


def test_held_out_data_can_be_another_source(experiment, folder):
    corpus = data.open_corpus(vary(experiment, held_out=f"jsonl:{folder}/other.jsonl#text"))
    held_out = "".join(words(corpus, batch) for batch in corpus.held_out(experiment.objectives[0]))
    assert "OTHER 39 " in held_out and "prose" not in held_out
    plan = corpus.training.plans[0]
    assert plan.documents.last - plan.documents.first == 200


def test_a_mixture_of_sources_by_rates(experiment, folder):
    other = config.Causal(name="other", rate=1, source=f"jsonl:{folder}/other.jsonl#text")
    corpus = data.open_corpus(vary(experiment, objectives=[config.Causal(rate=3), other]))
    for step in range(5):
        batch, which = corpus.batch(step), corpus.objective_of_rows(step)
        assert sorted(which) == [0] * 6 + [1] * 2
        for row, objective in enumerate(which):
            shown = corpus.tokenizer.decode(batch.tokens[row])
            assert ("THINGS" in shown) == (objective == 1)
            assert {source for source, _ in corpus.documents(step)[row]} == {
                other.source if objective else experiment.data.source
            }


def test_pairs_with_a_task_prefix_in_one_row(experiment, folder):
    objective = config.TextToText(prefix="to French: ", source=f"jsonl:{folder}/pairs.jsonl#en,fr")
    corpus = data.open_corpus(vary(experiment, objectives=[objective, config.Causal()]))
    row = int(np.flatnonzero(corpus.objective_of_rows(0) == 0)[0])
    batch = corpus.batch(0)
    first = batch.segments[row] == 1
    number = re.fullmatch(r"to French: number (\d+)nombre \d*", corpus.tokenizer.decode(batch.tokens[row][first]))[1]
    predicted = first & (batch.weights[row] > 0)
    eos = corpus.tokenizer.eos
    assert batch.targets[row][predicted].tolist() == [*f"nombre {number}".encode(), eos]


def test_an_encoder_decoder_reads_inputs_on_its_source_side(experiment, folder):
    objectives = [
        config.TextToText(source=f"jsonl:{folder}/pairs.jsonl#en,fr"),
        config.SpanCorruption(),
        config.Prefix(mode="[P]"),
    ]
    model = Model(encoder_depth=2)
    corpus = data.open_corpus(vary(experiment, objectives=objectives, model=model, length=40, source_length=48))
    batch = corpus.batch(0)
    assert batch.tokens.shape == (8, 40) and batch.source.tokens.shape == (8, 48)
    for row in range(8):
        assert batch.segments[row].max() == batch.source.segments[row].max() > 0
    row = int(np.flatnonzero(corpus.objective_of_rows(0) == 0)[0])
    source = corpus.tokenizer.decode(batch.source.tokens[row][batch.source.segments[row] == 2])
    target = corpus.tokenizer.decode(batch.targets[row][batch.segments[row] == 2])
    assert source == target.replace("nombre", "number")
    with corpus.loader(0, 2) as loader:
        assert all(equal(batch, corpus.batch(step)) for step, batch in loader)


def test_a_trained_tokenizer_has_not_seen_the_held_out_text(experiment, folder):
    text = [json.dumps({"text": "common words here " * 3})] * 90 + [json.dumps({"text": "zyzzyva " * 60})] * 10
    (folder / "split.jsonl").write_text("\n".join(text))
    changes = {"source": f"jsonl:{folder}/split.jsonl#text", "tokenizer": "train:300"}
    corpus = data.open_corpus(vary(experiment, objectives=[config.Causal()], **changes))
    assert len(corpus.tokenizer.encode("common words here")) < 8
    assert len(corpus.tokenizer.encode("zyzzyva")) == 7
    again = data.open_corpus(vary(experiment, objectives=[config.Causal()], **changes))
    assert again.tokenizer == corpus.tokenizer


def test_characters_cover_every_source_and_prefix(experiment, folder):
    objectives = [
        config.Causal(),
        config.TextToText(prefix="Ω: ", source=f"jsonl:{folder}/pairs.jsonl#en,fr"),
    ]
    corpus = data.open_corpus(vary(experiment, objectives=objectives, tokenizer="characters"))
    assert corpus.tokenizer.encode("Ω") and corpus.tokenizer.encode("b")
    assert corpus.tokenizer.eos is not None  # outputs must end
    alone = data.open_corpus(vary(experiment, objectives=[config.Causal()], tokenizer="characters"))
    texts = [json.loads(line)["text"] for line in (folder / "prose.jsonl").open()]
    assert alone.vocabulary.size == len(set("".join(texts)))


def test_a_saved_tokenizer_is_used_as_it_is(experiment):
    corpus = data.open_corpus(experiment)
    fewer = vary(experiment, objectives=[config.Causal()])
    assert data.open_corpus(fewer, corpus.tokenizer).vocabulary.size == corpus.vocabulary.size
    assert data.open_corpus(fewer).vocabulary.size == 258


def test_integers_need_no_text(experiment, folder):
    np.save(folder / "codes.npy", np.arange(4000) % 17)
    changes = {"source": f"tokens:{folder}/codes.npy", "tokenizer": "integers:17"}
    corpus = data.open_corpus(vary(experiment, objectives=[config.Causal(), config.Masked()], **changes))
    batch, which = corpus.batch(0), corpus.objective_of_rows(0)
    causal = batch.weights[which == 0] > 0
    assert np.array_equal((batch.tokens[which == 0] + 1)[causal] % 17, batch.targets[which == 0][causal])
    assert corpus.vocabulary.size == 18
    with pytest.raises(InputError, match="holds integers: use integers:SIZE"):
        data.open_corpus(vary(experiment, objectives=[config.Causal()], **changes | {"tokenizer": "train:300"}))


def test_the_line_of_facts(experiment):
    facts = data.open_corpus(experiment).facts
    assert "\n" not in facts
    assert "180 documents of " in facts and "held out 20 documents of " in facts
    assert "1 x empty document" in facts and "prose.jsonl:201" in facts
    assert re.search(r"causal [\d,]+ rows an epoch with 0\.\d% padding", facts)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "text:/nowhere/*.txt"}, "no file matches"),
        ({"source": "jsonl"}, "is none of python-docs"),
        ({"tokenizer": "nobody/nothing"}, "is no folder here, and the Hugging Face hub"),
        ({"length": 3}, "rows of 3 places are too short for objective 'span_corruption'"),
        ({"model": Model(vocabulary=300)}, "model.vocabulary: 300 is smaller than the tokenizer's 359 ids"),
        ({"objectives": [config.TextToText()]}, "objective 'text_to_text' needs a source of pairs"),
        ({"objectives": [config.Masked(whole_words=True)]}, "the tokenizer lacks marks of word beginnings"),
        ({"objectives": [config.Causal(), config.Prefix(rate=1e-6)]}, "the smallest is below 1 in 1000"),
    ],
)
def test_what_cannot_work_is_said_when_the_data_is_opened(experiment, monkeypatch, changes, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match=re.escape(message)):
        data.open_corpus(vary(experiment, **changes))


def test_a_vocabulary_that_covers_the_tokenizer_is_enough(experiment):
    assert data.open_corpus(vary(experiment, model=Model(vocabulary=359))).vocabulary.size == 359


def test_the_cache_is_where_the_environment_says(experiment, tmp_path, monkeypatch):
    monkeypatch.setenv("RESEARCH_CACHE", str(tmp_path))
    data.open_corpus(vary(experiment, cache=None))
    assert list(tmp_path.glob("store-*"))


@needs_shared
def test_tiny_shakespeare_is_split_as_nanogpt_splits_it(experiment, folder):
    path = SHARED / "text" / "tinyshakespeare.txt"
    text = path.read_text()
    shakespeare = vary(experiment, [config.Causal()], source=f"text:{path}", tokenizer="characters", held_out=0.1)
    corpus = data.open_corpus(shakespeare)
    assert corpus.vocabulary.size == 65
    plans = corpus.training.plans[0], corpus.held_out_plans["causal"]
    shown = [corpus.tokenizer.decode(plan.documents.store.part(n)) for n, plan in enumerate(plans)]
    assert shown == [text[: int(0.9 * len(text))], text[int(0.9 * len(text)) :]]
