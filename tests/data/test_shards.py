"""Data that is prepared in parts, by several processes, is the data that one process would have made."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from research import config, data
from research.config import Data, Experiment
from research.data import shards, sources, token_files, tokenising, tokenizers
from research.data.shards import Part
from research.errors import InputError
from research.objectives.batch import ARRAYS
from research.runs import preparing, records

BYTES = tokenizers.load("bytes")


def write(folder, number, documents=40):
    lines = [json.dumps({"text": f"file {number} document {n} " + "and more " * (n % 7)}) for n in range(documents)]
    (folder / f"{number}.jsonl").write_text("\n".join(lines) + "\n")


@pytest.fixture
def source(tmp_path):
    for number in range(5):
        write(tmp_path, number)
    (tmp_path / "3.jsonl").write_text('{"text": ""}\n')  # a file without anything
    return f"jsonl:{tmp_path}/*.jsonl#text"


def quiet(text):
    pass


def made(source, below, part=Part(), workers=1, say=quiet):  # noqa: B008 frozen
    shards.keep_tokenizer(below, BYTES)
    return shards.make(below, sources.open_source(source), BYTES, "", part, workers, say)


def contents(one):
    return [one.part(document).tolist() for document in range(one.documents)]


def test_parts_make_what_one_process_would(source, tmp_path):
    said = []
    assert made(source, tmp_path / "p", Part(0, 2), 2, said.append) is None
    assert said[-1].endswith("2 of 5 files are left to other parts")
    with pytest.raises(InputError, match="it has nothing that is complete"):
        shards.open_prepared(str(tmp_path / "p"), source, BYTES, "", tmp_path)
    parts = made(source, tmp_path / "p", Part(1, 2))
    whole = tokenising.prepare(sources.open_source(source), BYTES, tmp_path / "cache")
    assert contents(parts) == contents(whole) and np.array_equal(parts.offsets, whole.offsets)
    assert np.array_equal(parts.read(0, whole.meta["tokens"]), whole.read(0, whole.meta["tokens"]))  # over files
    assert "1 x empty document" in parts.skipped and parts.meta["dtype"] == "uint16"
    assert made(source, tmp_path / "other").digest == parts.digest
    opened = shards.open_prepared(str(tmp_path / "p"), source, BYTES, "", tmp_path)
    assert opened == parts
    (folder,) = (tmp_path / "p").glob("jsonl-*")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["source"], manifest["tokenizer"]) == (source, BYTES.digest)
    assert [Path(shard["path"]).name for shard in manifest["shards"]] == [f"{n}.jsonl" for n in range(5)]


def test_files_that_are_added_are_appended_and_changed_ones_replaced(source, tmp_path):
    before = contents(made(source, tmp_path / "p"))
    (folder,) = (tmp_path / "p").glob("jsonl-*")
    times = {path: path.stat().st_mtime_ns for path in folder.glob("shard-*/tokens.bin")}
    write(tmp_path, "00", 3)  # first by its name
    added = made(source, tmp_path / "p")
    assert contents(added)[:-3] == before and b"file 00" in bytes(contents(added)[-1][1:-1])
    assert all(path.stat().st_mtime_ns == at for path, at in times.items())
    write(tmp_path, 0, 2)
    os.utime(tmp_path / "0.jsonl", (1, 1))
    (tmp_path / "1.jsonl").unlink()
    assert contents(made(source, tmp_path / "p")) == [*before[:2], *before[40:], *contents(added)[-3:]]


def test_a_killed_part_leaves_nothing_that_is_read(source, tmp_path):
    made(source, tmp_path / "p")
    (folder,) = (tmp_path / "p").glob("jsonl-*")
    shard = next(folder.glob("shard-*"))
    shard.rename(folder / f".unfinished-{shard.name}-abc")
    assert contents(made(source, tmp_path / "p"))
    assert not list(folder.glob(".unfinished-*"))


def test_another_tokenizer_is_refused(source, tmp_path):
    made(source, tmp_path / "p")
    with pytest.raises(InputError, match="holds data of another tokenizer"):
        shards.keep_tokenizer(tmp_path / "p", tokenizers.load("integers:9"))


@pytest.mark.parametrize("address", ["{}", "file://{}"])
def test_a_changed_byte_is_found(source, tmp_path, address):
    made(source, tmp_path / "p")
    path = next(p for p in (tmp_path / "p").glob("jsonl-*/shard-*/tokens.bin") if p.stat().st_size)
    content = bytearray(path.read_bytes())
    content[7] ^= 1
    path.write_bytes(content)
    opened = shards.open_prepared(address.format(tmp_path / "p"), source, BYTES, "", tmp_path / "cache")
    with pytest.raises(InputError, match=r"tokens\.bin is not as it was written"):
        contents(opened)


def test_a_damaged_manifest_is_one_line(source, tmp_path):
    made(source, tmp_path / "p")
    (manifest,) = (tmp_path / "p").glob("jsonl-*/manifest.json")
    for content in ("[]", "{", '{"format": 9}', '{"format": 1, "index": 3, "source": "x"}'):
        manifest.write_text(content)
        with pytest.raises(InputError, match=r"manifest\.json is damaged|has format 9"):
            shards.open_prepared(str(tmp_path / "p"), source, BYTES, "", tmp_path)


def test_blocks_from_an_address_are_kept_within_a_bound():
    size = token_files.VERIFIED
    cache = token_files.BlockCache(3 * size)
    for number in range(5):
        cache.put(number, bytes([number]) * (size - number))
        assert cache.get(0) is not None  # which keeps it from being the oldest
    assert [number for number in range(5) if cache.get(number)] == [0, 3, 4]
    assert cache.get(4) == bytes([4]) * (size - 4)
    assert os.fstat(cache.file.fileno()).st_size <= 3 * size


@pytest.mark.parametrize("address", ["{}", "file://{}"])
def test_training_reads_the_same_rows_from_prepared_data(source, tmp_path, address):
    """Also where the text is gone, and with an objective whose rows are planned by a walk."""
    experiment = Experiment(
        objectives=(config.Causal(rate=0.5), config.SpanCorruption(rate=0.5)),
        data=Data(source=source, held_out=0.2, tokenizer="train:300", length=64, batch=8, cache=str(tmp_path / "c")),
    )
    prepared = replace(experiment, data=replace(experiment.data, prepared=str(tmp_path / "p")))
    said = []
    assert not preparing.prepare(prepared, Part(1, 2), 1, said.append)
    assert preparing.prepare(prepared, Part(0, 2), 1, said.append)
    assert "160 documents" in " ".join(said) or "128 documents" in said[-1]
    expected = data.open_corpus(experiment)
    for path in tmp_path.glob("*.jsonl"):
        path.unlink()
    elsewhere = replace(prepared.data, prepared=address.format(tmp_path / "p"), cache=str(tmp_path / "host"))
    corpus = data.open_corpus(replace(prepared, data=elsewhere))
    assert corpus.tokenizer.digest == expected.tokenizer.digest
    for step in (0, 7):
        for name in ARRAYS:
            assert np.array_equal(getattr(corpus.batch(step), name), getattr(expected.batch(step), name))
    assert next((tmp_path / "p").glob("*/plan-*")).is_dir()  # made by `prepare`, and not by each host


def test_what_prepare_needs_is_said_at_once():
    for options, wanted in (
        ([], "data.prepared: None; `prepare` writes to a folder"),
        (["--data.prepared", "gs://bucket/x"], "data.prepared: gs://bucket/x; `prepare` writes to a folder"),
        (["--part", "8/8"], "--part 8/8: should be I/N"),
    ):
        command = [sys.executable, "-P", "-m", "research", "prepare", "configs/quickstart.py", *options]
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
        assert done.returncode == 2 and f"error: {wanted}" in done.stderr


@pytest.mark.slow
def test_a_run_on_160_billion_tokens_begins_within_a_minute(tmp_path):
    """The files of tokens are sparse: 200 of 800 million tokens, 320 GB together."""
    files, tokens, length = 200, 800_000_000, 1000
    source, tokenizer = f"tokens:{tmp_path}/*.bin", tokenizers.load("integers:32000")
    folder = tmp_path / "p" / shards.home(source, tokenizer, "")
    shards.keep_tokenizer(tmp_path / "p", tokenizer)
    (folder / "index-0").mkdir(parents=True)
    zero = token_files.checksum(np.zeros(token_files.VERIFIED, np.uint8))
    rest = tokens * 2 % token_files.VERIFIED
    one = [zero] * (tokens * 2 // token_files.VERIFIED) + [token_files.checksum(np.zeros(rest, np.uint8))] * bool(rest)
    np.save(folder / "index-0" / "checksums.npy", np.tile(np.array(one, np.uint64), files))
    for number in range(files):
        (folder / f"shard-{number}").mkdir()
        with open(folder / f"shard-{number}" / "tokens.bin", "wb") as file:
            file.truncate(tokens * 2)
    block = np.full(tokens // length, length)
    offsets = tokenising.write_offsets(folder / "index-0", files * len(block), (block for _ in range(files)))
    pieces = [(f"shard-{number}/tokens.bin", tokens) for number in range(files)]
    tokenising.write_meta(folder / "index-0", source, 1, "uint16", "", offsets, pieces=pieces)
    content = {"format": shards.FORMAT, "source": source, "index": "index-0", "shards": []}
    (folder / shards.MANIFEST).write_text(json.dumps(content))
    experiment = Experiment(
        data=Data(source=source, tokenizer="integers:32000", prepared=str(tmp_path / "p"), cache=str(tmp_path / "c")),
        schedule=config.Schedule(steps=1, warmup=1),
        evaluation=config.Evaluation(every=0, samples=False, final_batches=1),
    )
    config.save(experiment, tmp_path / "experiment.json")
    begin = time.monotonic()
    command = [sys.executable, "-P", "-m", "research", "train", str(tmp_path / "experiment.json"), "--workdir"]
    done = subprocess.run([*command, str(tmp_path / "run")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (record,) = [each for each in records.read(tmp_path / "run" / records.FILE) if each["kind"] == "train"]
    assert sum(record["spent"].values()) < 60, record["spent"]
    print(f"first step after {sum(record['spent'].values()):.1f} s, all after {time.monotonic() - begin:.1f} s")
