"""Sentencepiece models as tokenizers of the `tokenizers` library."""

from collections.abc import Iterable, Sequence
from typing import Any

import tokenizers as library
from sentencepiece import sentencepiece_model_pb2
from tokenizers import decoders, models, normalizers, pre_tokenizers

from research.errors import InputError

SPACE = "\u2581"  # how sentencepiece writes it


def parse(content: bytes) -> Any:
    """The protocol buffer of a sentencepiece file."""
    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    proto.ParseFromString(content)
    return proto


def convert(content: bytes) -> library.Tokenizer:
    """A tokenizer with the ids of the sentencepiece library.

    Raises:
      InputError: if the model is neither byte-pair encoding nor unigram.
    """
    proto = parse(content)
    pieces, scores = [piece.piece for piece in proto.pieces], [piece.score for piece in proto.pieces]
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    prefix, fallback = normalizer.add_dummy_prefix, trainer.byte_fallback
    if trainer.model_type == trainer.BPE:
        made = library.Tokenizer(byte_pairs(pieces, scores, hidden(proto), fallback))
        frame_spaces(made, prefix)
    elif trainer.model_type == trainer.UNIGRAM:
        made = library.Tokenizer(models.Unigram(list(zip(pieces, scores, strict=True)), trainer.unk_id, fallback))
        scheme = "always" if prefix else "never"
        made.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, scheme, split=False)
        made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(SPACE, scheme)])
    else:
        raise InputError(
            "sentencepiece models of words or characters have no counterpart among transformers' tokenizers"
        )
    if normalizer.precompiled_charsmap or normalizer.remove_extra_whitespaces:
        steps: list[Any] = (
            [normalizers.Precompiled(normalizer.precompiled_charsmap)] if normalizer.precompiled_charsmap else []
        )
        if normalizer.remove_extra_whitespaces:
            steps += [normalizers.Strip(), normalizers.Replace(library.Regex(" {2,}"), " ")]
        made.normalizer = normalizers.Sequence([*steps, *([made.normalizer] if made.normalizer else [])])
    return made


def hidden(proto: Any) -> set[str]:
    """Pieces that no text becomes by merging: control, unknown, unused and byte pieces."""
    return {p.piece for p in proto.pieces if p.type not in (p.NORMAL, p.USER_DEFINED)}


def byte_pairs(pieces: Sequence[str], scores: Sequence[float], hidden: set[str], byte_fallback: bool) -> models.BPE:
    """Sentencepiece's byte-pair encoding: it merges the neighbours that make the piece with the highest score, so every
    way to split a piece into two is a merge."""
    ids = numbered(pieces)
    merges = []
    for piece, score in zip(pieces, scores, strict=True):
        if piece in hidden:
            continue
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in ids and right in ids and left not in hidden and right not in hidden:
                merges.append((-score, ids[left], ids[right], left, right))
    merges.sort()
    pairs = [(left, right) for *_, left, right in merges]
    return models.BPE(ids, pairs, byte_fallback=byte_fallback, fuse_unk=True)


def frame_spaces(made: library.Tokenizer, prefix: bool) -> None:
    """Spaces as sentencepiece has them, with one before the text if `prefix`."""
    made.normalizer = normalizers.Sequence(
        ([normalizers.Prepend(SPACE)] if prefix else []) + [normalizers.Replace(" ", SPACE)]
    )
    made.decoder = piece_decoder(prefix)


def piece_decoder(prefix: bool) -> decoders.Decoder:
    """From pieces of byte-pair encoding with byte fallback to text."""
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    return decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip])


def numbered(pieces: Iterable[str]) -> dict[str, int]:
    """Ids in order."""
    return {piece: number for number, piece in enumerate(pieces)}
