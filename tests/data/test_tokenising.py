import json
import subprocess
import sys

import numpy as np
import pytest
import tokenizers as huggingface

from research.data import sources, tokenising, tokenizers
from research.errors import InputError

BYTES = tokenizers.load("bytes")
SLOW = """
import sys, time
from pathlib import Path
from research.data import sources, store, tokenising, tokenizers
tokenising.CHUNK, append = 1, tokenising._append
def slowly(*arguments):
    append(*arguments)
    print("written", flush=True)
    time.sleep(float(sys.argv[3]))
tokenising._append = slowly
tokenising.prepare(sources.open_source(sys.argv[1]), tokenizers.load("bytes"), Path(sys.argv[2]))
"""


@pytest.fixture
def lines(tmp_path):
    """Writes texts as a source of JSON lines."""

    def write(*texts):
        (tmp_path / "x.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        return sources.open_source(f"jsonl:{tmp_path}/x.jsonl#text")

    return write


def decoded(prepared):
    parts = range(prepared.documents), range(prepared.parts)
    return [BYTES.decode(prepared.part(d, p)) for d in parts[0] for p in parts[1]]


def test_documents_are_framed_and_come_back(lines, tmp_path):
    texts = ["one", "zwei", "été 🎉"]
    prepared = tokenising.prepare(lines(*texts), BYTES, tmp_path)
    assert decoded(prepared) == texts
    assert prepared.part(0).tolist() == [256, *b"one", 257]
    assert prepared.part(1, 0, 1, 3).tolist() == list(b"zw")
    assert prepared.part(0, 0, 2, 1000).tolist() == [*b"ne", 257]
    assert prepared.part(0).dtype == np.int32
    assert (
        prepared.meta["tokens"]
        == len(prepared.read(0, prepared.meta["tokens"]))
        == sum(len(t.encode()) + 2 for t in texts)
    )


def test_a_tokenizer_without_ends_adds_none(lines, tmp_path):
    tokenizer = tokenizers.make("characters", lambda: ["abc"])
    assert tokenising.prepare(lines("abc", "cab"), tokenizer, tmp_path).read(0, 6).tolist() == [0, 1, 2, 2, 0, 1]


def test_pairs_have_two_parts_and_the_prefix_stands_before_the_input(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"en": "one", "fr": "un"}\n{"en": "two", "fr": "deux"}\n')
    prepared = tokenising.prepare(
        sources.open_source(f"jsonl:{tmp_path}/x.jsonl#en,fr"), BYTES, tmp_path, prefix="to French: "
    )
    assert decoded(prepared) == ["to French: one", "un", "to French: two", "deux"]
    assert prepared.part(0, 1).tolist() == [*b"un", 257]
    assert prepared.part(1, 0)[0] == 256


@pytest.mark.parametrize(("size", "dtype"), [(256, "uint8"), (257, "uint16"), (65_536, "uint16"), (65_537, "uint32")])
def test_tokens_take_the_smallest_dtype_that_holds_the_vocabulary(tmp_path, size, dtype):
    np.save(tmp_path / "x.npy", np.array([0, size - 1]))
    prepared = tokenising.prepare(
        sources.open_source(f"tokens:{tmp_path}/x.npy"), tokenizers.load(f"integers:{size}"), tmp_path
    )
    assert prepared.meta["dtype"] == dtype
    assert prepared.part(0).tolist() == [0, size - 1]


def test_any_signal_can_be_a_source(tmp_path):
    bases = np.array(["ACGT".index(base) for base in "GATTACA" * 1000], np.uint8)
    bases.tofile(tmp_path / "dna.bin")
    prepared = tokenising.prepare(
        sources.open_source(f"tokens:{tmp_path}/dna.bin#uint8"), tokenizers.load("integers:4"), tmp_path, cut=0.1
    )
    assert np.array_equal(np.concatenate([prepared.part(0), prepared.part(1)]), bases)
    assert len(prepared.part(1)) == 700


def test_ids_outside_the_vocabulary_are_an_error_with_their_place(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[0, 1, 2], [3, -1, 0]]))
    source = sources.open_source(f"tokens:{tmp_path}/x.npy")
    with pytest.raises(InputError, match=r"x\.npy:1: the integer -1 at index 1 is outside the vocabulary of 9 ids"):
        tokenising.prepare(source, tokenizers.load("integers:9"), tmp_path / "cache")
    with pytest.raises(InputError, match=r"x\.npy:0: the integer 2 at index 2 is outside the vocabulary of 2 ids"):
        tokenising.prepare(source, tokenizers.load("integers:2"), tmp_path / "cache")
    assert list((tmp_path / "cache").glob("[!.]*")) == []


def test_what_is_skipped_is_counted_by_kind_with_the_first_places(lines, tmp_path):
    source = lines("good", "", *[" "] * 7, "fine")
    (tmp_path / "x.jsonl").open("a").write("{broken\n")
    prepared = tokenising.prepare(source, BYTES, tmp_path)
    assert decoded(prepared) == ["good", "fine"]
    found = tokenising.prepare(source, BYTES, tmp_path)  # in the cache
    for said in (prepared.skipped, found.skipped):
        assert "8 x empty document" in said and "1 x broken JSON" in said
        assert "x.jsonl:2, " in said and "x.jsonl:6, …" in said and "x.jsonl:7" not in said


def test_a_missing_field_is_said_with_those_there_are(lines, tmp_path):
    lines("good", "fine")
    source = sources.open_source(f"jsonl:{tmp_path}/x.jsonl#txt")
    with pytest.raises(InputError, match=r"2 x no field 'txt'; it has 'text' \(.*x\.jsonl:1, .*x\.jsonl:2\)"):
        tokenising.prepare(source, BYTES, tmp_path / "cache")


def test_a_text_that_gives_no_token_is_skipped(lines, tmp_path):
    only_a = huggingface.Tokenizer(huggingface.models.BPE(vocab={"a": 0}, merges=[]))
    only_a.save(str(tmp_path / "tokenizer.json"))
    prepared = tokenising.prepare(lines("aa", "bb", "aba"), tokenizers.load(str(tmp_path)), tmp_path)
    assert prepared.read(0, 4).tolist() == [0, 0, 0, 0]
    assert prepared.documents == 2
    assert "1 x no token" in prepared.skipped and "x.jsonl:2" in prepared.skipped


def test_a_source_without_a_usable_document_says_what_was_wrong(lines, tmp_path):
    with pytest.raises(InputError, match=r"no usable document: 2 x empty document .*x\.jsonl:1, .*x\.jsonl:2"):
        tokenising.prepare(lines("", " "), BYTES, tmp_path / "cache")
    with pytest.raises(InputError, match="no usable document: it is empty"):
        tokenising.prepare(lines(), BYTES, tmp_path / "cache")
    assert list((tmp_path / "cache").glob("[!.]*")) == []


def test_a_store_is_made_once_and_again_when_anything_changes(lines, tmp_path):
    first = tokenising.prepare(lines("one", "two"), BYTES, tmp_path)
    made = (first.folder / "tokens.bin").stat().st_mtime_ns
    assert tokenising.prepare(sources.open_source(first.meta["source"]), BYTES, tmp_path) == first
    assert (first.folder / "tokens.bin").stat().st_mtime_ns == made
    characters = tokenizers.make("characters", lambda: ["onetwhr"])
    others = [
        tokenising.prepare(sources.open_source(first.meta["source"]), characters, tmp_path),
        tokenising.prepare(sources.open_source(first.meta["source"]), BYTES, tmp_path, prefix="p"),
        tokenising.prepare(lines("one", "three"), BYTES, tmp_path),
    ]
    assert len({first.folder, *(other.folder for other in others)}) == 4


def test_killed_half_way_nothing_looks_complete(lines, tmp_path):
    texts = [f"document {n}" for n in range(1000)]
    source, cache = lines(*texts), tmp_path / "cache"
    command = [sys.executable, "-c", SLOW, source.name, str(cache), "0.05"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert [process.stdout.readline() for _ in range(3)] == ["written\n"] * 3
        process.kill()
    assert not list(cache.glob("store-*"))
    assert [path.stat().st_size > 0 for path in cache.glob(".unfinished-*/tokens.bin")] == [True]
    assert decoded(tokenising.prepare(source, BYTES, cache)) == texts


def test_of_two_processes_one_prepares_and_the_other_waits(lines, tmp_path):
    texts = [f"document {n}" for n in range(20)]
    source, folder = lines(*texts), tmp_path / "cache"
    command = [sys.executable, "-c", SLOW, source.name, str(folder), "0.1"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as one,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as two,
    ):
        assert decoded(tokenising.prepare(source, BYTES, folder)) == texts
        written = [process.communicate()[0].count("written") for process in (one, two)]
        assert [one.returncode, two.returncode] == [0, 0]
    assert sum(written) in (0, 20)  # by one of the two, or by this process
    assert [path.name for path in folder.glob("[!.]*")] == [tokenising.prepare(source, BYTES, folder).folder.name]


def test_one_document_is_cut_where_its_text_is(tmp_path):
    text = "0123456789" * 10
    (tmp_path / "x.txt").write_text(text)
    prepared = tokenising.prepare(sources.open_source(f"text:{tmp_path}/x.txt"), BYTES, tmp_path, cut=0.1)
    assert decoded(prepared) == [text[:90], text[90:]]
    assert list(tokenising.training_texts(sources.open_source(f"text:{tmp_path}/x.txt"), 0.1)) == [text[:90]]


def test_a_tokenizer_is_trained_without_the_held_out_documents(lines):
    texts = [f"document {n}" for n in range(100)]
    assert list(tokenising.training_texts(lines(*texts), 0.05)) == texts[:95]
    assert list(tokenising.training_texts(lines(*texts), None)) == texts
    assert list(tokenising.training_texts(lines(*texts), 0.5, limit=100)) == texts[:5]  # half of the ten that were read
    assert list(tokenising.texts(lines(*texts))) == texts


def test_a_tokenizer_cannot_be_made_from_integers(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(5))
    for read in (tokenising.texts, lambda source: tokenising.training_texts(source, 0.1)):
        with pytest.raises(InputError, match="holds integers: use integers:SIZE"):
            list(read(sources.open_source(f"tokens:{tmp_path}/x.npy")))


@pytest.mark.parametrize(
    ("documents", "fraction", "held_out"), [(100, 0.05, 5), (3, 0.05, 1), (2, 0.9, 1), (1, 0.5, 0)]
)
def test_at_least_one_document_is_held_out_and_one_is_left(documents, fraction, held_out):
    assert tokenising.held_out_count(documents, fraction) == held_out
