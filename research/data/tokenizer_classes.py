"""What the classes of `transformers` (version 5) say about a tokenizer beside its files: the roles of tokens that no
file names, and the parts of a `tokenizer.json` that they make anew, whatever it has.

| class | what it makes anew |
| --- | --- |
| BertTokenizer | small letters, accents, spaces around Chinese characters: as `tokenizer_config.json` says |
| GPT2Tokenizer, Qwen2Tokenizer, RobertaTokenizer, CohereTokenizer | a space before the text: `add_prefix_space` |
| GPTNeoXTokenizer | the same, composed characters (NFC), and no tokens around a text |
| LlamaTokenizer | spaces: before the text and, if it is `legacy`, after each special token |

A pre-tokenizer that is not the one of the class is read as it is, which is said: that class would replace it.
"""

import json
import logging
from pathlib import Path
from typing import Any

import tokenizers as library
from tokenizers import pre_tokenizers

from research.data import sentencepiece_conversion
from research.data.sentencepiece_conversion import SPACE

log = logging.getLogger(__name__)
END = "<|endoftext|>"
CLASS_ROLES: dict[str, dict[str, str]] = {  # where tokenizer_config.json is silent
    "GPT2Tokenizer": {"bos": END, "eos": END, "unk": END},
    "GPTNeoXTokenizer": {"bos": END, "eos": END, "unk": END, "pad": "<|padding|>"},
    "Qwen2Tokenizer": {"eos": END, "unk": END, "pad": END},
    "LlamaTokenizer": {"bos": "<s>", "eos": "</s>", "unk": "<unk>"},
    "CohereTokenizer": {
        **{"bos": "<BOS_TOKEN>", "eos": "<|END_OF_TURN_TOKEN|>", "unk": "<UNK>", "pad": "<PAD>", "cls": "<CLS>"},
        **{"sep": "<SEP>", "mask": "<MASK_TOKEN>"},
    },
    "GemmaTokenizer": {"bos": "<bos>", "eos": "<eos>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>"},
    "T5Tokenizer": {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"},
    "BertTokenizer": {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"},
    "RobertaTokenizer": {
        **{"bos": "<s>", "eos": "</s>", "unk": "<unk>", "sep": "</s>", "pad": "<pad>", "cls": "<s>"},
        "mask": "<mask>",
    },
}
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SAME = {
    "CodeGenTokenizer": "GPT2Tokenizer",
    "CodeLlamaTokenizer": "LlamaTokenizer",
    "DistilBertTokenizer": "BertTokenizer",
    "ElectraTokenizer": "BertTokenizer",
}
_MODEL_CLASSES = {  # of a model_type, where no file names a class
    **dict.fromkeys(("gpt2", "gptj", "opt"), "GPT2Tokenizer"),
    **dict.fromkeys(("qwen2", "qwen3"), "Qwen2Tokenizer"),
    **dict.fromkeys(("bert", "distilbert", "electra"), "BertTokenizer"),
    **dict.fromkeys(("gemma", "gemma2", "gemma3_text"), "GemmaTokenizer"),
    **dict.fromkeys(("t5", "mt5"), "T5Tokenizer"),
    **{"cohere": "CohereTokenizer", "gpt_neox": "GPTNeoXTokenizer", "roberta": "RobertaTokenizer"},
}
# models whose tokenizer.json is taken as it is, whatever class tokenizer_config.json names
_AS_IT_IS = ("mistral", "modernbert", "olmo2", "olmo3", "phi3", "stablelm", "umt5")
_GENERAL = ("PreTrainedTokenizerFast", "TokenizersBackend")
_PREFIX_SPACE = ("CohereTokenizer", "GPT2Tokenizer", "GPTNeoXTokenizer", "Qwen2Tokenizer", "RobertaTokenizer")
_PARTS = {  # pre-tokenizers of a class, by what they have in common
    **{kind: [("ByteLevel", True)] for kind in ("GPT2Tokenizer", "GPTNeoXTokenizer", "RobertaTokenizer")},
    "Qwen2Tokenizer": [("Split", QWEN_WORDS), ("ByteLevel", False)],
    "BertTokenizer": [("BertPreTokenizer", None)],
    "CohereTokenizer": [("Digits", True), ("ByteLevel", True)],
    "GemmaTokenizer": [("Split", " ")],
    "T5Tokenizer": [("WhitespaceSplit", None), ("Metaspace", None)],
}


def named(name: Any, model_type: Any) -> str | None:
    """The class that `tokenizer_config.json` names, else that of the model; None: none in particular."""
    if name is None:
        return _MODEL_CLASSES.get(model_type) if isinstance(model_type, str) else None
    kind = name.removesuffix("Fast") if isinstance(name, str) and name not in _GENERAL else None
    return _SAME.get(kind or "", kind)


def of_file(kind: str | None, model_type: str | None, text: str) -> str | None:
    """The class that reads a `tokenizer.json`, where `kind` is `named`; None: none in particular."""
    if model_type == "qwen2":
        return _MODEL_CLASSES[model_type]
    byte_level = kind == "LlamaTokenizer" and '"ByteLevel"' in text  # as of Llama 3, which the class cannot be
    return None if byte_level or model_type in _AS_IT_IS else kind


def remade(text: str, kind: str | None, config: dict[str, Any], file: Path) -> str:
    """The content of a `tokenizer.json` as its class makes it."""
    stored = json.loads(text)
    normalizer, splitter = stored.get("normalizer") or {}, stored.get("pre_tokenizer") or {}
    parts = splitter.get("pretokenizers", [splitter])
    if kind in _PARTS and list(map(_essence, parts)) != _PARTS[kind]:
        log.warning(
            "%s: its pre-tokenizer is not that of %s, which transformers would put in its place; it is read as it is",
            file,
            kind,
        )
    elif kind == "LlamaTokenizer" and stored["model"].get("type") == "BPE" and stored["model"].get("byte_fallback"):
        stored |= {"normalizer": None, **_spaces(config)}
    elif kind == "BertTokenizer" and normalizer.get("type") == "BertNormalizer":
        normalizer |= {
            "lowercase": bool(config.get("do_lower_case", True)),
            "strip_accents": config.get("strip_accents"),
            "handle_chinese_chars": bool(config.get("tokenize_chinese_chars", True)),
        }
    elif kind in _PREFIX_SPACE:
        given = config.get("add_prefix_space")
        if given is not None:
            parts[-1]["add_prefix_space"] = bool(given)
        if kind == "GPTNeoXTokenizer":
            stored |= {"normalizer": {"type": "NFC"}, "post_processor": None}
    return text if stored == json.loads(text) else json.dumps(stored, ensure_ascii=False)


def _essence(part: dict[str, Any]) -> tuple[Any, Any]:
    """What tells one pre-tokenizer from another of the same type."""
    pattern = part.get("pattern") or {}
    own = {
        "Split": next(iter(pattern.values()), None),
        "ByteLevel": part.get("use_regex"),
        "Digits": part.get("individual_digits"),
    }
    return part.get("type"), own.get(part.get("type", ""))


def prepend_scheme(config: dict[str, Any]) -> str:
    """When LlamaTokenizer puts a space: before the text ("first"), or after special tokens too ("always")."""
    if config.get("add_prefix_space") not in (None, True):
        return "never"
    return "always" if config.get("legacy", False) else "first"


def _spaces(config: dict[str, Any]) -> dict[str, Any]:
    """The pre-tokenizer and the decoder of LlamaTokenizer."""
    scheme = prepend_scheme(config)
    made = library.Tokenizer(library.models.BPE())
    made.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, scheme, split=False)
    made.decoder = sentencepiece_conversion.piece_decoder(scheme != "never")
    stored = json.loads(made.to_str())
    return {part: stored[part] for part in ("pre_tokenizer", "decoder")}
