"""Text to token ids and back: one class for each kind of tokenizer, all with the same face, none with special tokens.

A coder knows ordinary tokens only: no text ever becomes a special token, whatever it spells. Special tokens are the
business of `tokenizers.Tokenizer`, which wraps a coder.
"""

import io
import itertools
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import sentencepiece
import tokenizers as huggingface
from sentencepiece import sentencepiece_model_pb2

from research.errors import InputError


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
        (folder / "alphabet.json").write_text(json.dumps(self.alphabet))

    @classmethod
    def load(cls, folder: Path) -> "Characters":
        return cls(json.loads((folder / "alphabet.json").read_text()))


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
        (folder / "integers.json").write_text(json.dumps(self.size))

    @classmethod
    def load(cls, folder: Path) -> "Integers":
        return cls(json.loads((folder / "integers.json").read_text()))


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
        return cls((folder / "sentencepiece.model").read_bytes())

    @classmethod
    def read(cls, path: Path) -> "SentencePiece":
        """Reads any sentencepiece file. Symbols that its author defined to be found in text (masks, sentinels) are
        made control symbols, which are not. Raises InputError if it is not such a file."""
        model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
        try:
            model.ParseFromString(path.read_bytes())
            sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
        except Exception as error:
            raise InputError(f"{path} is not a sentencepiece model: {error}") from error
        for piece in model.pieces:
            if piece.type == piece.USER_DEFINED and _is_special_name(piece.piece):
                piece.type = piece.CONTROL
        return cls(model.SerializeToString())

    @classmethod
    def train(cls, texts: Iterable[str], pieces: int) -> "SentencePiece":
        """Byte-pair encoding with byte fallback that gives back every text exactly; the same texts, the same model.

        Raises:
          InputError: if the texts are too few for so many pieces.
        """
        out = io.BytesIO()
        lines = (line for text in texts for line in text.splitlines(keepends=True))
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
                max_sentence_length=1 << 24,
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


@dataclass(frozen=True)
class HuggingFace:
    """A tokenizer of the `tokenizers` library; `text` is the content of its `tokenizer.json`."""

    text: str
    kind: ClassVar[str] = "huggingface"

    @cached_property
    def tokenizer(self) -> huggingface.Tokenizer:
        tokenizer = huggingface.Tokenizer.from_str(self.text)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True  # text that spells a special token stays text
        return tokenizer

    @cached_property
    def size(self) -> int:
        return max(self.tokenizer.get_vocab().values()) + 1

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        encoded = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        out = [np.array(one.ids, np.int32) for one in encoded]
        for number, text in enumerate(texts if self._spellable else ()):
            if np.isin(out[number], list(self._spellable.values())).any():
                out[number] = self._spelled(text)
        return out

    @cached_property
    def _spellable(self) -> dict[str, int]:
        """Special tokens that are pieces of a unigram model too, as T5's sentinels are."""
        model = json.loads(self.text)["model"]
        added = self.tokenizer.get_added_tokens_decoder().items()
        pieces = {piece for piece, _ in model["vocab"]} if model.get("type") == "Unigram" else set()
        return {t.content: i for i, t in added if t.special and t.content in pieces and i != model["unk_id"]}

    def _spelled(self, text: str) -> np.ndarray:
        """The ids of a text that spells special tokens: it is cut within each, so that none is found."""
        names = "|".join(map(re.escape, self._spellable))
        cuts = [0, *(match.start() + 1 for match in re.finditer(names, text)), len(text)]
        parts = [text[a:b] for a, b in itertools.pairwise(cuts)]
        return np.concatenate(
            [np.array(self.tokenizer.encode(p, add_special_tokens=False).ids, np.int32) for p in parts]
        )

    def decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=False))

    @cached_property
    def _bytes(self) -> bool:
        """Whether pieces are bytes in GPT-2's disguise."""
        return '"ByteLevel"' in json.dumps(json.loads(self.text)["decoder"])

    def pieces(self, ids: list[int]) -> list[str]:
        if self._bytes:
            return [self.tokenizer.decode([i], skip_special_tokens=False) for i in ids]
        return [(self.tokenizer.id_to_token(i) or "").replace("\u2581", " ") for i in ids]

    def word_beginnings(self) -> np.ndarray:
        pieces = self.pieces(list(range(self.size)))
        if '"WordPiece"' in json.dumps(json.loads(self.text)["model"].get("type")):
            return np.array([not piece.startswith("##") for piece in pieces])
        return np.array([piece[:1].isspace() for piece in pieces])

    def save(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text(self.text)

    @classmethod
    def load(cls, folder: Path) -> "HuggingFace":
        return cls.read(folder / "tokenizer.json")

    @classmethod
    def read(cls, path: Path) -> "HuggingFace":
        """Raises InputError if the file is not of the `tokenizers` library."""
        try:
            text = path.read_text()
            huggingface.Tokenizer.from_str(text)
        except Exception as error:
            raise InputError(f"{path} is not a tokenizer of the Hugging Face library: {error}") from error
        return cls(text)

    @classmethod
    def gpt2(cls, vocabulary: Path, merges: Path) -> "HuggingFace":
        """GPT-2's two files: piece -> id as JSON, and the merges in the order of their rank."""
        lines = merges.read_text().split("\n")
        pairs = [(a, b) for a, b in (line.split(" ") for line in lines if line and not line.startswith("#version"))]
        model = huggingface.models.BPE(vocab=json.loads(vocabulary.read_text()), merges=pairs)
        tokenizer = huggingface.Tokenizer(model)
        tokenizer.pre_tokenizer = huggingface.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = huggingface.decoders.ByteLevel()
        tokenizer.add_special_tokens([huggingface.AddedToken("<|endoftext|>", normalized=False)])
        return cls(tokenizer.to_str())


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


def _is_special_name(piece: str) -> bool:
    return piece in ("<mask>", "[MASK]", "[CLS]", "[SEP]", "<pad>", "[PAD]") or piece.startswith("<extra_id_")
