"""Folders of tokenizers: ids and roles are those that `transformers` gives, and no text becomes a special token."""

import json
from pathlib import Path

import pytest
import sentencepiece
import tokenizers as library

from research.data import huggingface_backend, tokenizers
from research.data.huggingface_backend import APART
from research.errors import InputError
from research.interop import huggingface
from tests.data.test_tokenizers import CORPUS, TEXTS

transformers = pytest.importorskip("transformers")

LINES = [line for text in CORPUS for line in text.replace("\x00", "").splitlines()]
ADDED = ["<|im_start|>", "<|im_end|>"]


def put(folder: Path, **files) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def both(folder: Path) -> tuple[tokenizers.Tokenizer, "transformers.PreTrainedTokenizerBase"]:
    return huggingface.read_tokenizer(folder), transformers.AutoTokenizer.from_pretrained(folder)


def check(folder: Path, ends: bool = False) -> tokenizers.Tokenizer:
    """Ids of texts and of documents are equal."""
    ours, theirs = both(folder)
    begin, end = ([] if i is None else [i] for i in (ours.bos, ours.eos if ends else None))
    for name, text in TEXTS.items():
        if not any(special in text for special in ours.names.values()):
            assert ours.encode(text) == theirs(text, add_special_tokens=False).input_ids, name
            assert [*begin, *ours.encode(text), *end] == theirs(text).input_ids, name
    assert ours.size == len(theirs)
    return ours


def sentencepieces(path: Path, **options) -> int:
    settings = {"vocab_size": 420, "hard_vocab_limit": False, "minloglevel": 2, "num_threads": 1, **options}
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(LINES), model_writer=file, **settings)
    return sentencepiece.SentencePieceProcessor(model_file=str(path)).get_piece_size()


LLAMA = {"model_type": "bpe", "byte_fallback": True}
LLAMA |= {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}


@pytest.mark.parametrize("legacy", [None, False, True])
@pytest.mark.parametrize("how", ["added_tokens_decoder", "added_tokens.json"])
def test_a_sentencepiece_file_with_added_tokens(tmp_path, legacy, how):
    """As of eole#101: added tokens, roles and a template beside `tokenizer.model`."""
    size = sentencepieces(tmp_path / "tokenizer.model", **LLAMA)
    config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "<|im_end|>", "unk_token": "<unk>"}
    config |= {"add_bos_token": True, "chat_template": "{{ messages }}"} | (
        {} if legacy is None else {"legacy": legacy}
    )
    numbers = {name: size + place for place, name in enumerate(ADDED)}
    if how == "added_tokens.json":
        put(tmp_path, added_tokens=numbers, special_tokens_map={"additional_special_tokens": ADDED, **config})
        put(tmp_path, tokenizer_config=config)
    else:
        flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
        ids = {0: "<unk>", 1: "<s>", 2: "</s>", **{i: name for name, i in numbers.items()}}
        decoder = {str(i): {"content": name, **flags} for i, name in ids.items()}
        put(tmp_path, tokenizer_config=config | {"added_tokens_decoder": decoder})
    ours = check(tmp_path)
    _, theirs = both(tmp_path)
    assert (ours.bos, ours.eos, ours.chat_template) == (theirs.bos_token_id, theirs.eos_token_id, theirs.chat_template)
    assert [ours.names[size + place] for place in (0, 1)] == ADDED
    assert not set(ours.encode("<|im_start|> <s>")) & set(ours.names)


def test_contradicting_ids_are_refused(tmp_path):
    sentencepieces(tmp_path / "tokenizer.model", **LLAMA)
    put(tmp_path, tokenizer_config={"tokenizer_class": "LlamaTokenizer"}, added_tokens={"<|x|>": 5000})
    with pytest.raises(InputError, match=r"'<\|x\|>' is said to have the id 5000, but it would get"):
        tokenizers.load(str(tmp_path))


def test_t5_is_read_from_its_sentencepiece_file_alone(tmp_path):
    sentencepieces(tmp_path / "spiece.model", vocab_size=300, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    put(tmp_path, config={"model_type": "t5"})
    ours = check(tmp_path, ends=True)
    _, theirs = both(tmp_path)
    assert ours.sentinels == tuple(theirs.convert_tokens_to_ids([f"<extra_id_{n}>" for n in range(100)]))
    assert not set(ours.encode("a <extra_id_7> b")) & set(ours.sentinels)


def test_bert_is_read_from_its_vocabulary_alone(tmp_path):
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ing", "the", ",", *"abcdefgh", "##s"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    put(tmp_path, config={"model_type": "bert"})
    ours = check(tmp_path, ends=True)
    assert (ours.bos, ours.eos, ours.mask) == (2, 3, 4)
    assert ours.encode("Playing the [MASK]")[:3] == [5, 6, 7]


@pytest.mark.parametrize("kind", ["GPT2Tokenizer", "Qwen2Tokenizer", "RobertaTokenizer", "GPT2TokenizerFast"])
def test_vocabulary_and_merges_are_read_by_their_class(tmp_path, kind):
    made = library.Tokenizer(library.models.BPE())
    made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "</s>", "<pad>", "<unk>", "<mask>", "<|endoftext|>"]
    alphabet = library.pre_tokenizers.ByteLevel.alphabet()
    trainer = library.trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(LINES, trainer)
    made.model.save(str(tmp_path))
    put(tmp_path, tokenizer_config={"tokenizer_class": kind})
    ours = check(tmp_path, ends=kind == "RobertaTokenizer")
    assert ours.eos == both(tmp_path)[1].eos_token_id
    put(tmp_path, tokenizer_config={"tokenizer_class": "WhisperTokenizer"})
    with pytest.raises(InputError, match=r"vocab\.json and merges\.txt of a WhisperTokenizer"):
        tokenizers.load(str(tmp_path))


@pytest.mark.parametrize("config", [{}, {"unk_token": "[UNK]"}, {"cls_token": "[CLS]", "sep_token": "[SEP]"}])
def test_roles_follow_from_the_post_processor(tmp_path, config):
    """As of llama.cpp#24428: whatever `tokenizer_config.json` names, a text begins and ends as in transformers."""
    words = dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello"])
    made = library.Tokenizer(library.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = library.pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(list(words)[:5])
    frame = [("[CLS]", 2), ("[SEP]", 3)]
    made.post_processor = library.processors.TemplateProcessing(["[CLS]", "$A", "[SEP]"], special_tokens=frame)
    made.save(str(tmp_path / "tokenizer.json"))
    put(tmp_path, tokenizer_config=config)
    ours = tokenizers.load(str(tmp_path))
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert [ours.bos, *ours.encode("hello"), ours.eos] == theirs("hello").input_ids
    assert ours.mask == 4


def test_more_than_one_token_around_a_text_is_refused(tmp_path):
    made = library.Tokenizer(library.models.WordLevel({"<s>": 0, "<t>": 1, "a": 2}, unk_token="a"))
    made.add_special_tokens(["<s>", "<t>"])
    frame = [("<s>", 0), ("<t>", 1)]
    made.post_processor = library.processors.TemplateProcessing(["<s>", "<t>", "$A"], special_tokens=frame)
    made.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(InputError, match="puts <s>, <t> before every text; only one can be"):
        tokenizers.load(str(tmp_path))


@pytest.mark.parametrize("part", ["pre_tokenizer", "normalizer", "decoder"])
def test_an_expression_that_is_slow_everywhere_is_refused(tmp_path, monkeypatch, part):
    """At one place the library tries ten million ways at most; here it needs three million at each of many."""
    monkeypatch.setattr(huggingface_backend, "SECONDS", 2.0)
    made = library.Tokenizer(library.models.WordLevel({"a": 0}, unk_token="a"))
    slow = library.Regex("(.*)(.*)(.*)(?!.)(?=.)")
    if part == "pre_tokenizer":
        made.pre_tokenizer = library.pre_tokenizers.Split(slow, "isolated")
    elif part == "normalizer":
        made.normalizer = library.normalizers.Replace(slow, "b")
    else:
        made.decoder = library.decoders.Replace(slow, "b")
    made.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(InputError, match="regular expressions take more than 2 seconds on a page of repetitions"):
        tokenizers.load(str(tmp_path))


def test_an_added_token_whose_id_is_not_its_place_is_refused(tmp_path):
    """The library numbers added tokens in their order, whatever ids the file gives them; models were trained on one."""
    for ids in ((4, 3), (3, 7), (3, 3)):
        stored = json.loads(library.Tokenizer(library.models.WordLevel({"a": 0, "b": 1, "c": 2}, "a")).to_str())
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        tokens = [{"id": i, "content": f"<{n}>", "special": True, **flags} for n, i in enumerate(ids)]
        (tmp_path / "tokenizer.json").write_text(json.dumps(stored | {"added_tokens": tokens}))
        with pytest.raises(InputError, match=r"its added token '<\d>' has the id \d, but gets"):
            tokenizers.load(str(tmp_path))


def test_ends_of_generation_are_those_of_the_configs(tmp_path):
    made = library.Tokenizer(library.models.WordLevel({"<s>": 0, "</s>": 1, "<e>": 2, "a": 3}, unk_token="a"))
    made.add_special_tokens(["<s>", "</s>"])
    made.save(str(tmp_path / "tokenizer.json"))
    put(tmp_path, tokenizer_config={"eos_token": "</s>"}, config={"eos_token_id": [1, 2]})
    assert huggingface.read_tokenizer(tmp_path).stops == (1, 2)
    put(tmp_path, generation_config={"eos_token_id": 2})
    assert huggingface.read_tokenizer(tmp_path).stops == (2,)
    put(tmp_path, generation_config={"eos_token_id": "x"})
    with pytest.raises(InputError, match=r"generation_config\.json: eos_token_id is 'x'"):
        huggingface.read_tokenizer(tmp_path)
    again = huggingface.read_tokenizer(put(tmp_path, generation_config={"eos_token_id": [2, 1]}))
    again.save(tmp_path / "saved")
    assert tokenizers.load(str(tmp_path / "saved")) == again


SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = {piece: number for number, piece in enumerate([*SPECIAL, "the", "sat", "[", "]", "M", "A"])}
UNIGRAM = [(piece, -1.0) for piece in WORDS]
EVERY_KIND = {
    "WordLevel": lambda: library.models.WordLevel(WORDS, unk_token="[UNK]"),
    "WordPiece": lambda: library.models.WordPiece(WORDS, unk_token="[UNK]"),
    "BPE with whole words": lambda: library.models.BPE(WORDS, [], ignore_merges=True, unk_token="[UNK]"),
    "BPE with merges": lambda: library.models.BPE(WORDS | {"[M": 11, "[MASK]": 4, "ASK]": 12}, [("[M", "ASK]")]),
    "Unigram": lambda: library.models.Unigram(UNIGRAM, 1),
}


@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest.mark.parametrize("splits", [True, False])
def test_no_text_becomes_a_special_token(tmp_path, kind, splits):
    made = library.Tokenizer(EVERY_KIND[kind]())
    made.pre_tokenizer = library.pre_tokenizers.WhitespaceSplit() if splits else None
    made.add_special_tokens(SPECIAL)
    made.save(str(tmp_path / "tokenizer.json"))
    tokenizer = tokenizers.load(str(tmp_path))
    unknown = {1}  # what no piece expresses
    for text in ("the [MASK] sat [SEP]", "[MASK]", "[CLS][SEP]", f"{APART}4{APART}", f"the {APART}3{APART} [PAD]"):
        ids = tokenizer.encode(text)
        assert not set(ids) & {0, 2, 3, 4}, text
        assert set(ids) & tokenizer.vocabulary.special <= unknown
    if splits and kind != "BPE with merges":  # which has none for these
        assert tokenizer.encode("the sat") == [5, 6]


def test_a_single_character_stays_text_though_it_pads(tmp_path):
    """As "!" in models whose authors took it as padding."""
    made = library.Tokenizer(library.models.BPE({"!": 0, "a": 1}, []))
    made.decoder = library.decoders.Fuse()
    made.save(str(tmp_path / "tokenizer.json"))
    put(tmp_path, tokenizer_config={"pad_token": "!"})
    tokenizer = tokenizers.load(str(tmp_path))
    assert tokenizer.encode("a!") == [1, 0] and tokenizer.decode([1, 0]) == "a!"
    put(tmp_path, tokenizer_config={"eos_token": "!"})
    tokenizer = tokenizers.load(str(tmp_path))
    assert tokenizer.encode("a!") == [1, 0] and tokenizer.stops == (0,)


def test_marks_of_byte_order_and_damage(tmp_path):
    made = library.Tokenizer(library.models.WordLevel({"é": 0}, unk_token="é"))
    (tmp_path / "tokenizer.json").write_text("\ufeff" + made.to_str(), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text('\ufeff{"eos_token": "é"}', encoding="utf-8")
    assert tokenizers.load(str(tmp_path)).size == 1
    content = json.loads(made.to_str())
    for change, complaint in {
        '{"added_tokens": [], "model": ' + "[" * 100_000: "is not JSON",
        json.dumps(
            content | {"model": content["model"] | {"vocab": {"é": 1 << 31}}}
        ): "the id 2147483648 of a tokenizer",
        json.dumps(content | {"added_tokens": [{"id": 1 << 40, "content": "x"}]}): "the id 1099511627776",
        json.dumps(content | {"model": None}): "is not a tokenizer of the Hugging Face library",
    }.items():
        (tmp_path / "tokenizer.json").write_text(change, encoding="utf-8")
        with pytest.raises(InputError, match=complaint):
            tokenizers.load(str(tmp_path))
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(InputError, match="cannot be read as UTF-8"):
        tokenizers.load(str(tmp_path))


def test_links_out_of_a_folder_are_not_followed(tmp_path):
    made = library.Tokenizer(library.models.WordLevel({"a": 0}, unk_token="a"))
    made.save(str(tmp_path / "elsewhere.json"))
    folder = put(tmp_path / "folder")
    (folder / "tokenizer.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(InputError, match=r"is a link to .*elsewhere"):
        tokenizers.load(str(folder))
    cache = tmp_path / "models--a--b"
    (cache / "blobs").mkdir(parents=True)
    (cache / "snapshots" / "abc").mkdir(parents=True)
    made.save(str(cache / "blobs" / "1234"))
    (cache / "snapshots" / "abc" / "tokenizer.json").symlink_to("../../blobs/1234")
    assert tokenizers.load(str(cache / "snapshots" / "abc")).size == 1


def test_a_damaged_saved_tokenizer_is_named(tmp_path):
    tokenizers.load("bytes").save(tmp_path)
    path = tmp_path / "specials.json"
    good = json.loads(path.read_text(encoding="utf-8"))
    for change, complaint in [
        ({"kind": "unheard"}, "kind is 'unheard'"),
        ({"kind": ["bytes"]}, "kind is"),
        ({"names": [1]}, "names is not an object"),
        ({"names": {"x": "y"}}, "names is not an object from ids"),
        ({"names": {"2000000000": "y"}}, "an id is larger"),
        ({"sentinels": 3}, "sentinels is 3"),
        ({"bos": "x"}, "bos, eos and mask are ids"),
        ({"bos": 300}, "an id is larger"),
        ({"modes": {"a": None}}, "modes is not an object"),
        ({"unheard": 1}, "unheard is not of a saved tokenizer"),
    ]:
        path.write_text(json.dumps(good | change), encoding="utf-8")
        with pytest.raises(InputError, match=complaint):
            tokenizers.load(str(tmp_path))


def test_long_lines_are_trained_on(monkeypatch):
    from research.data import tokenizer_backends

    monkeypatch.setattr(tokenizer_backends, "LONGEST_LINE", 400)
    line = "uncommonword " * 500
    with_it = tokenizers.make("train:400", lambda: [line, *LINES])
    without = tokenizers.make("train:400", lambda: LINES)
    assert len(with_it.encode("uncommonword")) < len(without.encode("uncommonword"))
