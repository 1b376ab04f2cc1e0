"""Text to token ids and back: one class for each kind of tokenizer, all with the same face, none with special tokens.

A coder knows ordinary tokens only: no text ever becomes a special token, whatever it spells. Special tokens are the
business of `tokenizers.Tokenizer`, which wraps a coder.
"""

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import sentencepiece

from research.data import json_files, sentencepiece_conversion
from research.errors import InputError

LONGEST_LINE = 1 << 24  # bytes; sentencepiece would leave longer lines out
MOST_INTEGERS = 1 << 31  # ids are int32
PROBE = "A text, 12 3.\n"  # a tokenizer that cannot encode it is damaged


class TokenizerBackend(Protocol):
    """What a kind of tokenizer must do."""

    kind: ClassVar[str]

    @property
    def size(self) -> int:
        """Number of ids, those of special tokens in its file included."""
        ...

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """An int32 array of ids for each text."""
        ...

    def decode(self, ids: list[int]) -> str:
        """The text of ordinary ids; what is not valid UTF-8 becomes U+FFFD."""
        ...

    def pieces(self, ids: list[int]) -> list[str]:
        """Each ordinary id as text for display."""
        ...

    def word_beginnings(self) -> np.ndarray | None:
        """Bool [size]: this piece begins a word; None where pieces do not tell."""
        ...

    def save(self, folder: Path) -> None:
        """Writes what `load` reads."""
        ...


@dataclass(frozen=True)
class Bytes:
    """The bytes of UTF-8."""

    kind: ClassVar[str] = "bytes"
    size: ClassVar[int] = 256

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.frombuffer(text.encode(), np.uint8).astype(np.int32) for text in texts]

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode(errors="replace")

    def pieces(self, ids: list[int]) -> list[str]:
        return [chr(i) if i < 128 else f"<0x{i:02X}>" for i in ids]

    def word_beginnings(self) -> None:
        return None

    def save(self, folder: Path) -> None:
        pass

    @classmethod
    def load(cls, folder: Path) -> "Bytes":
        return cls()


@dataclass(frozen=True)
class Characters:
    """The characters of an alphabet, in its order."""

    alphabet: str
    kind: ClassVar[str] = "characters"

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Characters":
        """The alphabet of the texts, sorted."""
        return cls("".join(sorted(set().union(*map(set, texts)))))

    @property
    def size(self) -> int:
        return len(self.alphabet)

    @cached_property
    def _ids(self) -> np.ndarray:
        """int32 [code points]: -1 where a character is not in the alphabet."""
        codes = _code_points(self.alphabet)
        table = np.full(0x110000, -1, np.int32)
        table[codes] = np.arange(len(codes))
        return table

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Raises InputError if a text has a character that the alphabet lacks."""
        out = [self._ids[_code_points(text)] for text in texts]
        for text, ids in zip(texts, out, strict=True):
            if len(ids) and ids.min() < 0:
                unknown = text[int(np.argmin(ids))]
                raise InputError(
                    f"the character {unknown!r} (U+{ord(unknown):04X}) is not among the {self.size} of the tokenizer; "
                    "it knows only those of the text that it was made from (the tokenizer `bytes` knows every one)"
                )
        return out

    def decode(self, ids: list[int]) -> str:
        return "".join(self.alphabet[i] for i in ids)

    def pieces(self, ids: list[int]) -> list[str]:
        return [self.alphabet[i] for i in ids]

    def word_beginnings(self) -> None:
        return None

    def save(self, folder: Path) -> None:
        (folder / "alphabet.json").write_text(json.dumps(self.alphabet), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Characters":
        alphabet = json_files.parse(json_files.read_text(folder / "alphabet.json"), folder / "alphabet.json")
        usable = isinstance(alphabet, str) and len(set(alphabet)) == len(alphabet)
        if not usable or any("\ud800" <= character <= "\udfff" for character in alphabet):
            raise InputError(
                f"{folder / 'alphabet.json'} is not an alphabet: a JSON string without a character twice, or half of "
                "a surrogate pair"
            )
        return cls(alphabet)


@dataclass(frozen=True)
class Integers:
    """Ids that stand for themselves (audio codes, bases, any signal); as text they are numbers between spaces."""

    size: int
    kind: ClassVar[str] = "integers"

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Raises InputError if a text is anything else than numbers below `size`, separated by space."""
        try:
            out = [np.array([int(word) for word in text.split()], np.int64) for text in texts]
        except ValueError as error:
            raise InputError(f"not a sequence of integers: {error}") from error
        if any(len(ids) and (ids.min() < 0 or ids.max() >= self.size) for ids in out):
            raise InputError(f"an integer is not between 0 and {self.size - 1}")
        return [ids.astype(np.int32) for ids in out]

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))

    def pieces(self, ids: list[int]) -> list[str]:
        return [f"{i} " for i in ids]

    def word_beginnings(self) -> None:
        return None

    def save(self, folder: Path) -> None:
        (folder / "integers.json").write_text(json.dumps(self.size), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Integers":
        size = json_files.parse(json_files.read_text(folder / "integers.json"), folder / "integers.json")
        if type(size) is not int or not 0 < size <= MOST_INTEGERS:
            raise InputError(f"{folder / 'integers.json'} holds {size!r}, not a number between 1 and {MOST_INTEGERS}")
        return cls(size)


@dataclass(frozen=True)
class SentencePiece:
    """A sentencepiece model; `proto` is the content of its file."""

    proto: bytes
    kind: ClassVar[str] = "sentencepiece"

    @cached_property
    def processor(self) -> sentencepiece.SentencePieceProcessor:
        return sentencepiece.SentencePieceProcessor(model_proto=self.proto)

    @cached_property
    def size(self) -> int:
        return int(self.processor.get_piece_size())

    @cached_property
    def _block(self) -> list[int]:
        """The bytes of U+2581, which sentencepiece itself would read back as a space; empty without byte fallback."""
        ids = [self.processor.piece_to_id(f"<0x{byte:02X}>") for byte in "\u2581".encode()]
        return ids if all(self.processor.is_byte(i) for i in ids) else []

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        out: list[np.ndarray] = self.processor.encode(list(texts), return_type="numpy")
        for number, text in enumerate(texts):
            if "\u2581" in text and self._block:
                parts = [self.processor.encode(part, return_type="numpy") for part in text.split("\u2581")]
                block = np.array(self._block, np.int32)
                out[number] = np.concatenate([a for part in parts for a in (part, block)][:-1])
        return out

    def decode(self, ids: list[int]) -> str:
        return str(self.processor.decode(ids))

    def pieces(self, ids: list[int]) -> list[str]:
        def show(i: int) -> str:
            piece = self.processor.id_to_piece(i)
            byte = int(piece[3:5], 16) if self.processor.is_byte(i) else 128
            return chr(byte) if byte < 128 else piece.replace("\u2581", " ")

        return [show(i) for i in ids]

    def word_beginnings(self) -> np.ndarray:
        return np.array([piece[:1].isspace() for piece in self.pieces(list(range(self.size)))])

    def save(self, folder: Path) -> None:
        (folder / "sentencepiece.model").write_bytes(self.proto)

    @classmethod
    def load(cls, folder: Path) -> "SentencePiece":
        return cls.read(folder / "sentencepiece.model")

    @classmethod
    def read(cls, path: Path) -> "SentencePiece":
        """Reads any sentencepiece file. Symbols that its author defined to be found in text (masks, sentinels) are
        made control symbols, which are not. Raises InputError if it is not such a file."""
        try:
            content = path.read_bytes()
            model = sentencepiece_conversion.parse(content)
            changed = [p for p in model.pieces if p.type == p.USER_DEFINED and _is_special_name(p.piece)]
            for piece in changed:
                piece.type = piece.CONTROL
            made = cls(model.SerializeToString() if changed else content)
            made.pieces(list(range(made.size)))  # which fails on invalid UTF-8
            made.encode([PROBE])
        except Exception as error:
            raise InputError(f"{path} is not a sentencepiece model: {error}") from error
        return made

    @classmethod
    def train(cls, texts: Iterable[str], pieces: int) -> "SentencePiece":
        """Byte-pair encoding with byte fallback that gives back every text exactly; the same texts, the same model.

        Raises:
          InputError: if the texts are too few for so many pieces.
        """
        out = io.BytesIO()
        lines = (part for text in texts for line in text.splitlines(keepends=True) for part in _parts(line))
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=lines,
                model_writer=out,
                model_type="bpe",
                vocab_size=pieces,
                byte_fallback=True,
                normalization_rule_name="identity",
                remove_extra_whitespaces=False,
                add_dummy_prefix=False,  # so that the pieces of a text do not depend on what was cut off before it
                allow_whitespace_only_pieces=True,  # indentation
                max_sentence_length=LONGEST_LINE,
                num_threads=4,  # the model depends on it
                unk_id=0,
                bos_id=1,
                eos_id=2,
                minloglevel=2,
            )
        except RuntimeError as error:
            raise InputError(
                f"a sentencepiece tokenizer of {pieces} pieces cannot be trained on this text: {error}; "
                "at least 259 and as many characters as the text has are needed, and a short text gives few pieces"
            ) from error
        return cls(out.getvalue())


def _parts(line: str) -> Iterator[str]:
    """A line in parts that sentencepiece does not leave out of training for their length."""
    longest = LONGEST_LINE // 4  # characters; each has at most four bytes
    yield from (line[start : start + longest] for start in range(0, len(line), longest))


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


def _is_special_name(piece: str) -> bool:
    return piece in ("<mask>", "[MASK]", "[CLS]", "[SEP]", "<pad>", "[PAD]") or piece.startswith("<extra_id_")
