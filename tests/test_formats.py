"""Every stored format has a number, which is raised by hand. A test fails if stored bytes change and the number does
not: then either the change is a mistake, or the number wants to be raised and the new hash put here."""

import hashlib
import json
from pathlib import Path

import jax.numpy as jnp
import pytest

from research import config
from research.config import Causal, Data, Experiment, Masked, TextToText, storage
from research.data import packing, sources, store, tokenising, tokenizers
from research.data.packing import DocumentRange, RowShape
from research.errors import InputError
from research.runs import owner, records, run_folder
from research.training import checkpoint
from research.training.state import TrainState

GOLDEN = {
    ("token store", 4): "1a90b58c6025b54a",
    ("plan", 3): "a6dcf903a077097d",
    ("tokenizer", 3): "a6311739bad59238",
    ("experiment.json", 2): "7269dc8380c33ee8",
    ("metrics.jsonl", 2): "0b021748774e1357",
    ("result.json", 2): "29ca42c255527be1",
    ("checkpoint", 2): "a95927c9089fd50d",
    ("owner.json", 1): "7e04c09eb911df8e",
}


def digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def contents(folder: Path, without: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """Name and hash of every file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in without)
    return [(str(path.relative_to(folder)), hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]


def text(folder: Path) -> sources.DataSource:
    path = folder / "text.jsonl"
    path.write_text("".join(json.dumps({"text": f"{n} and {n * n}"}) + "\n" for n in range(40)))
    return sources.open_source(f"jsonl:{path}#text")


def tokens(folder: Path) -> object:
    made = tokenising.prepare(text(folder), tokenizers.load("bytes"), folder)
    meta = {name: value for name, value in made.meta.items() if name != "source"}  # it has the path of this test
    return [contents(made.folder, ("meta.json",)), sorted(made.meta), meta["documents"], meta["dtype"]]


def plan(folder: Path) -> object:
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps({"a": "x" * (n % 7), "b": "y" * (n % 5 + 1)}) + "\n" for n in range(1, 60)))
    made = tokenising.prepare(sources.open_source(f"jsonl:{path}#a,b"), tokenizers.load("bytes"), folder)
    packing.plan(DocumentRange(made, 0, made.documents), TextToText(), RowShape(32, 32, False))
    (stored,) = folder.glob("plan-*")
    return contents(stored)


def tokenizer(folder: Path) -> object:
    tokenizers.make("characters", lambda: ["abc", "cde"]).save(folder / "made")
    return contents(folder / "made")


def experiment(folder: Path) -> object:
    """The frame and how a class is named; a new field with a default is no new format."""
    config.save(Experiment(objectives=(Causal(), Masked()), data=Data()), folder / "experiment.json", run="r")
    tree = json.loads((folder / "experiment.json").read_text())
    return [sorted(tree), [objective["objective"] for objective in tree["experiment"]["objectives"]]]


def metrics(folder: Path) -> object:
    file = records.RecordFile(folder / records.FILE, 0, print)
    file.write({"kind": "train", "step": 1, "losses": {"causal": 1.5}})
    file.close()
    return (folder / records.FILE).read_text()


def result(folder: Path) -> object:
    run_folder.write_result(folder, {"steps": 1})
    return (folder / "result.json").read_text()


def manifest(folder: Path) -> object:
    state = TrainState(jnp.int32(1), {"a": jnp.ones(2)}, {}, jnp.uint32(0))
    with checkpoint.manager(folder, config.Checkpoint()) as manager:
        checkpoint.save(manager, state, progress={"meter": {}})
    saved = folder / checkpoint.FOLDER / "1"
    names = sorted(path.name for path in saved.iterdir() if not path.name.startswith("_"))
    return [names, (saved / checkpoint.MANIFEST / "metadata").read_text()]


def lock(folder: Path) -> object:
    with owner.owned(folder, print):
        return sorted(json.loads((folder / owner.FILE).read_text()))


STORED = {
    "token store": (store.FORMAT, tokens),
    "plan": (packing.FORMAT, plan),
    "tokenizer": (tokenizers.FORMAT, tokenizer),
    "experiment.json": (storage.FORMAT, experiment),
    "metrics.jsonl": (records.FORMAT, metrics),
    "result.json": (run_folder.RESULT_FORMAT, result),
    "checkpoint": (checkpoint.FORMAT, manifest),
    "owner.json": (owner.FORMAT, lock),
}


@pytest.mark.parametrize("name", STORED)
def test_stored_bytes_change_only_with_the_number(name, tmp_path):
    number, make = STORED[name]
    assert GOLDEN.get((name, number)) == digest(make(tmp_path)), f"raise the format of {name}, or mend what changed it"


@pytest.mark.parametrize(
    ("file", "read"),
    [
        ("experiment.json", lambda folder: config.load(folder / "experiment.json")),
        ("result.json", run_folder.read_result),
    ],
)
def test_another_format_is_refused_with_both_numbers(tmp_path, file, read):
    (tmp_path / file).write_text(json.dumps({"format": 99, "experiment": {}}))
    with pytest.raises(InputError, match=r"has format 99; this version reads 1 and 2"):
        read(tmp_path)


def test_a_checkpoint_of_another_format_is_refused_with_both_numbers(tmp_path):
    manifest(tmp_path)
    path = tmp_path / checkpoint.FOLDER / "1" / checkpoint.MANIFEST / "metadata"
    content = {name: value for name, value in json.loads(path.read_text()).items() if name != "crc"} | {"format": 99}
    path.write_text(json.dumps(content | {"crc": checkpoint._crc(content)}))
    with pytest.raises(InputError, match=r"has format 99; this version reads 1 and 2"):
        checkpoint.read_progress(tmp_path, 1)
