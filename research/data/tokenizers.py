"""A tokenizer: a coder of ordinary text, and special tokens that no text can spell.

`Data.tokenizer` is one of
  bytes             the bytes of UTF-8, with a begin and an end of document
  characters        the alphabet of the source, nothing else
  integers:SIZE     for sources of integers
  train:PIECES      sentencepiece, trained on the training part of the source
  PATH              a sentencepiece model, a `tokenizer.json`, or a folder: one that `Tokenizer.save` wrote, or as
                    `transformers` keeps tokenizers (`tokenizer_folders.py`)
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

from research.data import hub, json_files, tokenizer_folders
from research.data.huggingface_backend import HuggingFace
from research.data.tokenizer_backends import (
    MOST_INTEGERS,
    Bytes,
    Characters,
    Integers,
    SentencePiece,
    TokenizerBackend,
)
from research.errors import InputError
from research.objectives import Objective, Vocabulary
from research.runtime import files

KINDS = {coder.kind: coder for coder in (Bytes, Characters, Integers, SentencePiece, HuggingFace)}
SENTINELS = 100  # as many as T5 has
FORMAT = 3  # of a tokenizer that is made from text
FILES = (
    *("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "config.json"),
    *("vocab.json", "merges.txt", "encoder.json", "vocab.bpe", "vocab.txt", "*.model"),
)


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
    ends: tuple[int, ...] = ()  # what ends generation, where that is not eos alone
    roles: dict[str, str] = field(default_factory=dict)  # "bos_token" and so on -> how chat templates write it

    @cached_property
    def size(self) -> int:
        """One more than the largest id."""
        return max(self.coder.size, *(i + 1 for i in self.names), 0)

    def encode(self, text: str) -> list[int]:
        """Ordinary ids only.

        Raises:
          InputError: if the text has a character that the tokenizer cannot express, or half of a surrogate pair, as
            arguments have where the locale is not that of the terminal.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"the text has U+{ord(text[error.start]):04X} at place {error.start}, which is no character; where the "
                "terminal writes UTF-8, set PYTHONUTF8=1"
            ) from error
        return [int(i) for i in self.coder.encode([text])[0]]

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        """An int32 array for each text, computed in parallel where the library can."""
        return self.coder.encode(texts)

    def encode_marked(self, text: str) -> np.ndarray:
        """As `encode`, but what spells a special token becomes it: for text that a chat template has made."""
        return self.split_marked(text, -1)[1]

    def split_marked(self, text: str, at: int) -> tuple[np.ndarray, np.ndarray]:
        """As `encode_marked` of the whole text, in two: the tokens that end at the character `at` or before it, and
        the others. Only a backend without special tokens of its own is given the two sides apart."""
        coder, ids, ends = self.coder, [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
        own = coder.special if isinstance(coder, HuggingFace) else {}
        outside = {name: i for i, name in self.names.items() if i not in own}
        start = 0
        for part in _parts(text, outside):
            stop = start + len(part)
            if part in outside:
                ids.append(np.array([outside[part]], np.int32))
                ends.append(np.array([stop]))
            elif isinstance(coder, HuggingFace):
                encoded, inside = coder.encode_marked(part)
                ids.append(encoded)
                ends.append(start + inside)
            else:
                for piece, end in ((part[: max(at - start, 0)], min(at, stop)), (part[max(at - start, 0) :], stop)):
                    (encoded,) = coder.encode([piece]) if piece else ids[:1]
                    ids.append(encoded)
                    ends.append(np.full(len(encoded), end))
            start = stop
        together = np.concatenate(ids)
        cut = int(np.searchsorted(np.concatenate(ends), at, side="right"))
        return together[:cut], together[cut:]

    @property
    def stops(self) -> tuple[int, ...]:
        """Every token that ends generation."""
        return self.ends or (() if self.eos is None else (self.eos,))

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
            self.size,
            self.bos,
            self.eos,
            self.mask,
            self.sentinels,
            self.modes,
            begins,
            self.stops,
            frozenset(self.names),
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
        specials = {name: value for name, value in specials.items() if name not in ("ends", "roles") or value}
        text = json.dumps({"kind": self.coder.kind, **specials}, indent=1) + "\n"
        (folder / "specials.json").write_text(text, encoding="utf-8")


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
        if not argument.isdecimal() or len(argument) > 10 or not 1 <= int(argument) <= MOST_INTEGERS:
            raise InputError(f"tokenizer {spec!r}: SIZE in integers:SIZE is a positive number, at most {MOST_INTEGERS}")
        return Tokenizer(Integers(int(argument)))
    path = files.expanded(spec)
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
        if not argument.isdecimal() or len(argument) > 8:
            raise InputError(f"tokenizer {spec!r}: PIECES in train:PIECES is a number of at most 8 digits")
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
        return Tokenizer(**tokenizer_folders.fields(HuggingFace.read(path), tokenizer_folders.beside(path.parent)))
    return _with_sentencepiece_specials(SentencePiece.read(path))


def _from_folder(folder: Path) -> Tokenizer:
    if (folder / "specials.json").exists():
        return _saved(folder)
    if (read := tokenizer_folders.read(folder)) is not None:
        return Tokenizer(**read)
    models = sorted(file.name for file in folder.glob("*.model"))
    if len(models) == 1 and (file := json_files.find(folder, models[0])) is not None:
        return _from_file(file)
    several = f"; of {', '.join(models)} name one" if models else ""
    raise InputError(
        f"no tokenizer in {folder}: it needs tokenizer.json, vocab.json and merges.txt, encoder.json and vocab.bpe, "
        f"vocab.txt, or one sentencepiece *.model{several}"
    )


def _saved(folder: Path) -> Tokenizer:
    """What `Tokenizer.save` wrote. Raises InputError if it is damaged."""
    path = folder / "specials.json"
    saved = json_files.read_object(path)

    def ids(name: str) -> tuple[int, ...]:
        value = saved.pop(name, [])
        if not isinstance(value, list) or not all(map(_is_id, value)):
            raise InputError(f"{path}: {name} is {value!r}, not a list of ids")
        return tuple(value)

    def table(name: str, value_is: Callable[[Any], bool]) -> dict[str, Any]:
        value = saved.pop(name, {})
        if not isinstance(value, dict) or not all(map(value_is, value.values())):
            raise InputError(f"{path}: {name} is not an object with a usable value for each name")
        return value

    kind = saved.pop("kind", None)
    if not isinstance(kind, str) or kind not in KINDS:
        raise InputError(f"{path}: kind is {kind!r}; these are: {', '.join(KINDS)}")
    given = table("names", lambda value: isinstance(value, str))
    if not all(i.isdecimal() and len(i) < 11 and _is_id(int(i)) for i in given):
        raise InputError(f"{path}: names is not an object from ids to names")
    tables = {"modes": table("modes", _is_id), "roles": table("roles", lambda value: isinstance(value, str))}
    made = {"names": {int(i): name for i, name in given.items()}, "sentinels": ids("sentinels"), "ends": ids("ends")}
    template = saved.pop("chat_template", None)
    single = {role: saved.pop(role, None) for role in ("bos", "eos", "mask")}
    if saved or not (template is None or isinstance(template, str)):
        raise InputError(f"{path}: {next(iter(saved), 'chat_template')} is not of a saved tokenizer")
    if not all(i is None or _is_id(i) for i in single.values()):
        raise InputError(f"{path}: bos, eos and mask are ids or null, not {single}")
    coder = KINDS[kind].load(folder)
    tokenizer = Tokenizer(coder, **made, **tables, **single, chat_template=template)  # type: ignore[arg-type]
    named = [*tokenizer.sentinels, *tokenizer.ends, *tokenizer.modes.values(), *filter(None, single.values())]
    most = max([coder.size, *(i + 1 for i in tokenizer.names)])
    if most > coder.size + len(tokenizer.names) + 1 or any(i >= most for i in named):
        raise InputError(f"{path}: an id is larger than the {coder.size} pieces and {len(tokenizer.names)} names allow")
    return tokenizer


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value < MOST_INTEGERS


def _with_sentencepiece_specials(coder: SentencePiece) -> Tokenizer:
    """Control and unknown symbols of the model are special."""
    model = coder.processor
    ids = [i for i in range(coder.size) if model.is_control(i) or model.is_unknown(i)]
    names = {i: str(model.id_to_piece(i)) for i in ids}
    bos, eos = (i if i >= 0 else None for i in (model.bos_id(), model.eos_id()))
    by_name = {name: i for i, name in names.items()}
    mask = by_name.get("<mask>", by_name.get("[MASK]"))
    return Tokenizer(coder, names, bos, eos, mask, tokenizer_folders.sentinels(by_name))


def _parts(text: str, names: Iterable[str]) -> list[str]:
    """The text, cut around the names that it spells; longer names are preferred."""
    longest_first = sorted(names, key=len, reverse=True)
    parts = re.split("(" + "|".join(map(re.escape, longest_first)) + ")", text) if longest_first else [text]
    return [part for part in parts if part]
