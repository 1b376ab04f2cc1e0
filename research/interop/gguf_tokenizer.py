"""The tokenizer in a GGUF file, as llama.cpp reads it (`llama_vocab::impl::load` of `src/llama-vocab.cpp`).

Every key of `tokenizer.` that its loader reads for byte pairs (gpt2) and sentencepiece (llama); a value of another type
than llama.cpp expects, or an id beyond the tokens, is refused by the key's name.

| key `tokenizer.` | where it is missing | here |
| --- | --- | --- |
| `ggml.model` | an error | gpt2 and llama; others refused |
| `ggml.pre` | "default", with a loud warning | refused where the model is gpt2; `_WORDS` and `_SAME` are read |
| `ggml.tokens` | an error | an empty token is `[EMPTY_n]`; one that is there twice is refused |
| `ggml.token_type` | all normal | unknown and control are special, user-defined is found first |
| `ggml.scores` | all 0 | refused where the model is llama: nothing would be merged in order |
| `ggml.merges` | an error | refused where the model is gpt2 |
| `ggml.bos_token_id` | 1 of llama, 11 of gpt2 | 1 of llama; of gpt2 refused if texts begin with it: 11 is Falcon's |
| `ggml.eos_token_id` | 2 of llama, 11 of gpt2 | 2 of llama; of gpt2 refused |
| `ggml.eot_token_id`, `ggml.eom_token_id` | found by name | also end generation, as does every token of `_ENDS` |
| `ggml.add_bos_token` | true of llama and where `pre` is llama-bpe, tekken or chameleon, else false | the same |
| `ggml.add_eos_token` | false | true means an end after every text, which documents have here anyway |
| `ggml.add_sep_token` | false | true is refused |
| `ggml.add_space_prefix` | true of llama, false of gpt2 | the same; true of gpt2 is refused |
| `ggml.remove_extra_whitespaces` | false | true is refused |
| `ggml.unknown_token_id`, `ggml.padding_token_id`, `ggml.seperator_token_id` | 0 of llama, or none | for templates |
| `ggml.mask_token_id` | none | the mask |
| `ggml.token_type_count`, `ggml.precompiled_charsmap` | none | of models that are not supported |
| `ggml.fim_*`, `ggml.prefix_token_id` and so on, `ggml.suppress_tokens` | none | without effect |
| `chat_template`, `chat_templates`, `chat_template.NAME` | none | the one without a name |
| (not a key) `ignore_merges` | true where `pre` is llama-bpe or tekken | the same: a word that is a token is it |
"""

from collections.abc import Sequence
from typing import Any

import tokenizers as library
from tokenizers import decoders, models, normalizers, pre_tokenizers

from research.data import sentencepiece_conversion
from research.data.huggingface_backend import HuggingFace, attempt
from research.data.tokenizers import Tokenizer
from research.errors import InputError

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LLAMA3 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{%s}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_DEFAULT = (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")


def _split(*patterns: str) -> list[Any]:
    """Cuts a text by each pattern in turn."""
    cuts = [pre_tokenizers.Split(library.Regex(pattern), "isolated") for pattern in patterns]
    return [*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]


_WORDS: dict[str, list[Any]] = {  # tokenizer.ggml.pre -> what cuts a text into words before byte pairs are merged
    "default": _split(*_DEFAULT),
    "gpt-2": [pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "smollm": [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "llama-bpe": _split(_LLAMA3 % "1,3"),
    "qwen2": _split(_LLAMA3 % "1"),
}
_SAME = {  # other names of these
    **dict.fromkeys(("llama3", "llama-v3", "falcon3", "pixtral", "lfm2"), "llama-bpe"),
    **dict.fromkeys(("deepseek-r1-qwen", "megrez"), "qwen2"),
    **dict.fromkeys(("phi-2", "exaone4", "mellum"), "gpt-2"),
}
_UNKNOWN, _CONTROL, _DEFINED, _BYTE = 2, 3, 4, 6  # tokenizer.ggml.token_type
_ENDS = {  # names of tokens that end generation wherever they are in a vocabulary
    *("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>"),
    *("<EOT>", "_<EOT>", "<|end_of_text|>", "<end_of_utterance>"),
}
_ROLES = {
    "unk": "unknown",
    "pad": "padding",
    "sep": "seperator",  # as the format spells it
    "mask": "mask",
    "cls": "cls",
}


def from_gguf(metadata: dict[str, Any]) -> Tokenizer:
    """The tokenizer that is in a GGUF file.

    Raises:
      InputError: if there is none, it is of an unknown kind, or a key is missing or has a value that cannot be.
    """
    kind = _get(metadata, "ggml.model", str)
    pieces = _get(metadata, "ggml.tokens", list, items=str)
    if pieces is None:
        raise InputError("the GGUF file has no tokenizer")
    pieces = [piece or f"[EMPTY_{number}]" for number, piece in enumerate(pieces)]
    if len(set(pieces)) < len(pieces):
        raise InputError("tokenizer.ggml.tokens has a token twice")
    types = _get(metadata, "ggml.token_type", list, [1] * len(pieces), items=int)
    if len(types) < len(pieces):
        raise InputError(f"tokenizer.ggml.token_type has {len(types)} values for {len(pieces)} tokens")
    types = types[: len(pieces)]
    refused = {"ggml.add_sep_token": False, "ggml.remove_extra_whitespaces": False}
    if kind == "gpt2":
        refused["ggml.add_space_prefix"] = False
        words = _words(metadata)
        made = _byte_level(metadata, pieces, words)
        adds, bos, eos = words == "llama-bpe", None, None
    elif kind == "llama":
        scores = _get(metadata, "ggml.scores", list, items=float)
        if scores is None or len(scores) < len(pieces):
            raise InputError(f"tokenizer.ggml.scores has {len(scores or [])} values for {len(pieces)} tokens")
        hidden = {p for p, one in zip(pieces, types, strict=True) if one in (_UNKNOWN, _CONTROL, _BYTE)}
        model = sentencepiece_conversion.byte_pairs(pieces, scores[: len(pieces)], hidden, byte_fallback=True)
        made = library.Tokenizer(model)
        sentencepiece_conversion.frame_spaces(made, _get(metadata, "ggml.add_space_prefix", bool, True))
        adds, bos, eos = True, 1, 2
    else:
        raise InputError(f"tokenizer.ggml.model {kind!r} is not supported; gpt2 and llama are")
    for key, only in refused.items():
        if _get(metadata, key, bool, only) != only:
            raise InputError(f"tokenizer.{key} = {not only} is not supported for a {kind} tokenizer")

    def number(name: str, default: int | None = None) -> int | None:
        found = _get(metadata, f"ggml.{name}_token_id", int, default)
        if found is not None and not 0 <= found < len(pieces):
            raise InputError(f"tokenizer.ggml.{name}_token_id is {found}, but there are {len(pieces)} tokens")
        return found

    adds = _get(metadata, "ggml.add_bos_token", bool, adds)
    bos, eos = number("bos", bos), number("eos", eos)
    if eos is None or (adds and bos is None):
        missing = "eos" if eos is None else "bos"
        raise InputError(
            f"the GGUF file lacks tokenizer.ggml.{missing}_token_id; llama.cpp would take 11, as of Falcon"
        )
    roles = {role: number(name) for role, name in _ROLES.items()} | {"bos": bos, "eos": eos}
    ends = [eos, number("eot"), number("eom"), *(i for i, piece in enumerate(pieces) if piece in _ENDS)]
    special = {i for i, one in enumerate(types) if one in (_UNKNOWN, _CONTROL)}
    names = {i: pieces[i] for i in sorted(special | {i for i in (bos, *ends) if i is not None})}
    made.add_special_tokens([library.AddedToken(name, normalized=False) for name in names.values()])
    defined = [p for i, (p, t) in enumerate(zip(pieces, types, strict=True)) if t == _DEFINED and i not in names]
    made.add_tokens([library.AddedToken(piece, normalized=False) for piece in defined])
    stops = tuple(dict.fromkeys(i for i in ends if i is not None))
    return Tokenizer(
        HuggingFace.parse(made.to_str(), "the tokenizer of the GGUF file"),
        names,
        bos=bos if adds else None,
        eos=eos,
        mask=roles["mask"],
        ends=stops if len(stops) > 1 else (),
        chat_template=_get(metadata, "chat_template", str),
        roles={f"{role}_token": pieces[i] for role, i in roles.items() if i is not None},
    )


def _words(metadata: dict[str, Any]) -> str:
    words = _get(metadata, "ggml.pre", str)
    if words is None:
        raise InputError(
            "the GGUF file lacks tokenizer.ggml.pre, which says how texts are cut into words: an old converter wrote "
            "it, and other ids than in training would be read. Convert the model again, or take a newer file"
        )
    words = _SAME.get(words, words)
    if words not in _WORDS:
        known = ", ".join([*_WORDS, *_SAME])
        raise InputError(f"tokenizer.ggml.pre {words!r} is not supported; these are: {known}")
    return words


def _byte_level(metadata: dict[str, Any], pieces: Sequence[str], words: str) -> library.Tokenizer:
    merges = _get(metadata, "ggml.merges", list, items=str)
    if merges is None:
        raise InputError("the GGUF file lacks tokenizer.ggml.merges")
    pairs = [(merge[: (at := merge.find(" ", 1))], merge[at + 1 :]) for merge in merges if " " in merge[1:]]
    if len(pairs) < len(merges):
        raise InputError("tokenizer.ggml.merges has an entry that is not two pieces with a space between them")
    ids = sentencepiece_conversion.numbered(pieces)
    model = attempt(
        lambda: models.BPE(ids, pairs, ignore_merges=words == "llama-bpe"),
        "tokenizer.ggml.merges does not fit tokenizer.ggml.tokens",
    )
    made = library.Tokenizer(model)
    made.normalizer = normalizers.NFC() if words == "qwen2" else None
    made.pre_tokenizer = pre_tokenizers.Sequence(_WORDS[words])
    made.decoder = decoders.ByteLevel()
    return made


def _get(metadata: dict[str, Any], key: str, kind: type, default: Any = None, items: type | None = None) -> Any:
    """The value of a key of the tokenizer. Raises InputError if it is of another type."""
    value: Any = metadata.get(f"tokenizer.{key}")
    if value is None:
        return default
    right = type(value) is kind
    if right and items is not None:
        right = all(type(one) is items for one in value)
    if not right:
        wanted = f"a list of {items.__name__}" if items is not None else kind.__name__
        raise InputError(f"tokenizer.{key} is {str(value)[:60]!r}, not {wanted}")
    return value
