"""What the classes of `transformers` make of a `tokenizer.json`, and which roles they give to tokens."""

import json

import pytest
import tokenizers as library

from research.data import tokenizers
from tests.data.test_tokenizer_folders import LINES, both, check, put

transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("config", [{}, {"do_lower_case": True}, {"do_lower_case": False, "strip_accents": True}])
def test_the_class_of_bert_says_which_letters_are_made_small(tmp_path, stored, config):
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "Play", "##ing", "the", "The", "ete", *"abcdefghT"]
    made = library.Tokenizer(library.models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    made.normalizer = library.normalizers.BertNormalizer(lowercase=stored)
    made.pre_tokenizer, made.decoder = library.pre_tokenizers.BertPreTokenizer(), library.decoders.WordPiece()
    made.add_special_tokens(pieces[:5])
    framed = [("[CLS]", 2), ("[SEP]", 3)]
    made.post_processor = library.processors.TemplateProcessing(["[CLS]", "$A", "[SEP]"], special_tokens=framed)
    made.save(str(tmp_path / "tokenizer.json"))
    for kind in ("BertTokenizer", "BertTokenizerFast", "PreTrainedTokenizerFast"):
        put(tmp_path, tokenizer_config={"tokenizer_class": kind, "unk_token": "[UNK]", **config})
        ours, theirs = both(tmp_path)
        for text in ("The Playing", "the playing", "été a B"):
            assert [2, *ours.encode(text), 3] == theirs(text).input_ids, (kind, text)


@pytest.mark.parametrize("prefix", [True, False, None])
def test_a_space_before_the_text_is_of_the_config(tmp_path, prefix):
    made = library.Tokenizer(library.models.BPE())
    made.pre_tokenizer, made.decoder = library.pre_tokenizers.ByteLevel(False), library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(vocab_size=400, special_tokens=["<|endoftext|>"], show_progress=False)
    made.train_from_iterator(LINES, trainer)
    made.save(str(tmp_path / "tokenizer.json"))
    put(tmp_path, tokenizer_config={"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": bool(prefix)})
    if prefix is None:
        put(tmp_path, tokenizer_config={"tokenizer_class": "GPT2Tokenizer"})
    check(tmp_path)


def byte_level(*special):
    made = library.Tokenizer(library.models.BPE())
    made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = library.decoders.ByteLevel()
    alphabet = library.pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        LINES, library.trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    made.add_special_tokens(list(special))
    return made


def byte_fallback(*special):
    """As Llama 2's `tokenizer.json`: a space before every piece of text between special tokens."""
    made = library.Tokenizer(library.models.BPE())
    made.pre_tokenizer = library.pre_tokenizers.Metaspace()
    made.train_from_iterator(LINES, library.trainers.BpeTrainer(vocab_size=300, show_progress=False))
    model = json.loads(made.to_str())["model"]
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    vocab = {piece: number for number, piece in enumerate(dict.fromkeys([*special, *bytes_, *model["vocab"]]))}
    merges = [tuple(pair) for pair in model["merges"]]
    made = library.Tokenizer(library.models.BPE(vocab, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    prepend, replace = library.normalizers.Prepend("\u2581"), library.normalizers.Replace(" ", "\u2581")
    made.normalizer = library.normalizers.Sequence([prepend, replace])
    steps = [library.decoders.Replace("\u2581", " "), library.decoders.ByteFallback(), library.decoders.Fuse()]
    made.decoder = library.decoders.Sequence([*steps, library.decoders.Strip(" ", 1, 0)])
    made.add_special_tokens(list(special))
    return made


CLASSES = [
    *(("LlamaTokenizer", {"legacy": legacy} if legacy is not None else {}) for legacy in (None, False, True)),
    *(("LlamaTokenizerFast", {"add_prefix_space": False}), ("GPTNeoXTokenizer", {"add_prefix_space": True})),
    *(("GPTNeoXTokenizerFast", {}), ("RobertaTokenizer", {"add_prefix_space": True}), ("GPT2Tokenizer", {})),
]


@pytest.mark.parametrize(("kind", "settings"), CLASSES)
def test_a_tokenizer_json_is_read_as_its_class_makes_it(tmp_path, kind, settings):
    """Spaces at the beginning and after special tokens, composed letters, tokens around a text."""
    special = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|endoftext|>", "<|padding|>", "<mask>", "<pad>"]
    made = (byte_fallback if "Llama" in kind else byte_level)(*special)
    if "Roberta" in kind:
        ends = [(name, made.token_to_id(name)) for name in ("</s>", "<s>")]
        made.post_processor = library.processors.RobertaProcessing(*ends)
    made.save(str(tmp_path / "tokenizer.json"))
    put(tmp_path, tokenizer_config={"tokenizer_class": kind, **settings})
    ours = check(tmp_path, ends="Roberta" in kind)
    _, theirs = both(tmp_path)
    for text in (" one", "  two", "e\u0301", "<|im_start|> a<|im_start|>b"):
        assert ours.coder.encode_marked(text)[0].tolist() == theirs(text, add_special_tokens=False).input_ids
    assert ours.decode(ours.encode(" one")) == theirs.decode(ours.encode(" one"))


def test_another_pre_tokenizer_than_that_of_the_class_is_read_as_it_is_and_said(tmp_path, caplog):
    byte_level("<|endoftext|>").save(str(tmp_path / "tokenizer.json"))
    put(tmp_path, tokenizer_config={"tokenizer_class": "Qwen2Tokenizer"})
    ids = tokenizers.load(str(tmp_path)).encode("2024")
    assert "its pre-tokenizer is not that of Qwen2Tokenizer" in caplog.text
    put(tmp_path, tokenizer_config={"tokenizer_class": "PreTrainedTokenizerFast"})
    caplog.clear()
    assert tokenizers.load(str(tmp_path)).encode("2024") == ids and not caplog.text


def test_roles_of_one_model_alone_are_special_tokens_too(tmp_path):
    byte_level().save(str(tmp_path / "tokenizer.json"))
    put(tmp_path, tokenizer_config={"image_token": "<image>", "eos_token": "<e>", "add_bos_token": True})
    assert set(check(tmp_path).names.values()) == {"<e>", "<image>"}
