"""The tokenizer of a GGUF file: what llama.cpp assumes where a key is missing, and refusals by the key's name."""

import json

import pytest
import tokenizers as library

from research.errors import InputError
from research.interop import gguf_tokenizer
from tests.interop.texts import TEXTS

BEGIN, END, TURN = "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"
WORDS = (  # of Llama 3
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)


@pytest.fixture(scope="module")
def reference() -> library.Tokenizer:
    """As Llama 3's, with a piece that no merge makes (its vocabulary has 588 of them)."""
    made = library.Tokenizer(library.models.BPE())
    made.pre_tokenizer = library.pre_tokenizers.Sequence(
        [
            library.pre_tokenizers.Split(library.Regex(WORDS), "isolated"),
            library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = library.pre_tokenizers.ByteLevel.alphabet()
    trainer = library.trainers.BpeTrainer(
        vocab_size=400, special_tokens=[BEGIN, END, TURN], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([text for text in TEXTS[:5] for _ in range(20)], trainer)
    content = json.loads(made.to_str())
    content["model"]["vocab"]["Ġzqx"] = 400
    content["model"]["ignore_merges"] = True
    content["decoder"] = json.loads(library.decoders.ByteLevel().__getstate__())
    return library.Tokenizer.from_str(json.dumps(content))


@pytest.fixture
def metadata(reference) -> dict:
    """As convert_hf_to_gguf.py writes it for Llama 3: without add_bos_token."""
    model = json.loads(reference.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].get)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.token_type": [3] * 3 + [1] * (len(pieces) - 3),
        "tokenizer.ggml.merges": [" ".join(pair) for pair in model["merges"]],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
    }


def test_llama_3_is_read_as_its_own_tokenizer(metadata, reference):
    tokenizer = gguf_tokenizer.from_gguf(metadata)
    reference.encode_special_tokens = True
    for text in [*TEXTS, " zqx zqx", "It's 2024-05-01", "DON'T"]:
        assert tokenizer.encode(text) == reference.encode(text, add_special_tokens=False).ids
    assert tokenizer.encode(" zqx") == [400]  # a word that is a token, though no merge makes it
    assert (tokenizer.bos, tokenizer.eos, tokenizer.stops) == (0, 1, (1, 2))
    assert tokenizer.encode(BEGIN + TURN) != [0, 2]
    assert tokenizer.encode_marked("a" + TURN).tolist()[-1] == 2


@pytest.mark.parametrize(
    ("change", "bos"),
    [
        ({}, 0),
        ({"tokenizer.ggml.pre": "llama3"}, 0),
        ({"tokenizer.ggml.pre": "gpt-2"}, None),
        ({"tokenizer.ggml.pre": "qwen2"}, None),
        ({"tokenizer.ggml.pre": "smollm"}, None),
        ({"tokenizer.ggml.pre": "default"}, None),
        ({"tokenizer.ggml.add_bos_token": False}, None),
        ({"tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.add_bos_token": True}, 0),
    ],
)
def test_whether_a_text_gets_a_beginning_follows_from_pre(metadata, change, bos):
    tokenizer = gguf_tokenizer.from_gguf(metadata | change)
    assert tokenizer.bos == bos
    assert tokenizer.roles["bos_token"] == BEGIN  # which a chat template may write all the same


def test_the_words_of_default_are_those_of_llama_cpp(metadata):
    """By punctuation, then as GPT-2, then numbers by themselves and in threes (`LLAMA_VOCAB_PRE_TYPE_DEFAULT`)."""
    words = gguf_tokenizer._WORDS["default"]
    cut = library.pre_tokenizers.Sequence(words).pre_tokenize_str("(a) 12345, b")
    assert [piece for piece, _ in cut] == ["(", "a", ")", "Ġ", "123", "45", ",", "Ġb"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"pre": None}, r"lacks tokenizer\.ggml\.pre"),
        ({"pre": "unheard-of"}, r"tokenizer\.ggml\.pre 'unheard-of'"),
        ({"pre": 3}, r"tokenizer\.ggml\.pre is '3'"),
        ({"model": "rwkv"}, r"tokenizer\.ggml\.model 'rwkv'"),
        ({"merges": None}, r"lacks tokenizer\.ggml\.merges"),
        ({"merges": ["ab"]}, r"tokenizer\.ggml\.merges has an entry"),
        ({"merges": ["not there"]}, r"tokenizer\.ggml\.merges does not fit"),
        ({"merges": 5}, r"tokenizer\.ggml\.merges is '5'"),
        ({"model": "llama"}, r"tokenizer\.ggml\.scores has 0 values"),
        ({"token_type": [1]}, r"token_type has 1 values for 401 tokens"),
        ({"token_type": 1}, r"token_type is '1', not a list of int"),
        ({"tokens": ["a", "a"]}, "has a token twice"),
        ({"tokens": [1, 2]}, "not a list of str"),
        ({"tokens": None}, "has no tokenizer"),
        ({"eos_token_id": None}, r"lacks tokenizer\.ggml\.eos_token_id"),
        ({"bos_token_id": None}, r"lacks tokenizer\.ggml\.bos_token_id"),
        ({"eos_token_id": 1 << 31}, r"tokenizer\.ggml\.eos_token_id is 2147483648"),
        ({"bos_token_id": [0]}, r"tokenizer\.ggml\.bos_token_id is '\[0\]'"),
        ({"add_space_prefix": True}, r"add_space_prefix = True"),
        ({"add_sep_token": True}, r"add_sep_token = True"),
        ({"add_bos_token": 1}, r"add_bos_token is '1', not bool"),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_key(metadata, change, complaint):
    changed = metadata | {f"tokenizer.ggml.{key}": value for key, value in change.items()}
    with pytest.raises(InputError, match=complaint):
        gguf_tokenizer.from_gguf(changed)


def test_sentencepiece_has_the_defaults_of_llama_cpp():
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁a", "ab", "<x>"]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, 1, 1, 1, 1, 1, 4],
        "tokenizer.ggml.scores": [0.0] * 262 + [-1.0, -2.0, 0.0],
    }
    tokenizer = gguf_tokenizer.from_gguf(metadata)
    assert (tokenizer.bos, tokenizer.eos) == (1, 2)
    assert tokenizer.encode("ab") == [pieces.index("▁a"), pieces.index("b")]
    assert tokenizer.encode("<x>a") == [pieces.index("<x>"), pieces.index("▁a")]  # user-defined: found in any text
    assert not set(tokenizer.encode("<s></s>")) & {1, 2}
    bare = gguf_tokenizer.from_gguf(metadata | {"tokenizer.ggml.add_space_prefix": False})
    assert bare.encode("ab") == [pieces.index("ab")]
