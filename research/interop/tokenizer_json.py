"""Tokenizers between our folders, GGUF's metadata, and the files that `transformers` reads."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import tokenizers as library
from sentencepiece import sentencepiece_model_pb2
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from research.data.tokenizer_backends import Bytes, Characters, HuggingFace, Integers, SentencePiece
from research.data.tokenizers import Tokenizer
from research.errors import InputError

SPACE = "\u2581"  # how sentencepiece writes it
_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LLAMA3 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{%s}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS: dict[str, list[Any]] = {  # tokenizer.ggml.pre -> what cuts a text into words before byte pairs are merged
    "default": [pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "gpt-2": [pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "smollm": [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "llama-bpe": [
        pre_tokenizers.Split(library.Regex(_LLAMA3 % "1,3"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ],
    "qwen2": [
        pre_tokenizers.Split(library.Regex(_LLAMA3 % "1"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ],
}
_UNKNOWN, _CONTROL, _DEFINED, _BYTE = 2, 3, 4, 6  # tokenizer.ggml.token_type


def from_gguf(metadata: dict[str, Any]) -> Tokenizer:
    """The tokenizer that is in a GGUF file.

    Raises:
      InputError: if there is none, or it is of an unknown kind.
    """
    kind, pieces = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.tokens")
    if pieces is None:
        raise InputError("the GGUF file has no tokenizer")
    types = metadata.get("tokenizer.ggml.token_type", [1] * len(pieces))
    if kind == "gpt2":
        words = metadata.get("tokenizer.ggml.pre", "default")
        if words not in _WORDS:
            raise InputError(f"tokenizer.ggml.pre {words!r} is not supported; these are: {', '.join(_WORDS)}")
        merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
        made = library.Tokenizer(models.BPE(_numbered(pieces), merges))
        made.normalizer = normalizers.NFC() if words == "qwen2" else None
        made.pre_tokenizer = pre_tokenizers.Sequence(_WORDS[words])
        made.decoder = decoders.ByteLevel()
    elif kind == "llama":
        hidden = {piece for piece, one in zip(pieces, types, strict=True) if one in (_UNKNOWN, _CONTROL, _BYTE)}
        prefix = metadata.get("tokenizer.ggml.add_space_prefix", True)
        made = _byte_pairs(pieces, metadata["tokenizer.ggml.scores"], hidden, byte_fallback=True, prefix=prefix)
    else:
        raise InputError(f"tokenizer.ggml.model {kind!r} is not supported; gpt2 and llama are")
    names = {number: pieces[number] for number, one in enumerate(types) if one in (_UNKNOWN, _CONTROL)}
    _add(made, names)
    made.add_tokens(
        [library.AddedToken(p, normalized=False) for p, t in zip(pieces, types, strict=True) if t == _DEFINED]
    )
    bos = metadata.get("tokenizer.ggml.bos_token_id")
    return Tokenizer(
        HuggingFace(made.to_str()),
        names,
        bos=bos if metadata.get("tokenizer.ggml.add_bos_token", kind == "llama") else None,
        eos=metadata.get("tokenizer.ggml.eos_token_id"),
        chat_template=metadata.get("tokenizer.chat_template"),
    )


def write(folder: Path, tokenizer: Tokenizer, ends: bool) -> None:
    """Writes `tokenizer.json` and `tokenizer_config.json`; nothing for a tokenizer of integers, which has no text. A
    text gets a bos there as it does here, and an eos if what is read `ends` with one."""
    coder = tokenizer.coder
    match coder:
        case HuggingFace():
            made = library.Tokenizer.from_str(coder.text)
        case SentencePiece():
            made = _from_sentencepiece(coder)
        case Characters():
            made = library.Tokenizer(models.WordLevel(_numbered(list(coder.alphabet)), unk_token=coder.alphabet[0]))
            made.pre_tokenizer = pre_tokenizers.Split(library.Regex("(?s)."), "isolated")
            made.decoder = decoders.Fuse()
        case Bytes():
            pieces = [f"<0x{byte:02X}>" for byte in range(256)]
            made = library.Tokenizer(models.BPE(_numbered(pieces), [], byte_fallback=True))
            made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
        case Integers():
            return
        case _:
            raise TypeError(coder)
    _add(made, tokenizer.names)
    _frame(made, tokenizer, ends)
    (folder / "tokenizer.json").write_text(made.to_str())
    (folder / "tokenizer_config.json").write_text(json.dumps(_config(tokenizer), indent=2, ensure_ascii=False) + "\n")


def special_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """What `config.json` says of the tokenizer."""
    ids = {"bos_token_id": tokenizer.bos, "eos_token_id": tokenizer.eos, "pad_token_id": _padding(tokenizer)}
    return {key: number for key, number in ids.items() if number is not None}


def _config(tokenizer: Tokenizer) -> dict[str, Any]:
    roles = {"bos": tokenizer.bos, "eos": tokenizer.eos, "mask": tokenizer.mask, "pad": _padding(tokenizer)}
    if tokenizer.bos is not None and tokenizer.mask is not None:  # BERT's names for its bos and eos
        roles |= {"cls": tokenizer.bos, "sep": tokenizer.eos}
    config: dict[str, Any] = {
        f"{role}_token": tokenizer.names[number]
        for role, number in roles.items()
        if number is not None and number in tokenizer.names
    }
    config |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    return config | ({"chat_template": tokenizer.chat_template} if tokenizer.chat_template else {})


def _frame(made: library.Tokenizer, tokenizer: Tokenizer, ends: bool) -> None:
    begin, end = ([] if i is None else [i] for i in (tokenizer.bos, tokenizer.eos if ends else None))
    if made.encode("").ids != begin + end:
        names = {i: tokenizer.names[i] for i in begin + end}
        single = [*(names[i] for i in begin), "$A", *(names[i] for i in end)]
        tokens = [(name, i) for i, name in names.items()]
        made.post_processor = processors.TemplateProcessing(single, special_tokens=tokens)


def _padding(tokenizer: Tokenizer) -> int | None:
    return next((number for number, name in tokenizer.names.items() if name in ("<pad>", "[PAD]")), None)


def _from_sentencepiece(coder: SentencePiece) -> library.Tokenizer:
    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    proto.ParseFromString(coder.proto)
    pieces, scores = [piece.piece for piece in proto.pieces], [piece.score for piece in proto.pieces]
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    prefix, fallback = normalizer.add_dummy_prefix, trainer.byte_fallback
    hidden = {piece.piece for piece in proto.pieces if piece.type != piece.NORMAL and piece.type != piece.USER_DEFINED}
    if trainer.model_type == trainer.BPE:
        made = _byte_pairs(pieces, scores, hidden, fallback, prefix)
    elif trainer.model_type == trainer.UNIGRAM:
        made = library.Tokenizer(models.Unigram(list(zip(pieces, scores, strict=True)), trainer.unk_id, fallback))
        made.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, "always" if prefix else "never", split=False)
        made.decoder = decoders.Sequence(
            [decoders.ByteFallback(), decoders.Metaspace(SPACE, "always" if prefix else "never")]
        )
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


def _byte_pairs(
    pieces: list[str], scores: list[float], hidden: set[str], byte_fallback: bool, prefix: bool
) -> library.Tokenizer:
    """Sentencepiece's byte-pair encoding: it merges the neighbours that make the piece with the highest score, so every
    way to split a piece into two is a merge."""
    ids = _numbered(pieces)
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
    made = library.Tokenizer(models.BPE(ids, pairs, byte_fallback=byte_fallback, fuse_unk=True))
    made.normalizer = normalizers.Sequence(
        ([normalizers.Prepend(SPACE)] if prefix else []) + [normalizers.Replace(" ", SPACE)]
    )
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    made.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return made


def _numbered(pieces: list[str]) -> dict[str, int]:
    return {piece: number for number, piece in enumerate(pieces)}


def _add(made: library.Tokenizer, names: dict[int, str]) -> None:
    """Adds special tokens under the ids that they must have."""
    ordered = sorted(names.items())
    made.add_special_tokens([library.AddedToken(name, normalized=False) for _, name in ordered])
    wrong = [name for number, name in ordered if made.token_to_id(name) != number]
    if wrong:
        raise InputError(f"the tokenizer's special tokens {wrong[:4]} cannot have their ids in a tokenizer.json")


def without_unused_bos(tokenizer: Tokenizer) -> Tokenizer:
    """A published model's tokenizer with a bos only if it puts one before every text by itself: many name one that the
    model has never seen there."""
    if not isinstance(tokenizer.coder, HuggingFace) or tokenizer.bos is None:
        return tokenizer
    added = library.Tokenizer.from_str(tokenizer.coder.text).encode("").ids
    return tokenizer if tokenizer.bos in added else dataclasses.replace(tokenizer, bos=None)
