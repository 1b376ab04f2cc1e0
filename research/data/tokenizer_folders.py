"""Folders as `transformers` keeps tokenizers: ids, roles, ends and chat template are those that it gives.

| files | what is read |
| --- | --- |
| `tokenizer.json` | as it is, but for what the tokenizer's class makes anew (`tokenizer_classes.py`) |
| `encoder.json` and `vocab.bpe`, `vocab.json` and `merges.txt` | byte pairs, with the words of the tokenizer's class |
| `vocab.txt` | WordPiece, as BERT |
| one `*.model` alone | sentencepiece, by its own library |
| one `*.model` with `tokenizer_config.json` or `added_tokens.json` | as the class reads it: Llama's or T5's |

Beside them: `tokenizer_config.json` (roles, added tokens, template), `special_tokens_map.json` and `added_tokens.json`
(which count only where `tokenizer_config.json` has no `added_tokens_decoder`), `chat_template.jinja`. A class that none
of the files says is that of the `model_type` in `config.json`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tokenizers as library
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from research.data import json_files, sentencepiece_conversion, tokenizer_classes
from research.data.huggingface_backend import HuggingFace, attempt
from research.data.json_files import find, read_beside
from research.data.sentencepiece_conversion import SPACE
from research.data.tokenizer_classes import CLASS_ROLES, END, QWEN_WORDS
from research.errors import InputError

SENTINELS = 100  # of T5, where its folder does not say
ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_USUAL = {  # where there is no file with roles at all
    "bos": ("<|begin_of_text|>", "<s>", "[CLS]", END),
    "eos": ("<|end_of_text|>", "</s>", "[SEP]", END),
    "mask": ("<mask>", "[MASK]"),
}


@dataclass(frozen=True)
class Folder:
    """What is in a folder, or beside a file."""

    path: Path
    config: dict[str, Any]  # tokenizer_config.json, with the roles of special_tokens_map.json where they count
    added: dict[int, library.AddedToken]  # that the files beside name
    kind: str | None  # the tokenizer's class, as it was before fast tokenizers
    model_type: str | None  # of the model that it belongs to


def beside(path: Path) -> Folder:
    """Reads the files of a folder that say something about its tokenizer. Raises InputError if one is damaged."""
    config = read_beside(path, "tokenizer_config.json")
    added: dict[int, library.AddedToken] = {}
    if isinstance(config.get("added_tokens_decoder"), dict):
        for key, token in config["added_tokens_decoder"].items():
            added[_id(key, path / "tokenizer_config.json")] = _token(token, path / "tokenizer_config.json")
    else:
        config = config | read_beside(path, "special_tokens_map.json")
        special = {content for content in (*_roles(config).values(), *_extra(config))}
        for content, number in read_beside(path, "added_tokens.json").items():
            added[_id(number, path / "added_tokens.json")] = library.AddedToken(
                content, normalized=content not in special, special=content in special
            )
    model_type = read_beside(path, "config.json").get("model_type")
    return Folder(path, config, added, tokenizer_classes.named(config.get("tokenizer_class"), model_type), model_type)


def read(path: Path) -> dict[str, Any] | None:
    """The fields of the folder's tokenizer; None if there is none, or only a sentencepiece file with nothing beside.

    Raises:
      InputError: if a file is damaged, the files contradict each other, or the tokenizer's class is not supported.
    """
    if (file := find(path, "tokenizer.json")) is not None:
        folder, backend = beside(path), HuggingFace.read(file)
        kind = tokenizer_classes.of_file(folder.kind, folder.model_type, backend.text)
        text = tokenizer_classes.remade(backend.text, kind, folder.config, file)
        backend = backend if text == backend.text else HuggingFace.parse(text, file)
        return fields(backend, replace(folder, kind=kind))
    for vocabulary, merges in (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt")):
        for prefix in ("", "gpt2_"):
            one, other = find(path, prefix + vocabulary), find(path, prefix + merges)
            if one is not None and other is not None:
                folder = beside(path)
                return fields(_byte_level(folder, one, other), folder)
    if (file := find(path, "vocab.txt")) is not None:
        folder = beside(path)
        return fields(_wordpiece(folder, file), folder)
    found = sorted(file.name for file in path.glob("*.model"))
    if len(found) != 1:
        return None
    folder, file = beside(path), find(path, found[0])
    assert file is not None
    alone = not (folder.added or (path / "tokenizer_config.json").exists() or folder.kind == "T5Tokenizer")
    return None if alone else fields(_from_sentencepiece(folder, file), folder)


def fields(backend: HuggingFace, folder: Folder) -> dict[str, Any]:
    """The fields of a tokenizer, with the roles that the files beside it give to tokens."""
    roles = _roles(folder.config, CLASS_ROLES.get(folder.kind or "", {}))
    backend = _with_added(backend, folder, roles)
    names = backend.special
    by_name = {name: i for i, name in names.items()}
    before, after = backend.frame()
    for label, these in (("before", before), ("after", after)):
        if len(these) > 1:
            several = ", ".join(str(backend.tokenizer.id_to_token(i)) for i in these)
            raise InputError(f"{folder.path}: the tokenizer puts {several} {label} every text; only one can be")
    explicit = any(key.removesuffix("_token") in ROLES for key in folder.config if key.endswith("_token"))

    def role(framed: list[int], *candidates: str) -> int | None:
        usual = () if explicit or folder.kind in CLASS_ROLES else _USUAL[candidates[0]]
        named = [roles[one] for one in candidates if one in roles]
        return next(iter([*framed, *(by_name[name] for name in (*named, *usual) if name in by_name)]), None)

    eos, name = role(after, "eos", "sep"), roles.get("eos", "")
    told = by_name.get(name, backend.tokenizer.token_to_id(name))  # an ordinary piece ends generation, too
    mask = role([], "mask")
    if mask is None and "mask_token" not in folder.config:
        mask = next((by_name[name] for name in _USUAL["mask"] if name in by_name), None)
    return {
        "coder": backend,
        "names": names,
        "bos": role(before, "bos", "cls"),
        "eos": eos,
        "mask": mask,
        "sentinels": sentinels(by_name),
        "ends": (told,) if told is not None and told != eos else (),
        "chat_template": _template(folder),
        "roles": {f"{one}_token": name for one, name in roles.items()},
    }


def sentinels(by_name: dict[str, int]) -> tuple[int, ...]:
    """The ids of T5's sentinels among special tokens."""
    numbered = {
        int(name[10:-1]): i for name, i in by_name.items() if name[:10] == "<extra_id_" and name[10:-1].isdecimal()
    }
    return tuple(i for _, i in sorted(numbered.items()))


def _roles(config: dict[str, Any], defaults: dict[str, str] | None = None) -> dict[str, str]:
    """Role -> token, without those that have none."""
    given = {role: _content(config[f"{role}_token"]) for role in ROLES if f"{role}_token" in config}
    return {role: name for role, name in ((defaults or {}) | given).items() if name}


def _content(token: Any) -> str | None:
    content = token.get("content") if isinstance(token, dict) else token
    if content is not None and not isinstance(content, str):
        raise InputError(f"a special token of the tokenizer is {content!r}, not a text")
    return content


def _extra(config: dict[str, Any]) -> list[str]:
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    these = list(extra.values()) if isinstance(extra, dict) else extra if isinstance(extra, list) else []
    own = [token for key, token in config.items() if key.endswith("_token") and key.removesuffix("_token") not in ROLES]
    # roles of one model, such as image_token
    these += [token for token in own if isinstance(token, str) or (isinstance(token, dict) and "__type" in token)]
    return [content for one in these if (content := _content(one))]


def _id(number: Any, where: Path) -> int:
    if not (type(number) is int or (isinstance(number, str) and number.isdecimal())) or int(number) < 0:
        raise InputError(f"{where}: {number!r} is not the id of a token")
    return int(number)


def _token(token: Any, where: Path) -> library.AddedToken:
    match token:
        case {"content": str(content)} if content:
            flags = {k: bool(token.get(k, False)) for k in ("single_word", "lstrip", "rstrip", "special")}
            return library.AddedToken(content, normalized=bool(token.get("normalized", not flags["special"])), **flags)
    raise InputError(f"{where}: added_tokens_decoder has {token!r} for a token")


def _with_added(backend: HuggingFace, folder: Folder, roles: dict[str, str]) -> HuggingFace:
    """With the tokens that the files beside add, and those of roles, as special tokens after all others."""
    known = {token.content: token for token in backend.tokenizer.get_added_tokens_decoder().values()}
    changed: list[library.AddedToken] = []
    for _, token in sorted(folder.added.items()):
        token.special = token.special or token.content in roles.values()
        if token.content not in known or repr(known[token.content]) != repr(token):
            changed.append(token)
            known[token.content] = token
    for content in (*roles.values(), *_extra(folder.config)):
        if content not in known or not known[content].special:
            token = known.get(content) or library.AddedToken(content, normalized=False)
            token.special = True
            changed.append(token)
            known[content] = token
    if not changed:
        return backend
    more = backend.with_tokens(changed)
    for number, token in folder.added.items():
        got = more.tokenizer.token_to_id(token.content)
        if got != number:
            raise InputError(
                f"{folder.path}: {token.content!r} is said to have the id {number}, but it would get {got}"
            )
    return more


def _template(folder: Folder) -> str | None:
    """The chat template; of several with names, `default`."""
    if (file := find(folder.path, "chat_template.jinja")) is not None:
        return json_files.read_text(file)
    given = folder.config.get("chat_template")
    if isinstance(given, list):
        given = {one.get("name"): one.get("template") for one in given if isinstance(one, dict)}
    if isinstance(given, dict):
        given = given.get("default")
    return given if isinstance(given, str) else None


def _byte_level(folder: Folder, vocabulary: Path, merges: Path) -> HuggingFace:
    kind = folder.kind or "GPT2Tokenizer"
    if kind not in ("GPT2Tokenizer", "Qwen2Tokenizer", "RobertaTokenizer"):
        raise InputError(
            f"{folder.path} has {vocabulary.name} and {merges.name} of a {kind}; without a tokenizer.json (which "
            "save_pretrained of transformers writes) only those of GPT2Tokenizer, Qwen2Tokenizer and RobertaTokenizer "
            "can be read"
        )
    lines = json_files.read_text(merges).split("\n")
    words = [line.rstrip("\r").split(" ") for line in lines if line.strip() and not line.startswith("#version")]
    wrong = next((pair for pair in words if len(pair) != 2), None)
    if wrong is not None:
        raise InputError(f"{merges}: the line {' '.join(wrong)!r} is not a pair of pieces")
    pairs = [(left, right) for left, right in words]
    vocab = json_files.read_object(vocabulary)
    if not all(type(i) is int and 0 <= i < 2 * len(vocab) for i in vocab.values()):
        raise InputError(f"{vocabulary}: not every piece has an id that {len(vocab)} pieces can have")
    model = attempt(lambda: models.BPE(vocab=vocab, merges=pairs), f"{vocabulary} and {merges.name} do not fit")
    made = library.Tokenizer(model)
    prefix = bool(folder.config.get("add_prefix_space", False))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    made.decoder = decoders.ByteLevel()
    if kind == "Qwen2Tokenizer":
        made.normalizer = normalizers.NFC()
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(library.Regex(QWEN_WORDS), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=False),
            ]
        )
    roles = _roles(folder.config, CLASS_ROLES[kind])
    made.add_special_tokens([library.AddedToken(name, normalized=False) for name in roles.values()])
    _frame(made, folder, ("cls", "sep") if kind == "RobertaTokenizer" else None)
    return HuggingFace.parse(made.to_str(), vocabulary)


def _wordpiece(folder: Folder, vocabulary: Path) -> HuggingFace:
    if folder.kind not in (None, "BertTokenizer"):
        raise InputError(
            f"{folder.path} has the vocab.txt of a {folder.kind}; without a tokenizer.json only BERT's can be read"
        )
    pieces = json_files.read_text(vocabulary).removesuffix("\n").split("\n")
    config = folder.config
    roles = _roles(config, CLASS_ROLES["BertTokenizer"])
    vocab = sentencepiece_conversion.numbered(piece.rstrip("\r") for piece in pieces)
    made = library.Tokenizer(models.WordPiece(vocab, unk_token=roles.get("unk", "[UNK]")))
    made.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=bool(config.get("tokenize_chinese_chars", True)),
        strip_accents=config.get("strip_accents"),
        lowercase=bool(config.get("do_lower_case", True)),
    )
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.add_special_tokens([library.AddedToken(name, normalized=False) for name in roles.values() if name in vocab])
    _frame(made, folder, ("cls", "sep"), CLASS_ROLES["BertTokenizer"])
    return HuggingFace.parse(made.to_str(), vocabulary)


def _from_sentencepiece(folder: Folder, file: Path) -> HuggingFace:
    try:
        content = file.read_bytes()
        proto = sentencepiece_conversion.parse(content)
    except Exception as error:
        raise InputError(f"{file} is not a sentencepiece model: {error}") from error
    make = {"LlamaTokenizer": _llama, "T5Tokenizer": _t5, None: lambda *_: sentencepiece_conversion.convert(content)}
    if folder.kind not in make:
        raise InputError(
            f"{folder.path} has the {file.name} of a {folder.kind}; without a tokenizer.json (which save_pretrained of "
            "transformers writes) only those of LlamaTokenizer and T5Tokenizer can be read"
        )
    made = attempt(lambda: make[folder.kind](proto, folder), f"{file} is not a sentencepiece model")
    added = [(p.piece, p.type == p.CONTROL) for p in proto.pieces if p.type in (p.CONTROL, p.USER_DEFINED)]
    for piece, special in added:
        token = library.AddedToken(piece, normalized=False, special=special)
        (made.add_special_tokens if special else made.add_tokens)([token])
    if folder.kind != "T5Tokenizer":
        _frame(made, folder, None)
    return HuggingFace.parse(made.to_str(), file)


def _llama(proto: Any, folder: Folder) -> library.Tokenizer:
    """As `LlamaTokenizer`: a space before the text, but after a special token only if it is of the `legacy` kind."""
    if proto.trainer_spec.model_type != proto.trainer_spec.BPE:
        raise InputError("a LlamaTokenizer is byte-pair encoding")
    pieces, scores = [piece.piece for piece in proto.pieces], [piece.score for piece in proto.pieces]
    made = library.Tokenizer(
        sentencepiece_conversion.byte_pairs(pieces, scores, sentencepiece_conversion.hidden(proto), byte_fallback=True)
    )
    scheme = tokenizer_classes.prepend_scheme(folder.config)
    made.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, scheme, split=False)
    made.decoder = sentencepiece_conversion.piece_decoder(scheme != "never")
    return made


def _t5(proto: Any, folder: Folder) -> library.Tokenizer:
    """As `T5Tokenizer`: words are cut at white space, and sentinels come after the pieces, downward."""
    count = folder.config.get("extra_ids", SENTINELS)
    if type(count) is not int or not 0 <= count <= 10_000:
        raise InputError(f"{folder.path / 'tokenizer_config.json'}: extra_ids is {count!r}, not a number up to 10000")
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    names = [f"<extra_id_{number}>" for number in reversed(range(count))]
    names = [name for name in names if name not in dict(pieces)]
    made = library.Tokenizer(models.Unigram([*pieces, *((name, 0.0) for name in names)], proto.trainer_spec.unk_id))
    if proto.normalizer_spec.precompiled_charsmap:
        made.normalizer = normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap)
    space = pre_tokenizers.Metaspace(SPACE, "always", split=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), space])
    made.decoder = decoders.Metaspace(SPACE, "always", split=True)
    made.add_special_tokens([library.AddedToken(name, normalized=False) for name in names])
    end = _roles(folder.config, CLASS_ROLES["T5Tokenizer"]).get("eos", "</s>")
    made.post_processor = processors.TemplateProcessing(["$A", end], special_tokens=[(end, made.token_to_id(end))])
    return made


def _frame(
    made: library.Tokenizer, folder: Folder, always: tuple[str, str] | None, defaults: dict[str, str] | None = None
) -> None:
    """Puts tokens around every text: those of two roles, or the begin and end tokens that the config asks for."""
    roles = _roles(folder.config, defaults or CLASS_ROLES.get(folder.kind or "", {}))
    names: Iterable[str | None] = (
        [roles.get(role) for role in always]
        if always
        else [roles.get(role) if folder.config.get(f"add_{role}_token") else None for role in ("bos", "eos")]
    )
    begin, end = ([] if name is None or made.token_to_id(name) is None else [name] for name in names)
    if begin or end:
        tokens = [(name, made.token_to_id(name)) for name in {*begin, *end}]
        made.post_processor = processors.TemplateProcessing([*begin, "$A", *end], special_tokens=tokens)
