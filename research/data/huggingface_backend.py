"""Tokenizers of Hugging Face's `tokenizers` library."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import tokenizers as library

from research.data import expressions_worker, json_files
from research.data.tokenizer_backends import PROBE
from research.errors import InputError

T = TypeVar("T")
APART = "\U0010ffff"  # marks the names that special tokens have where ordinary text is encoded
PROBES = 64  # tokens of which each is tried as a text
SECONDS = 10.0  # within which a process of its own has to try its expressions, for which usual ones need milliseconds
FEW = 1024  # ids that a tokenizer may leave unused besides as many as it has tokens


@dataclass(frozen=True)
class HuggingFace:
    """A tokenizer of the `tokenizers` library; `text` is the content of its `tokenizer.json`."""

    text: str
    kind: ClassVar[str] = "huggingface"

    @cached_property
    def tokenizer(self) -> library.Tokenizer:
        """As in the file: it finds special tokens in text, as a chat template writes them."""
        return _opened(self.text)

    @cached_property
    def _ordinary(self) -> library.Tokenizer:
        """Encodes ordinary text: no text becomes a special token, whatever it spells."""
        content = json.loads(self.text)
        if content["model"].get("dropout"):
            content["model"]["dropout"] = None  # which would give other ids each time
        tokenizer = _opened(json.dumps(_without_special_pieces(content)))
        tokenizer.encode_special_tokens = True
        return tokenizer

    @cached_property
    def size(self) -> int:
        return max(self.tokenizer.get_vocab().values()) + 1

    @cached_property
    def special(self) -> dict[int, str]:
        """The special tokens of the file: those that no text becomes."""
        return special_tokens(json.loads(self.text))

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        encoded = attempt(
            lambda: self._ordinary.encode_batch_fast(list(texts), add_special_tokens=False),
            "the tokenizer cannot express the text",
        )
        out = [np.array(one.ids, np.int32) for one in encoded]
        for number, text in enumerate(texts):
            if APART in text and text != APART:  # which must not spell one of our own names
                out[number] = np.concatenate(self.encode([p for p in re.split(f"(?<={APART})|(?={APART})", text) if p]))
        return out

    def encode_marked(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Ids of a text in which special tokens are found, and at which character of it each token ends."""
        encoded = attempt(
            lambda: self.tokenizer.encode(text, add_special_tokens=False), "the tokenizer cannot express the text"
        )
        ends = np.array([end for _, end in encoded.offsets], np.int64)
        return np.array(encoded.ids, np.int32), np.maximum.accumulate(ends) if len(ends) else ends

    @cached_property
    def probe(self) -> str:
        """A text of which the tokenizer makes ids."""
        ordinary = [i for i in range(self.size) if i not in self.special][:PROBES]
        for text in (PROBE, *(self.tokenizer.decode([i], skip_special_tokens=False) for i in ordinary)):
            try:
                if self.tokenizer.encode(text, add_special_tokens=False).ids:
                    return text
            except Exception:  # of WordLevel, which raises it on words that it does not have
                continue
        raise InputError(f"the tokenizer makes no ids of any of its {self.size} tokens")

    def frame(self) -> tuple[list[int], list[int]]:
        """What the file puts before and after every text."""
        plain = self.tokenizer.encode(self.probe, add_special_tokens=False).ids
        framed = self.tokenizer.encode(self.probe).ids
        more = len(framed) - len(plain)
        for start in range(more + 1):
            if framed[start : start + len(plain)] == plain:
                return framed[:start], framed[start + len(plain) :]
        raise InputError("the tokenizer's post-processor changes the text between the tokens that it adds")

    def decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=False))

    @cached_property
    def _bytes(self) -> bool:
        """Whether pieces are bytes in GPT-2's disguise."""
        return '"ByteLevel"' in json.dumps(json.loads(self.text).get("decoder"))

    def pieces(self, ids: list[int]) -> list[str]:
        if self._bytes:
            return [self.tokenizer.decode([i], skip_special_tokens=False) for i in ids]
        return [(self.tokenizer.id_to_token(i) or "").replace("\u2581", " ") for i in ids]

    def word_beginnings(self) -> np.ndarray:
        pieces = self.pieces(list(range(self.size)))
        if json.loads(self.text)["model"].get("type") == "WordPiece":
            return np.array([not piece.startswith("##") for piece in pieces])
        return np.array([piece[:1].isspace() for piece in pieces])

    def with_tokens(self, tokens: Iterable[library.AddedToken]) -> "HuggingFace":
        """With more added tokens, or with other properties for those that it has."""
        changed = library.Tokenizer.from_str(self.text)
        for token in tokens:
            (changed.add_special_tokens if token.special else changed.add_tokens)([token])
        return HuggingFace(changed.to_str())

    def without_tokens(self, ids: Iterable[int]) -> "HuggingFace":
        """Without some added tokens, none of which is a piece of the model."""
        content, dropped = json.loads(self.text), set(ids)
        content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] not in dropped]
        return HuggingFace(json.dumps(content, ensure_ascii=False))

    def save(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text(self.text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "HuggingFace":
        return cls.read(folder / "tokenizer.json")

    @classmethod
    def read(cls, path: Path) -> "HuggingFace":
        """Raises InputError if the file is not of the `tokenizers` library, or is damaged."""
        return cls.parse(json_files.read_text(path), path)

    @classmethod
    def parse(cls, text: str, where: object) -> "HuggingFace":
        """As `read`, of what is in the file `where`."""

        def tried() -> HuggingFace:
            content = json_files.parse(text, where)
            _check_ids(content)
            _check_expressions(json.dumps([content.get(name) for name in expressions_worker.PARTS]))
            made = cls(text)
            for token in content.get("added_tokens") or []:
                if (got := made.tokenizer.token_to_id(token["content"])) != token["id"]:
                    raise ValueError(f"its added token {token['content']!r} has the id {token['id']}, but gets {got}")
            (ids,) = made.encode([made.probe])
            made.decode(ids.tolist())
            made.pieces(ids.tolist())
            made.frame()
            return made

        return attempt(tried, f"{where} is not a tokenizer of the Hugging Face library")

    @classmethod
    def of(cls, tokenizer: library.Tokenizer) -> "HuggingFace":
        return cls(tokenizer.to_str())


def attempt(f: Callable[[], T], complaint: str) -> T:
    """What `f` gives. Raises InputError with the complaint if the library fails: it may even panic, which is no
    `Exception` in Python."""
    try:
        return f()
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise InputError(f"{complaint}: {error or type(error).__name__}") from error


def special_tokens(content: dict[str, Any]) -> dict[int, str]:
    """The special tokens of a `tokenizer.json`. A single character that is a piece of the model is none, though its
    author may use it as padding: no text with it could be encoded."""
    pieces = _pieces(content["model"])
    return {
        token["id"]: token["content"]
        for token in content.get("added_tokens") or []
        if token.get("special") and not (len(token["content"]) == 1 and token["content"] in pieces)
    }


def _opened(text: str) -> library.Tokenizer:
    tokenizer = library.Tokenizer.from_str(text)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _pieces(model: dict[str, Any]) -> set[str]:
    vocab = model["vocab"]
    return set(vocab) if isinstance(vocab, dict) else {piece for piece, _ in vocab}


def _without_special_pieces(content: dict[str, Any]) -> dict[str, Any]:
    """With special tokens under names that no text spells, so that the model does not find them as pieces either (as
    WordLevel, WordPiece and Unigram would, and BPE where merges make them). Ids stay."""
    special, model = special_tokens(content), content["model"]
    apart = {name: f"{APART}{i}{APART}" for i, name in special.items()}
    for token in content.get("added_tokens") or []:
        token["special"] = token["content"] in apart
        token["content"] = apart.get(token["content"], token["content"])
    content["post_processor"] = None  # it names them, and adds nothing here
    vocab = model["vocab"]
    model["vocab"] = (
        {apart.get(piece, piece): i for piece, i in vocab.items()}
        if isinstance(vocab, dict)
        else [[apart.get(piece, piece), score] for piece, score in vocab]
    )
    if isinstance(model.get("unk_token"), str):
        model["unk_token"] = apart.get(model["unk_token"], model["unk_token"])
    if "merges" in model:
        prefix = len(model.get("continuing_subword_prefix") or "")
        pairs = [m.split(" ", 1) if isinstance(m, str) else m for m in model["merges"]]
        model["merges"] = [(a, b) for a, b in pairs if not {a, b, a + b, a + b[prefix:]} & apart.keys()]
    return content


def _check_ids(content: Any) -> None:
    """Raises ValueError if ids are not what the number of tokens bears out."""
    added, vocab = content.get("added_tokens") or [], content["model"]["vocab"]
    numbers = [token["id"] for token in added] + (list(vocab.values()) if isinstance(vocab, dict) else [])
    most = 2 * (len(vocab) + len(added)) + FEW
    wrong = next((i for i in numbers if type(i) is not int or not 0 <= i < most), None)
    if wrong is not None:
        raise ValueError(f"the id {wrong!r} of a tokenizer with {len(vocab)} pieces and {len(added)} added tokens")
    if not len(vocab) + len(added):
        raise ValueError("it has no tokens")


@lru_cache(maxsize=64)
def _check_expressions(parts: str) -> None:
    """Raises TimeoutError if a regular expression in these parts is slow on long repetitions: the library bounds what
    it tries at one place of a text, but not the sum over its places, and nothing could end it in this process."""
    if '"Regex"' not in parts:
        return
    command = [sys.executable, "-I", str(Path(__file__).with_name("expressions_worker.py"))]
    try:
        subprocess.run(command, input=parts.encode(), stderr=subprocess.DEVNULL, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise TimeoutError(
            f"its regular expressions take more than {SECONDS:g} seconds on a page of repetitions"
        ) from None
