import itertools
import json
import string

import numpy as np
import pytest
import regex
import sentencepiece
import tokenizers as huggingface
from hypothesis import given, settings
from hypothesis import strategies as st

from research import config
from research.data import tokenizers
from research.data.tokenizer_backends import Characters
from research.errors import InputError
from tests.data.shared import SHARED, needs_shared

TEXTS = {
    "English": "Welcome to New York City!  Don't blink, it's 12:34.\n\n\tIndented   text.",
    "French": "Être ou ne pas être, là est la question\u00a0: « ça ira » — œuvre, Noël.",
    "Japanese": "日本語のテキストを、きちんと分割できますか？カタカナ。",
    "emoji": "👩‍👩‍👧‍👦 says 🎉🎉 and 👍🏽, ok?",
    "code": "def f(x):\n    return {k: v**2 for k, v in x.items()}  # squares\n\n\nclass A: ...\n",
    "control characters": "a\x00b\x01\x7f\r\n\x0b\x0c \u200b\u2028\ufeff end",
    "spaces": "   three before,   three within, three after   ",
    "block": "▁ is U+2581, ▁▁ twice",
    "combining": "e\u0301 is not é, ﬁ is not fi, Ａ is not A",
    "specials": "<s></s><unk><pad><mask>[MASK]<extra_id_0><|endoftext|><0x41><bos>",
    "empty": "",
}
CORPUS = [text * 3 for text in TEXTS.values()] + [" ".join(f"word{n} thing{n % 7}" for n in range(500))]


@pytest.fixture(scope="module")
def trained():
    return tokenizers.make("train:420", lambda: CORPUS)


@pytest.fixture(scope="module")
def everyone(trained, tmp_path_factory):
    """One tokenizer of each kind that can express every text."""
    byte_level = huggingface.Tokenizer(huggingface.models.BPE())
    byte_level.pre_tokenizer = huggingface.pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_level.decoder = huggingface.decoders.ByteLevel()
    alphabet = huggingface.pre_tokenizers.ByteLevel.alphabet()
    trainer = huggingface.trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "</s>", "<mask>"], initial_alphabet=alphabet, show_progress=False
    )
    byte_level.train_from_iterator(CORPUS, trainer)
    path = tmp_path_factory.mktemp("bpe") / "tokenizer.json"
    byte_level.save(str(path))
    return {
        "bytes": tokenizers.load("bytes"),
        "characters": tokenizers.make("characters", lambda: CORPUS),
        "train": trained,
        "huggingface": tokenizers.load(str(path)),
    }


@pytest.mark.parametrize("kind", ["bytes", "characters", "train", "huggingface"])
@pytest.mark.parametrize("name", TEXTS)
def test_every_text_comes_back_and_none_becomes_a_special_token(everyone, kind, name):
    tokenizer, text = everyone[kind], TEXTS[name]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not set(ids) & tokenizer.vocabulary.special
    assert np.array_equal(tokenizer.encode_many([text, "x"])[0], ids)
    assert all(0 <= i < tokenizer.size for i in ids)
    if not any(piece.startswith("<0x") or "\ufffd" in piece for piece in tokenizer.pieces(ids)):
        assert "".join(tokenizer.pieces(ids)) == text


@settings(deadline=None, max_examples=200)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_trained_pieces_are_exact_on_any_text(trained, text):
    assert trained.decode(trained.encode(text)) == text


@settings(deadline=None, max_examples=50)
@given(st.text(string.printable), st.text(string.printable))
def test_trained_pieces_of_two_texts_decode_to_their_sum(trained, left, right):
    assert trained.decode(trained.encode(left) + trained.encode(right)) == left + right


def test_training_is_deterministic_and_learns_pieces(trained):
    again = tokenizers.make("train:420", lambda: CORPUS)
    assert again.digest == trained.digest
    assert tokenizers.make("train:420", lambda: CORPUS[:-1]).digest != trained.digest
    assert trained.size == 420
    assert len(trained.encode(CORPUS[-1])) < 0.5 * len(CORPUS[-1])


@pytest.mark.parametrize("kind", ["bytes", "characters", "train", "huggingface"])
def test_a_saved_tokenizer_is_identical_with_its_special_tokens(everyone, kind, tmp_path):
    tokenizer = tokenizers.extend(
        everyone[kind], [config.Masked(mode="[M]"), config.SpanCorruption(), config.Causal(mode="[C]")]
    )
    tokenizer.save(tmp_path)
    again = tokenizers.load(str(tmp_path))
    assert again.digest == tokenizer.digest
    assert again == tokenizer
    for text in TEXTS.values():
        assert again.encode(text) == tokenizer.encode(text)


@pytest.mark.parametrize("kind", ["bytes", "characters", "train", "huggingface"])
def test_extending_adds_only_what_is_missing_after_the_last_id(everyone, kind):
    tokenizer = everyone[kind]
    assert tokenizers.extend(tokenizer, [config.Causal(), config.Prefix()]) == tokenizer
    more = tokenizers.extend(tokenizer, [config.Masked(mode="[M]"), config.SpanCorruption(mode="[S]")])
    new = sorted(set(more.names) - set(tokenizer.names))
    assert new == list(range(tokenizer.size, more.size))
    vocabulary = more.vocabulary
    assert {vocabulary.mask, *vocabulary.sentinels, *vocabulary.modes.values()} <= vocabulary.special
    assert len(vocabulary.sentinels) == 100
    assert len({vocabulary.mask, vocabulary.eos, *vocabulary.sentinels, *vocabulary.modes.values()}) == 104
    assert tokenizers.extend(more, [config.Masked(mode="[M]"), config.SpanCorruption()]) == more
    assert more.decode([*more.encode("a b"), vocabulary.mask, vocabulary.sentinels[3]]) == "a b"
    assert more.pieces([vocabulary.sentinels[3], vocabulary.modes["[S]"], more.size + 5]) == [
        "<extra_id_3>",
        "[S]",
        f"<unused {more.size + 5}>",
    ]


def test_long_rows_get_more_sentinels():
    objective = config.SpanCorruption()
    tokenizer = tokenizers.extend(tokenizers.load("bytes"), [objective], [4096])
    assert len(tokenizer.sentinels) == objective.needs(4096).sentinels > tokenizers.SENTINELS


def test_characters_are_the_sorted_alphabet_and_nothing_else():
    tokenizer = tokenizers.make("characters", lambda: ["banana", "cab"])
    assert (tokenizer.size, tokenizer.encode("cab"), tokenizer.names) == (4, [2, 0, 1], {})
    assert tokenizer.vocabulary.bos is None and tokenizer.vocabulary.eos is None
    with pytest.raises(InputError, match=r"the character 'é' \(U\+00E9\) is not among the 4"):
        tokenizer.encode("abcé")


@needs_shared
def test_tiny_shakespeare_has_65_characters():
    text = (SHARED / "text" / "tinyshakespeare.txt").read_text()
    assert Characters.of([text]).size == 65


def test_integers_stand_for_themselves():
    tokenizer = tokenizers.load("integers:5")
    assert (tokenizer.size, tokenizer.encode(" 3 0\n4 "), tokenizer.decode([3, 0, 4])) == (5, [3, 0, 4], "3 0 4")
    for text in ("5", "-1", "three"):
        with pytest.raises(InputError, match="integer"):
            tokenizer.encode(text)


def reference_gpt2(text, encoder, ranks):
    """The algorithm of openai/gpt-2's encoder.py, written again."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    letters = dict(zip(printable, map(chr, printable), strict=True))
    letters |= {b: chr(256 + n) for n, b in enumerate(others)}
    ids = []
    for word in regex.findall(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", text):
        parts = [letters[b] for b in word.encode()]
        while len(parts) > 1:
            rank, place = min((ranks.get(pair, 1 << 30), n) for n, pair in enumerate(itertools.pairwise(parts)))
            if rank == 1 << 30:
                break
            parts[place : place + 2] = ["".join(parts[place : place + 2])]
        ids += [encoder[part] for part in parts]
    return ids


@needs_shared
def test_gpt2_ids_are_those_of_the_original_and_of_transformers():
    from transformers import GPT2Tokenizer

    files = SHARED / "tokenizers" / "gpt2_encoder.json", SHARED / "tokenizers" / "gpt2_vocab.bpe"
    encoder = json.loads(files[0].read_text())
    pairs = [tuple(line.split()) for line in files[1].read_text().split("\n")[1:] if line]
    ours = tokenizers.load(str(SHARED / "tokenizers"))
    theirs = GPT2Tokenizer(vocab=encoder, merges=pairs)
    ranks = {pair: rank for rank, pair in enumerate(pairs)}
    assert (ours.size, ours.bos, ours.eos) == (50257, 50256, 50256)
    assert ours.encode("Hello world") == [15496, 995]
    for name, text in TEXTS.items():
        expected = reference_gpt2(text, encoder, ranks)
        assert ours.encode(text) == expected, name
        if "<|endoftext|>" not in text:  # which transformers does not let be text
            assert theirs(text).input_ids == expected, name
        assert ours.decode(expected) == text, name
    long = (SHARED / "text" / "wikitext2_raw_test.txt").read_text()[:100_000]
    assert ours.encode(long) == theirs(long).input_ids


def test_the_names_of_gpt2_files(tmp_path):
    vocabulary = {letter: n for n, letter in enumerate("abĠ")} | {"ab": 3, "Ġab": 4}
    for number, (encoder, merges) in enumerate((("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / encoder).write_text(json.dumps(vocabulary))
        (folder / merges).write_text("#version: 0.2\na b\nĠ ab\n")
        tokenizer = tokenizers.load(str(folder))
        assert tokenizer.encode("ab aba") == [3, 4, 0]
        assert tokenizer.eos == 5
        assert tokenizer.vocabulary.starts_word.tolist() == [False, False, True, False, True, True]


@needs_shared
def test_sentencepiece_ids_and_specials_are_those_of_the_library():
    path = SHARED / "tokenizers" / "spm_test_model.model"
    ours = tokenizers.load(str(path))
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(path))
    assert (ours.size, ours.bos, ours.eos, ours.names) == (1000, 1, 2, {0: "<unk>", 1: "<s>", 2: "</s>"})
    for name in ("English", "spaces", "code"):
        assert ours.encode(TEXTS[name]) == theirs.encode(TEXTS[name])
    pieces = ours.pieces(ours.encode("I love"))
    assert (pieces[0], "".join(pieces)) == (" I", " I love")
    begins = ours.vocabulary.starts_word
    assert begins[theirs.piece_to_id("▁the")] and begins[1] and not begins[theirs.piece_to_id("s")]


def t5_like(path, texts, **options):
    """A sentencepiece file with T5's ids: padding 0, end 1, unknown 2, no beginning."""
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_writer=file, vocab_size=150, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
            minloglevel=2, hard_vocab_limit=False, **options,
        )  # fmt: skip


def test_t5_sentinels_run_downward_as_in_transformers(tmp_path):
    from transformers import T5Tokenizer

    (tmp_path / "t5").mkdir()
    t5_like(tmp_path / "t5" / "spiece.model", [CORPUS[-1], string.printable])
    ours = tokenizers.extend(tokenizers.load(str(tmp_path / "t5")), [config.SpanCorruption()])
    theirs = T5Tokenizer.from_pretrained(tmp_path / "t5")
    assert ours.sentinels == tuple(theirs.convert_tokens_to_ids([f"<extra_id_{n}>" for n in range(100)]))
    assert ours.sentinels[0] == ours.size - 1 == ours.coder.size + 99
    assert (ours.bos, ours.eos, ours.names[0]) == (None, 1, "<pad>")
    text = "word3 thing4 word499"
    assert [*ours.encode(text), ours.eos] == theirs(text).input_ids
    theirs.save_pretrained(tmp_path / "saved")
    loaded = tokenizers.load(str(tmp_path / "saved"))
    assert (loaded.sentinels, loaded.eos, loaded.encode(text)) == (ours.sentinels, 1, ours.encode(text))
    assert not set(loaded.encode("word3 <extra_id_0> <extra_id_1>thing4")) & set(loaded.sentinels)


def test_symbols_that_a_model_finds_in_text_are_made_special(tmp_path):
    t5_like(
        tmp_path / "x.model", [CORPUS[-1], string.printable], user_defined_symbols=["<mask>", "<extra_id_0>", "word"]
    )
    tokenizer = tokenizers.load(str(tmp_path / "x.model"))
    assert tokenizer.names[tokenizer.mask] == "<mask>"
    assert [tokenizer.names[i] for i in tokenizer.sentinels] == ["<extra_id_0>"]
    assert not set(tokenizer.encode("a <mask> of <extra_id_0>")) & {tokenizer.mask, *tokenizer.sentinels}
    assert "word" not in tokenizer.names.values()  # a piece that its author wants kept whole is ordinary text


def bert_like(path):
    """A WordPiece tokenizer that truncates, pads and adds special tokens unless told otherwise."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ing", "the", ",", *string.ascii_lowercase]
    vocabulary = {piece: n for n, piece in enumerate(pieces)}
    model = huggingface.models.WordPiece(vocabulary, unk_token="[UNK]")
    tokenizer = huggingface.Tokenizer(model)
    tokenizer.normalizer = huggingface.normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = huggingface.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = huggingface.decoders.WordPiece()
    tokenizer.post_processor = huggingface.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_special_tokens(pieces[:5])
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(path))
    return vocabulary


def test_wordpiece_is_read_without_truncation_padding_and_special_tokens(tmp_path):
    vocabulary = bert_like(tmp_path / "tokenizer.json")
    tokenizer = tokenizers.load(str(tmp_path))
    ids = tokenizer.encode("Playing the a, the b")
    assert ids == [vocabulary[p] for p in ("play", "##ing", "the", "a", ",", "the", "b")]
    assert (tokenizer.bos, tokenizer.eos, tokenizer.mask) == (2, 3, 4)
    assert tokenizer.vocabulary.starts_word[ids].tolist() == [True, False, True, True, True, True, True]
    assert not set(tokenizer.encode("[MASK] [CLS]")) & {2, 4}
    assert tokenizer.decode([2, *ids, 3]) == "playing the a, the b"


def test_roles_are_read_from_the_files_beside(tmp_path):
    bert_like(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": None, "eos_token": {"content": "[PAD]"}, "mask_token": "[MASK]", "cls_token": None})
    )
    tokenizer = tokenizers.load(str(tmp_path))
    assert (tokenizer.bos, tokenizer.eos, tokenizer.mask) == (
        2,
        3,
        4,
    )  # a text is put between those, as transformers does
    assert tokenizer.stops == (0,)


def test_what_is_wrong_with_a_name(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.model").write_text("nothing of the kind")
    (tmp_path / "tokenizer.json").write_text("{}")
    for spec, message in {
        "characters": "is made from text",
        "train:400": "is made from text",
        "integers:": "SIZE in integers:SIZE is a positive number",
        str(tmp_path / "empty"): "no tokenizer in .*empty",
        str(tmp_path / "x.model"): "is not a sentencepiece model",
        str(tmp_path / "tokenizer.json"): "is not a tokenizer of the Hugging Face library",
        "nobody/nothing": "is no folder here, and the Hugging Face hub did not give it",
    }.items():
        with pytest.raises(InputError, match=message):
            tokenizers.load(spec)
    for spec, message in {"train:many": "PIECES in train:PIECES is a number", "train:100": "at least 259"}.items():
        with pytest.raises(InputError, match=message):
            tokenizers.make(spec, lambda: CORPUS)
    with pytest.raises(InputError, match="of 4000 pieces cannot be trained on this text"):
        tokenizers.make("train:4000", lambda: ["too short"])


@pytest.mark.parametrize("spec", ["bytes", "characters", "train:420"])
def test_half_of_a_surrogate_pair_is_refused(spec):
    """As an argument has it that was not decoded with the terminal's encoding."""
    made = tokenizers.load("bytes") if spec == "bytes" else tokenizers.make(spec, lambda: CORPUS)
    with pytest.raises(InputError):
        made.encode("a \udcc3 b")
