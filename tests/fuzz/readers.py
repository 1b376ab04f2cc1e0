"""The readers, each with a valid input to begin with: `make` fills a folder, `read` reads all that is in it."""

import gzip
import json
import lzma
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from research.data import sources, store, tokenising, tokenizers
from research.data.crc32c import masked_crc32c
from tests.fuzz import model_files

TEXTS = ("one text", "été, 世界 🎉", "a longer text " * 20, "x")
RECORDS = [{"text": text, "other": text[::-1], "n": number} for number, text in enumerate(TEXTS)]
CONVERSATION = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Who are you?"},
    {"role": "assistant", "content": "A model."},
]


@dataclass(frozen=True)
class Reader:
    """How files of one kind are made and read."""

    make: Callable[[Path], None]
    read: Callable[[Path], Any]
    seconds: float = 5.0  # that one input may take
    memory: int = 1 << 30  # bytes that it may take


def _source(pattern: str) -> Callable[[Path], Any]:
    return lambda folder: list(sources.source_records(pattern.replace("@", str(folder))))


def _lines(entries: list[Any]) -> bytes:
    return "".join(json.dumps(entry) + "\n" for entry in entries).encode()


def _jsonl(folder: Path) -> None:
    (folder / "x.jsonl").write_bytes(_lines(RECORDS))


def _text(folder: Path) -> None:
    for number, text in enumerate(TEXTS):
        (folder / f"{number}.txt").write_bytes(text.encode())


def _compressed(folder: Path) -> None:
    import pyarrow

    lines = _lines(RECORDS * 20)
    (folder / "x.jsonl.gz").write_bytes(gzip.compress(lines))
    (folder / "x.jsonl.xz").write_bytes(lzma.compress(lines))
    (folder / "x.jsonl.zst").write_bytes(pyarrow.compress(lines, codec="zstd", asbytes=True))


def _chat(folder: Path) -> None:
    called = {"tool_calls": [{"name": "add", "arguments": {"a": 1}}]}
    answered = [*CONVERSATION[:2], CONVERSATION[2] | called]
    entries = [{"messages": answered, "tools": [{"name": "add"}]}, {"prompt": "Who?", "completion": "I."}]
    (folder / "x.jsonl").write_bytes(_lines(entries))


def _parquet(folder: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({name: [record[name] for record in RECORDS] for name in RECORDS[0]})
    pyarrow.parquet.write_table(table, folder / "x.parquet")


def _tokens(folder: Path) -> None:
    np.save(folder / "a.npy", np.arange(60, dtype=np.uint16).reshape(3, 20))
    np.save(folder / "b.npy", np.arange(50, dtype=np.int32))
    np.arange(100, dtype=np.uint16).tofile(folder / "c.bin")


def _read_tokens(folder: Path) -> Any:
    names = [f"tokens:{folder}/{pattern}" for pattern in ("*.npy", "*.bin")]
    found = [record for name in names for record in sources.source_records(name)]
    return [np.sum(record.fields) for record in found if isinstance(getattr(record, "fields", None), np.ndarray)]


def _store(folder: Path) -> None:
    _jsonl(folder)
    prepared = tokenising.prepare(
        sources.open_source(f"jsonl:{folder}/x.jsonl#text"), tokenizers.load("bytes"), folder / "cache"
    )
    for file in prepared.folder.iterdir():
        file.rename(folder / file.name)
    (folder / "x.jsonl").unlink()
    for left in sorted((folder / "cache").rglob("*"), reverse=True):
        left.rmdir() if left.is_dir() else left.unlink()
    (folder / "cache").rmdir()


def _read_store(folder: Path) -> Any:
    read = store.Store(folder)
    return [read.part(document, part) for document in range(read.documents) for part in range(read.parts)], read.skipped


@cache
def _builder() -> Any:
    import tensorflow_datasets as tfds

    class FuzzedTexts(tfds.core.GeneratorBasedBuilder):
        """Two texts and a number."""

        VERSION = tfds.core.Version("1.0.0")
        code_path = None

        def _info(self) -> Any:
            features = {"text": tfds.features.Text(), "n": tfds.features.Scalar(np.int64)}
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager: Any) -> Any:
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Any:
            for number, text in enumerate(TEXTS):
                yield f"{number}", {"text": text, "n": number}

    return FuzzedTexts


def _array_record(folder: Path) -> None:
    builder = _builder()(data_dir=folder / "made", file_format="array_record")
    builder.download_and_prepare()
    for file in Path(builder.data_dir).iterdir():
        file.rename(folder / file.name)
    for left in sorted((folder / "made").rglob("*"), reverse=True):
        left.rmdir()
    (folder / "made").rmdir()


def tfrecord(raw: bytes) -> bytes:
    """A record as TensorFlow writes it."""
    length = struct.pack("<Q", len(raw))
    return length + struct.pack("<I", masked_crc32c(length)) + raw + struct.pack("<I", masked_crc32c(raw))


def _tfrecord(folder: Path) -> None:
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    _array_record(folder)
    for file in list(folder.iterdir()):
        target = folder / file.name.replace("array_record", "tfrecord")
        if "array_record" in file.name:
            with ArrayRecordDataSource([str(file)]) as records:
                target.write_bytes(b"".join(map(tfrecord, records.__getitems__(list(range(len(records)))))))
            file.unlink()
        else:
            file.write_text(file.read_text().replace("array_record", "tfrecord"))


def _task(folder: Path) -> None:
    fields = {"q": "text", "options": "[text, other]", "gold": "n % 2"}
    task = {
        "name": "test",
        "about": "a test",
        "licence": "none",
        "kind": "choice",
        "sources": [{"file": "records.jsonl", "where": "n >= 0", "fields": fields}],
        "context": "{{ q | sub('a', 'b') }} {% for o in options %}{{ o }}{% endfor %}",
        "continuation": " {{ option }}",
        "options": "options",
        "metrics": ["accuracy", "greedy"],
        "shots": 1,
        "tokens": 8,
    }
    (folder / "task.yaml").write_text(json.dumps(task))
    (folder / "records.jsonl").write_bytes(_lines([{**record, "other": "!"} for record in RECORDS]))


def _read_task(folder: Path) -> Any:
    from research.evaluation import tasks

    return tasks.open_task(tasks.load_task(str(folder / "task.yaml")), [folder])


def _generated(folder: Path) -> None:
    _task(folder)
    task = json.loads((folder / "task.yaml").read_text())
    task |= {
        "sources": [{"generate": "arithmetic", "arguments": {"operation": "plus", "digits": 2, "count": 5}}],
        "context": "{{ a }} + {{ b }} =",
    }
    (folder / "task.yaml").write_text(json.dumps(task))
    (folder / "records.jsonl").unlink()


def _run(folder: Path) -> None:
    from tests.analysis import runs

    runs.write(folder)
    runs.evaluate(folder)


def _read_run(folder: Path) -> Any:
    from research.analysis import page, runs

    return page.html(runs.read([folder]))


def _metrics(folder: Path) -> None:
    from tests.analysis import runs

    runs.write(folder)
    for file in folder.rglob("*"):
        if file.is_file() and file.name != "metrics.jsonl":
            file.unlink()


def _read_metrics(folder: Path) -> Any:
    from research.runs import clock, records

    found = records.read(folder / "metrics.jsonl")
    return clock.Clock(1e9, found, 10).now()


def _experiment(folder: Path) -> None:
    from research import config
    from research.config import Causal, Experiment, Lora, Masked, Model, SpanCorruption

    experiment = Experiment(model=Model(lora=Lora()), objectives=(Causal(), Masked(), SpanCorruption()))
    config.save(experiment, folder / "experiment.json", commit=None)


def _read_experiment(folder: Path) -> Any:
    from research import config
    from research.config import validation

    experiment = config.load(folder / "experiment.json")
    validation.validate(experiment)
    return experiment


def _answers(folder: Path) -> None:
    from research.evaluation.answer_cache import Cache
    from research.inference.requests import Continuation, Score

    score = Score("exact", np.array([-0.5, -1.25], np.float32), True, 5, 0)
    Cache(folder / "answers.jsonl").put([(Continuation("a", f" {number}"), score) for number in range(3)])


def _read_answers(folder: Path) -> Any:
    from research.evaluation.answer_cache import Cache

    return Cache(folder / "answers.jsonl")


READERS = {
    "jsonl": Reader(_jsonl, _source("jsonl:@/x.jsonl#text,other")),
    "text": Reader(_text, _source("text:@/*.txt")),
    "compressed": Reader(_compressed, _source("jsonl:@/x.jsonl.*#text")),
    "chat": Reader(_chat, _source("chat:@/x.jsonl")),
    "parquet": Reader(_parquet, _source("parquet:@/x.parquet#text")),
    "tokens": Reader(_tokens, _read_tokens),
    "store": Reader(_store, _read_store),
    "array_record": Reader(_array_record, _source("tfds:@:train#text")),
    "tfrecord": Reader(_tfrecord, _source("tfds:@:train#text")),
    "task": Reader(_task, _read_task, seconds=30, memory=3 << 30),
    "generated_task": Reader(_generated, _read_task, seconds=60, memory=3 << 30),
    "metrics": Reader(_metrics, _read_metrics),
    "report": Reader(_run, _read_run, memory=8 << 30),
    "experiment": Reader(_experiment, _read_experiment),
    "answers": Reader(_answers, _read_answers),
    "saved_tokenizer": Reader(model_files.saved, model_files.encoded, seconds=20),
    "tokenizer_folder": Reader(model_files.folder_of_json, model_files.encoded, seconds=20),
    "sentencepiece": Reader(model_files.pieces, model_files.encoded),
    "chat_template": Reader(model_files.template, model_files.rendered, seconds=30),
    "huggingface": Reader(model_files.huggingface, model_files.opened, seconds=20),
    "gguf": Reader(model_files.gguf, model_files.opened, seconds=20),
}
