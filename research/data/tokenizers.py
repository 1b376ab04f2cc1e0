"""A tokenizer: a coder of ordinary text, and special tokens that no text can spell.

`Data.tokenizer` is one of
  bytes             the bytes of UTF-8, with a begin and an end of document
  characters        the alphabet of the source, nothing else
  integers:SIZE     for sources of integers
  train:PIECES      sentencepiece, trained on the training part of the source
  PATH              a sentencepiece model, a `tokenizer.json`, or a folder: Hugging Face's, GPT-2's (`encoder.json` and
                    `vocab.bpe`), a folder with one sentencepiece model, or one that `Tokenizer.save` wrote
  NAME              of a model on the Hugging Face hub
"""

import dataclasses
import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from research.data import hub
from research.data.tokenizer_backends import Bytes, Characters, HuggingFace, Integers, SentencePiece, TokenizerBackend
from research.errors import InputError
from research.objectives import Objective, Vocabulary

KINDS = {coder.kind: coder for coder in (Bytes, Characters, Integers, SentencePiece, HuggingFace)}
SENTINELS = 100  # as many as T5 has
FORMAT = 3  # of a tokenizer that is made from text
FILES = ("tokenizer*.json", "special_tokens_map.json", "vocab.json", "merges.txt", "*.model", "chat_template.jinja")


@dataclass(frozen=True)
class Tokenizer:
    """Text to ids and back. Ids of the coder come first; special tokens that it lacks have the ids after them."""

    coder: TokenizerBackend
    names: dict[int, str] = field(default_factory=dict)  # every special token, as it is shown
    bos: int | None = None
    eos: int | None = None
    mask: int | None = None
    sentinels: tuple[int, ...] = ()
    modes: dict[str, int] = field(default_factory=dict)
    chat_template: str | None = None  # Jinja: messages to the text that a chat model was trained on

    @cached_property
    def size(self) -> int:
        """One more than the largest id."""
        return max(self.coder.size, *(i + 1 for i in self.names), 0)

    def encode(self, text: str) -> list[int]:
        """Ordinary ids only. Raises InputError if the text has a character that the tokenizer cannot express."""
        return [int(i) for i in self.coder.encode([text])[0]]

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        """An int32 array for each text, computed in parallel where the library can."""
        return self.coder.encode(texts)

    def encode_marked(self, text: str) -> np.ndarray:
        """As `encode`, but what spells a special token becomes it: for text that a chat template has made."""
        by_name = {name: i for i, name in self.names.items()}
        longest_first = sorted(by_name, key=len, reverse=True)
        parts = re.split("(" + "|".join(map(re.escape, longest_first)) + ")", text) if by_name else [text]
        ids = [[by_name[part]] if part in by_name else self.encode(part) for part in parts if part]
        return np.array([i for part in ids for i in part], np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        """The text; special tokens, and ids that no token has, are left out."""
        return self.coder.decode([int(i) for i in ids if self._ordinary(int(i))])

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """Each token as text for display."""
        ids = [int(i) for i in ids]
        shown = iter(self.coder.pieces([i for i in ids if self._ordinary(i)]))
        return [next(shown) if self._ordinary(i) else self.names.get(i, f"<unused {i}>") for i in ids]

    def _ordinary(self, i: int) -> bool:
        return 0 <= i < self.coder.size and i not in self.names

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """What objectives know of it."""
        begins = self.coder.word_beginnings()
        if begins is not None:
            begins = np.concatenate([begins, np.ones(self.size - len(begins), bool)])
            begins[list(self.names)] = True
        return Vocabulary(
            self.size, self.bos, self.eos, self.mask, self.sentinels, self.modes, begins, frozenset(self.names)
        )

    @cached_property
    def digest(self) -> str:
        """A hash of everything that decides ids."""
        with tempfile.TemporaryDirectory() as folder:
            self.save(Path(folder))
            files = sorted(Path(folder).iterdir())
            return hashlib.sha256(
                b"\0".join(part for f in files for part in (f.name.encode(), f.read_bytes()))
            ).hexdigest()

    def save(self, folder: Path) -> None:
        """Writes a folder that `load` reads as the identical tokenizer."""
        folder.mkdir(parents=True, exist_ok=True)
        self.coder.save(folder)
        specials = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "coder"}
        (folder / "specials.json").write_text(json.dumps({"kind": self.coder.kind, **specials}, indent=1) + "\n")


def load(spec: str) -> Tokenizer:
    """The tokenizer of a path, of a hub name, `bytes` or `integers:SIZE`.

    Raises:
      InputError: if there is no such tokenizer, or if it must first be made from text (`make`).
    """
    kind, _, argument = spec.partition(":")
    if kind == "characters" or kind == "train":
        raise InputError(f"the tokenizer {spec!r} is made from text; load the folder that it was saved to")
    if spec == "bytes":
        return Tokenizer(Bytes(), {256: "<bos>", 257: "<eos>"}, bos=256, eos=257)
    if kind == "integers":
        if not argument.isdecimal() or int(argument) < 1:
            raise InputError(f"tokenizer {spec!r}: SIZE in integers:SIZE is a positive number")
        return Tokenizer(Integers(int(argument)))
    path = Path(spec).expanduser()
    return (
        _from_file(path)
        if path.is_file()
        else _from_folder(path if path.is_dir() else hub.folder(spec, FILES, needed=("tokenizer*",)))
    )


def make(spec: str, texts: Callable[[], Iterable[str]]) -> Tokenizer:
    """As `load`, but also makes the kinds that are made from text: `characters` and `train:PIECES`.

    Raises:
      InputError: if PIECES is not a number, or is too many for the text.
    """
    kind, _, argument = spec.partition(":")
    if spec == "characters":
        return Tokenizer(Characters.of(texts()))
    if kind == "train":
        if not argument.isdecimal():
            raise InputError(f"tokenizer {spec!r}: PIECES in train:PIECES is a number")
        return _with_sentencepiece_specials(SentencePiece.train(texts(), int(argument)))
    return load(spec)


def extend(tokenizer: Tokenizer, objectives: Sequence[Objective], longest: Sequence[int] | None = None) -> Tokenizer:
    """Adds the special tokens that the objectives need and the tokenizer lacks, with ids after its last.

    Args:
      longest: tokens of each objective's longest piece, which decide how many sentinels there must be.

    Sentinels are 100, or more if some piece needs more, and run downward as T5's do: on T5's file of 32,000 pieces
    `<extra_id_0>` is 32,099. Objectives whose outputs must end get an end-of-document token.
    """
    names, size = dict(tokenizer.names), tokenizer.size
    changes: dict[str, Any] = {"names": names}
    needs = [o.needs(tokens) for o, tokens in zip(objectives, longest or [0] * len(objectives), strict=True)]
    sentinels = max((one.sentinels for one in needs), default=0)

    def add(name: str) -> int:
        names[new := max(size, *(i + 1 for i in names), 0)] = name
        return new

    if sentinels and not tokenizer.sentinels:
        added = [add(f"<extra_id_{number}>") for number in reversed(range(max(SENTINELS, sentinels)))]
        changes["sentinels"] = tuple(reversed(added))
    if tokenizer.eos is None and any(one.eos for one in needs):
        changes["eos"] = add("<eos>")
    if tokenizer.mask is None and any(one.mask for one in needs):
        changes["mask"] = add("<mask>")
    modes = dict.fromkeys(mode for one in needs for mode in one.modes if mode not in tokenizer.modes)
    changes["modes"] = tokenizer.modes | {mode: add(mode) for mode in modes}
    return dataclasses.replace(tokenizer, **changes)


def _from_file(path: Path) -> Tokenizer:
    if path.suffix == ".json":
        return _with_huggingface_specials(HuggingFace.read(path), path.parent)
    return _with_sentencepiece_specials(SentencePiece.read(path))


def _from_folder(folder: Path) -> Tokenizer:
    if (folder / "specials.json").exists():
        return _saved(folder)
    if (folder / "tokenizer.json").exists():
        return _from_file(folder / "tokenizer.json")
    for vocabulary, merges in (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt")):
        for prefix in ("", "gpt2_"):
            files = folder / (prefix + vocabulary), folder / (prefix + merges)
            if all(file.exists() for file in files):
                return _with_huggingface_specials(HuggingFace.gpt2(*files), folder)
    models = sorted(folder.glob("*.model"))
    if len(models) == 1:
        return _from_file(models[0])
    raise InputError(
        f"no tokenizer in {folder}: it needs tokenizer.json, encoder.json and vocab.bpe, or one sentencepiece *.model"
    )


def _saved(folder: Path) -> Tokenizer:
    saved = json.loads((folder / "specials.json").read_text())
    coder = KINDS[saved.pop("kind")].load(folder)
    names = {int(i): name for i, name in saved.pop("names").items()}
    return Tokenizer(coder, names, sentinels=tuple(saved.pop("sentinels")), **saved)


def _with_sentencepiece_specials(coder: SentencePiece) -> Tokenizer:
    """Control and unknown symbols of the model are special."""
    model = coder.processor
    ids = [i for i in range(coder.size) if model.is_control(i) or model.is_unknown(i)]
    names = {i: str(model.id_to_piece(i)) for i in ids}
    bos, eos = (i if i >= 0 else None for i in (model.bos_id(), model.eos_id()))
    by_name = {name: i for i, name in names.items()}
    mask = by_name.get("<mask>", by_name.get("[MASK]"))
    return Tokenizer(coder, names, bos, eos, mask, _sentinels(by_name))


def _with_huggingface_specials(coder: HuggingFace, folder: Path) -> Tokenizer:
    """Roles are read from the files that `transformers` keeps beside; without them, from the usual names."""
    added = coder.tokenizer.get_added_tokens_decoder()
    names = {i: token.content for i, token in added.items() if token.special}
    by_name = {name: i for i, name in names.items()}
    files = [folder / name for name in ("special_tokens_map.json", "tokenizer_config.json")]
    written = [json.loads(file.read_text()) for file in files if file.exists()]
    roles: dict[str, Any] = {role: value for one in written for role, value in one.items() if role.endswith("_token")}

    template = folder / "chat_template.jinja"
    chat = next((one["chat_template"] for one in written if isinstance(one.get("chat_template"), str)), None)
    chat = template.read_text() if template.exists() else chat

    def find(*candidates: Any) -> int | None:
        contents = [one.get("content") if isinstance(one, dict) else one for one in candidates]
        return next((by_name[one] for one in contents if isinstance(one, str) and one in by_name), None)

    if roles:
        bos = find(roles.get("bos_token"), roles.get("cls_token"))
        eos = find(roles.get("eos_token"), roles.get("sep_token"))
        mask = find(roles.get("mask_token"))
    else:
        bos = find("<|begin_of_text|>", "<s>", "[CLS]", "<|endoftext|>")
        eos = find("<|end_of_text|>", "</s>", "[SEP]", "<|endoftext|>")
        mask = find("<mask>", "[MASK]")
    return Tokenizer(coder, names, bos, eos, mask, _sentinels(by_name), chat_template=chat)


def _sentinels(by_name: dict[str, int]) -> tuple[int, ...]:
    numbered = {
        int(name[10:-1]): i for name, i in by_name.items() if name[:10] == "<extra_id_" and name[10:-1].isdecimal()
    }
    return tuple(i for _, i in sorted(numbered.items()))
