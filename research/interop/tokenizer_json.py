"""Tokenizers as the files that `transformers` reads."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import tokenizers as library
from tokenizers import decoders, models, pre_tokenizers, processors

from research.data import sentencepiece_conversion
from research.data.huggingface_backend import HuggingFace
from research.data.sentencepiece_conversion import numbered
from research.data.tokenizer_backends import Bytes, Characters, Integers, SentencePiece
from research.data.tokenizers import Tokenizer
from research.errors import InputError


def write(folder: Path, tokenizer: Tokenizer, ends: bool) -> None:
    """Writes `tokenizer.json` and `tokenizer_config.json`; nothing for a tokenizer of integers, which has no text. A
    text gets a bos there as it does here, and an eos if what is read `ends` with one."""
    coder = tokenizer.coder
    match coder:
        case HuggingFace():
            made = library.Tokenizer.from_str(coder.text)
        case SentencePiece():
            made = sentencepiece_conversion.convert(coder.proto)
        case Characters():
            made = library.Tokenizer(models.WordLevel(numbered(coder.alphabet)))  # which fails on other characters
            made.pre_tokenizer = pre_tokenizers.Split(library.Regex(r"[\s\S]"), "isolated")
            made.decoder = decoders.Fuse()
        case Bytes():
            pieces = [f"<0x{byte:02X}>" for byte in range(256)]
            made = library.Tokenizer(models.BPE(numbered(pieces), [], byte_fallback=True))
            made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
        case Integers():
            return
        case _:
            raise TypeError(coder)
    _add(made, tokenizer.names)
    _frame(made, tokenizer, ends)
    (folder / "tokenizer.json").write_text(made.to_str(), encoding="utf-8")
    text = json.dumps(_config(tokenizer), indent=2, ensure_ascii=False) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def special_ids(tokenizer: Tokenizer) -> dict[str, int | list[int]]:
    """What `config.json` says of the tokenizer."""
    ends = list(tokenizer.stops) if len(tokenizer.stops) > 1 else next(iter(tokenizer.stops), None)
    ids = {"bos_token_id": tokenizer.bos, "eos_token_id": ends, "pad_token_id": _padding(tokenizer)}
    return {key: number for key, number in ids.items() if number is not None}


def _config(tokenizer: Tokenizer) -> dict[str, Any]:
    roles = {"bos": tokenizer.bos, "eos": tokenizer.eos, "mask": tokenizer.mask, "pad": _padding(tokenizer)}
    if tokenizer.bos is not None and tokenizer.mask is not None:  # BERT's names for its bos and eos
        roles |= {"cls": tokenizer.bos, "sep": tokenizer.eos}
    config: dict[str, Any] = {
        f"{role}_token": tokenizer.names[number]
        for role, number in roles.items()
        if number is not None and number in tokenizer.names
    } | tokenizer.roles
    config |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    return config | ({"chat_template": tokenizer.chat_template} if tokenizer.chat_template else {})


def _frame(made: library.Tokenizer, tokenizer: Tokenizer, ends: bool) -> None:
    begin, end = ([] if i is None else [i] for i in (tokenizer.bos, tokenizer.eos if ends else None))
    if HuggingFace.of(made).frame() != (begin, end):
        names = {i: tokenizer.names[i] for i in begin + end}
        single = [*(names[i] for i in begin), "$A", *(names[i] for i in end)]
        tokens = [(name, i) for i, name in names.items()]
        made.post_processor = processors.TemplateProcessing(single, special_tokens=tokens)


def _padding(tokenizer: Tokenizer) -> int | None:
    return next((number for number, name in tokenizer.names.items() if name in ("<pad>", "[PAD]")), None)


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
