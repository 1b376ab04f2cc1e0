"""What a checkpoint has answered, kept on disk: a line for each request, as soon as it is known. The same question is
never asked twice, and an evaluation that was killed resumes where it stopped."""

import dataclasses
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xxhash

from research.data.json_forms import count, fields, number, sequence, text
from research.errors import InputError
from research.inference.language_model import LanguageModel
from research.inference.prompting import PromptFormat
from research.inference.requests import Generation, Scorable, Score
from research.runtime import processes

Answer = Score | str
ENTRY, TEXT = fields({"key": text}), fields({"output": text})
SCORE = fields(
    {
        "kind": text,
        "log_probabilities": sequence(number),
        "greedy": lambda value: "" if isinstance(value, bool) else " is neither true nor false",
        "bytes": count,
        "truncated": count,
        "greedy_allowed": lambda value: "" if isinstance(value, bool) else " is neither true nor false",
    }
)


def fingerprint(model: LanguageModel, prompt_format: PromptFormat) -> str:
    """Changes with everything that changes answers."""
    hashed = xxhash.xxh3_128()
    for path, leaf in jax.tree_util.tree_leaves_with_path(model.params):
        hashed.update(jax.tree_util.keystr(path).encode())
        hashed.update(np.asarray(leaf).tobytes())
    how = prompt_format
    asked = (model.config, how.tokenizer.digest, how.objective, how.length, how.source_length)
    hashed.update(repr(asked).encode())
    return hashed.hexdigest()


class Cache:
    """The answers of one checkpoint, asked with one prompt format."""

    def __init__(self, path: Path | None) -> None:
        """Reads what is there; without a path, answers are kept in memory alone. A last line that is not whole was
        being written when the process was killed. Of several processes, which ask together, one reads and writes.

        Raises:
          InputError: if another line is not what `put` writes.
        """
        self._path = path
        self._answers: dict[str, Answer] = {}
        if path is None:
            return
        if path.is_dir():
            raise InputError(f"{path} is a folder, not a file of answers")
        content = processes.broadcast(path.read_bytes() if processes.is_main_process() and path.exists() else b"")
        whole = content[: content.rfind(b"\n") + 1]
        for place, line in enumerate(whole.split(b"\n")[:-1], start=1):
            try:
                entry = json.loads(line)
                wrong = ENTRY(entry) or (TEXT if "output" in entry else SCORE)(entry)
            except (ValueError, RecursionError) as error:
                wrong = f" is not JSON: {error}"
            if wrong:
                raise InputError(f"{path}:{place}: the answer{wrong}; delete the file to ask again")
            self._answers[entry.pop("key")] = _answer(entry)
        if processes.is_main_process() and len(whole) < len(content):
            os.truncate(path, len(whole))

    def get(self, request: Scorable | Generation, extra: Any = None) -> Answer | None:
        """The answer, if there is one. `extra` is what else was asked (forbidden tokens)."""
        return self._answers.get(_key(request, extra))

    def put(self, answers: Iterable[tuple[Scorable | Generation, Answer]], extra: Any = None) -> None:
        """Keeps answers, on disk before it returns."""
        new = {_key(request, extra): answer for request, answer in answers}
        self._answers |= new
        if self._path and processes.is_main_process():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps({"key": key, **_entry(answer)}) + "\n" for key, answer in new.items())


def _key(request: Scorable | Generation, extra: Any) -> str:
    return xxhash.xxh3_128_hexdigest(repr((request, extra)).encode())


def _entry(answer: Answer) -> dict[str, Any]:
    if isinstance(answer, str):
        return {"output": answer}
    # the shortest decimals that are read back as the same float32
    return {**vars(answer), "log_probabilities": [float(str(value)) for value in answer.log_probabilities]}


def _answer(entry: dict[str, Any]) -> Answer:
    if "output" in entry:
        return str(entry["output"])
    known = {each.name: entry[each.name] for each in dataclasses.fields(Score)}
    return Score(**{**known, "log_probabilities": np.array(entry["log_probabilities"], np.float32)})
