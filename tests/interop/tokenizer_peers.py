"""Small tokenizers of every family, trained here and saved as `transformers` keeps them."""

import json
from collections.abc import Callable
from pathlib import Path

import sentencepiece
import tokenizers as library
import transformers
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from research.data.tokenizers import Tokenizer
from tests.interop.texts import TEXTS

Peer = transformers.PreTrainedTokenizerBase
TRAINING = [text for text in TEXTS[:5] for _ in range(20)] + [f"{n} things and {n * n} other ones" for n in range(200)]
SPLIT = (  # of Llama 3
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
    r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def save(name: str, folder: Path) -> Peer:
    """Saves the tokenizer of the peer `name`, and gives it as `transformers` reads it again."""
    folder.mkdir(parents=True, exist_ok=True)
    family = next(family for family in _FAMILIES if name.startswith(family))
    _FAMILIES[family](folder).save_pretrained(folder)
    return transformers.AutoTokenizer.from_pretrained(folder)


def differ(ours: Tokenizer, theirs: Peer, ends: bool) -> list[str]:
    """The texts of which we have other ids, by themselves or as documents (with what begins and, maybe, ends them)."""
    begin, end = ([] if i is None else [i] for i in (ours.bos, ours.eos if ends else None))
    plain = [text for text in TEXTS if not any(name in text for name in ours.names.values())]
    return [  # a special token that a text spells stays text here
        text
        for text in plain
        if ours.encode(text) != theirs(text, add_special_tokens=False).input_ids
        or [*begin, *ours.encode(text), *end] != theirs(text).input_ids
    ]


def _byte_pairs(words: pre_tokenizers.PreTokenizer, *special: str) -> library.Tokenizer:
    made = library.Tokenizer(models.BPE())
    made.pre_tokenizer = words
    made.decoder = library.decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(TRAINING, trainer)
    return made


def _parts(made: library.Tokenizer) -> tuple[dict[str, int], list[tuple[str, str]]]:
    model = json.loads(made.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def _framed(made: library.Tokenizer, *tokens: str) -> None:
    ids = [(token, made.token_to_id(token)) for token in tokens]
    made.post_processor = processors.TemplateProcessing([tokens[0], "$A", *tokens[1:]], special_tokens=ids)


def _gpt2(folder: Path) -> Peer:
    return transformers.GPT2Tokenizer(*_parts(_byte_pairs(pre_tokenizers.ByteLevel(False), "<|endoftext|>")))


def _smollm2(folder: Path) -> Peer:
    words = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)])
    end = "<|endoftext|>"
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=_byte_pairs(words, end), bos_token=end, eos_token=end, clean_up_tokenization_spaces=False
    )


def _llama3(folder: Path) -> Peer:
    words = [
        pre_tokenizers.Split(library.Regex(SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    begin, end = "<|begin_of_text|>", "<|end_of_text|>"
    made = _byte_pairs(pre_tokenizers.Sequence(words), begin, end)
    _framed(made, begin)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token=begin, eos_token=end, clean_up_tokenization_spaces=False
    )


def _llama2(folder: Path) -> Peer:
    _sentencepiece(folder / "tokenizer.model", model_type="bpe", vocab_size=600, byte_fallback=True)
    return transformers.LlamaTokenizer.from_pretrained(folder, add_bos_token=True)


def _qwen(folder: Path) -> Peer:
    words = pre_tokenizers.ByteLevel(False)
    return transformers.Qwen2Tokenizer(*_parts(_byte_pairs(words, "<|endoftext|>")))


def _bert(folder: Path) -> Peer:
    made = library.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made.train_from_iterator(
        TRAINING, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    )
    return transformers.BertTokenizer(made.get_vocab())


def _roberta(folder: Path) -> Peer:
    special = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    return transformers.RobertaTokenizer(*_parts(_byte_pairs(pre_tokenizers.ByteLevel(False), *special)))


def _modernbert(folder: Path) -> Peer:
    roles = {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]", "pad_token": "[PAD]"}
    made = _byte_pairs(pre_tokenizers.ByteLevel(False), *roles.values())
    _framed(made, "[CLS]", "[SEP]")
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, **roles, clean_up_tokenization_spaces=False)


def _t5(folder: Path) -> Peer:
    _sentencepiece(
        folder / "spiece.model", model_type="unigram", vocab_size=300, pad_id=0, eos_id=1, unk_id=2, bos_id=-1
    )
    return transformers.T5Tokenizer.from_pretrained(folder)


def _neox(folder: Path) -> Peer:
    end = "<|endoftext|>"
    return transformers.GPTNeoXTokenizer(*_parts(_byte_pairs(pre_tokenizers.ByteLevel(False), end)))


def _opt(folder: Path) -> Peer:
    special = ("<pad>", "</s>")
    made = _byte_pairs(pre_tokenizers.ByteLevel(False), *special)
    _framed(made, "</s>")
    roles = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, **roles, clean_up_tokenization_spaces=False)


def _gemma(folder: Path) -> Peer:
    made = library.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    special = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=special, show_progress=False)
    made.train_from_iterator(TRAINING, trainer)
    return transformers.GemmaTokenizer(*_parts(made))


def _albert(folder: Path) -> Peer:
    vocabulary = [("<pad>", 0.0), ("<unk>", 0.0), ("[CLS]", 0.0), ("[SEP]", 0.0), ("[MASK]", 0.0)]
    letters = sorted({letter for text in TRAINING for letter in text.lower() if not letter.isspace()} | {"▁"})
    pieces = [(piece, -3.0) for piece in ("▁the", "▁and", "th", "ing", "er")]
    return transformers.AlbertTokenizer(vocab=vocabulary + pieces + [(letter, -5.0) for letter in letters])


def _sentencepiece(path: Path, **options: object) -> None:
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(line for text in TRAINING for line in text.replace("\0", "").splitlines()),
            model_writer=file,
            hard_vocab_limit=False,
            minloglevel=2,
            **options,
        )


_FAMILIES: dict[str, Callable[[Path], Peer]] = {  # the beginning of a peer's name -> how its tokenizer is made
    "gpt2": _gpt2,
    "llama 2": _llama2,
    "llama": _llama3,
    "smollm2": _smollm2,
    "qwen": _qwen,
    "bert": _bert,
    "roberta": _roberta,
    "modernbert": _modernbert,
    "t5": _t5,
    "ul2": _t5,
    "mt5": _t5,
    "umt5": _t5,
    "mistral": _llama2,
    "smollm3": _llama3,
    "pythia": _neox,
    "gpt_neox": _neox,
    "phi3": _llama2,
    "olmo": _neox,
    "stablelm": _neox,
    "cohere": _llama3,
    "gptj": _gpt2,
    "opt": _opt,
    "gemma": _gemma,
    "distilbert": _bert,
    "electra": _bert,
    "albert": _albert,
}
