"""Tiny valid inputs as other tools write them, and how they are read: tokenizers, checkpoints, chat templates."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from research.data import tokenizers

TEXTS = ("one text", "été, 世界 🎉", "x" * 40 + "!", " a  b\n<|end|> ")
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] | trim }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
LLAMA = {
    "model_type": "llama",
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "vocab_size": 272,
    "max_position_embeddings": 32,
    "tie_word_embeddings": True,
    "rope_scaling": None,
    "pad_token_id": None,
}


def encoded(folder: Path) -> Any:
    """What a folder's tokenizer makes of some texts, and of their tokens again."""
    tokenizer = tokenizers.load(str(folder))
    return [(tokenizer.decode(ids), tokenizer.pieces(ids)) for ids in map(tokenizer.encode, TEXTS)]


def saved(folder: Path) -> None:
    """As a run keeps it, with an alphabet of its own."""
    tokenizers.make("characters", lambda: TEXTS).save(folder)


def folder_of_json(folder: Path) -> None:
    """As `transformers` writes it: `tokenizer.json` and the files beside it, with a template."""
    import tokenizers as library

    made = library.Tokenizer(library.models.BPE())
    made.pre_tokenizer = library.pre_tokenizers.Sequence(
        [
            library.pre_tokenizers.Split(library.Regex(r"\s+|\w+|[^\s\w]+"), "isolated"),
            library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=280,
        special_tokens=["<|end|>"],
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(TEXTS, trainer)
    made.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "<|end|>", "bos_token": None, "chat_template": TEMPLATE, "add_bos_token": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    roles = {"eos_token": {"content": "<|end|>", "lstrip": False}, "additional_special_tokens": []}
    (folder / "special_tokens_map.json").write_text(json.dumps(roles), encoding="utf-8")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [0]}), encoding="utf-8")


def template(folder: Path) -> None:
    folder_of_json(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    del settings["chat_template"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")


def rendered(folder: Path) -> Any:
    """A conversation as the folder's chat template has it."""
    from research.data import chat

    messages = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I."}]
    tokenizer = tokenizers.load(str(folder))
    return [chat.encode(each, tokenizer) for each in chat.prompt_completions({"messages": messages})]


def pieces(folder: Path) -> None:
    """As sentencepiece writes it, with the settings of `transformers` beside it."""
    import sentencepiece

    with (folder / "tokenizer.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([text for text in TEXTS for _ in range(5)]),
            model_writer=file,
            vocab_size=300,
            model_type="bpe",
            byte_fallback=True,
            hard_vocab_limit=False,
            minloglevel=2,
            num_threads=1,
        )
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def huggingface(folder: Path) -> None:
    """A Llama of one layer."""
    from research.config import MLP, Attention, Model, resolve
    from research.interop import config_json, mapping, safetensors, tokenizer_json

    small = Model(width=8, depth=1, vocabulary=272, attention=Attention(heads=2), mlp=MLP(width=12))
    _, names = config_json.write(resolve(small, 0, 32))
    shapes = mapping.shapes(resolve(small, 0, 32), names)
    arrays = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    safetensors.write_file(folder / safetensors.SINGLE, shapes, np.dtype(np.float32), arrays.items())
    (folder / "config.json").write_text(json.dumps(LLAMA), encoding="utf-8")
    tokenizer_json.write(folder, tokenizers.load("bytes"), ends=False)


def gguf(folder: Path) -> None:
    """The same with a vocabulary of its own."""
    from research.config import MLP, Attention, Model, resolve
    from research.interop import mapping, names
    from tests.interop import test_gguf

    with tempfile.TemporaryDirectory() as other:
        folder_of_json(Path(other))
        vocabulary = json.loads((Path(other) / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    tokens = sorted(vocabulary["vocab"], key=vocabulary["vocab"].get)
    sizes = {"width": 8, "depth": 1, "vocabulary": len(tokens)}
    model = resolve(Model(**sizes, attention=Attention(heads=2, kv_heads=2, head_width=4), mlp=MLP(width=12)), 0, 32)
    shapes = mapping.shapes(model, names.GGUF)
    metadata = test_gguf.described(model, "llama") | {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] + [1] * (len(tokens) - 1),
        "tokenizer.ggml.merges": [" ".join(pair) for pair in vocabulary["merges"]],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 0,
    }
    test_gguf.written(folder / "x.gguf", "llama", metadata, {n: np.ones(s, np.float32) for n, s in shapes.items()})


def opened(folder: Path) -> Any:
    """All of a checkpoint: its model, its tokenizer and every tensor."""
    from research import interop

    files = list(folder.glob("*.gguf"))
    source = interop.open_checkpoint(str(files[0] if files else folder))
    read = {name: np.array(tensor.read()).sum() for name, tensor in source.tensors.items()}
    return read, [source.tokenizer.decode(ids) for ids in map(source.tokenizer.encode, TEXTS)]
