"""The published models, by family and size: what each architecture is, in the terms of `config.Model`."""

from typing import Any

from research.config import MLP, Attention, Embedding, Head, Model, Norm, Positions, RopeScaling, replace_fields
from research.errors import InputError

GPT2 = Model(
    vocabulary=50_257,
    positions=Positions(kind="learned", max_length=1024),
    norm=Norm(kind="layernorm", epsilon=1e-5, bias=True),
    mlp=MLP(activation="gelu_tanh", gated=False, bias=True),
    attention=Attention(qkv_bias=True, output_bias=True),
)
LLAMA = Model(vocabulary=128_256, norm=Norm(epsilon=1e-5), positions=Positions(theta=500_000.0), head=Head(tied=False))
BERT = Model(
    vocabulary=30_522,
    dropout=0.1,
    positions=Positions(kind="learned", max_length=512),
    norm=Norm(kind="layernorm", epsilon=1e-12, bias=True, placement="post", embedding=True),
    embedding=Embedding(token_types=2),
    mlp=MLP(activation="gelu", gated=False, bias=True),
    attention=Attention(qkv_bias=True, output_bias=True, dropout=0.1),
    head=Head(bias=True, transform=True),
)
T5 = Model(
    vocabulary=32_128,
    initial_scale=None,
    positions=Positions(kind="relative"),
    mlp=MLP(activation="gelu_tanh"),
    attention=Attention(scale=1.0),
    head=Head(tied=False),
    embedding=Embedding(initial_scale=1.0),
)

_SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "gpt2": {
        "124m": {"width": 768, "depth": 12, "attention.heads": 12},
        "355m": {"width": 1024, "depth": 24, "attention.heads": 16},
        "774m": {"width": 1280, "depth": 36, "attention.heads": 20},
        "1.5b": {"width": 1600, "depth": 48, "attention.heads": 25},
    },
    "llama": {  # 3.2, 3.1 and 3.1
        "1b": {
            "width": 2048,
            "depth": 16,
            "attention.heads": 32,
            "attention.kv_heads": 8,
            "attention.head_width": 64,
            "mlp.width": 8192,
            "head.tied": True,
        },
        "8b": {"width": 4096, "depth": 32, "attention.heads": 32, "attention.kv_heads": 8, "mlp.width": 14_336},
        "70b": {"width": 8192, "depth": 80, "attention.heads": 64, "attention.kv_heads": 8, "mlp.width": 28_672},
    },
    "bert": {
        "base": {"width": 768, "depth": 12, "attention.heads": 12},
        "large": {"width": 1024, "depth": 24, "attention.heads": 16},
    },
    "t5": {  # version 1.1
        "small": {
            "width": 512,
            "depth": 8,
            "encoder_depth": 8,
            "attention.heads": 6,
            "attention.head_width": 64,
            "mlp.width": 1024,
        },
        "base": {
            "width": 768,
            "depth": 12,
            "encoder_depth": 12,
            "attention.heads": 12,
            "attention.head_width": 64,
            "mlp.width": 2048,
        },
        "large": {
            "width": 1024,
            "depth": 24,
            "encoder_depth": 24,
            "attention.heads": 16,
            "attention.head_width": 64,
            "mlp.width": 2816,
        },
    },
}


def gpt2(size: str) -> Model:
    """GPT-2 (Radford et al. 2019): "124m", "355m", "774m" or "1.5b"."""
    return replace_fields(GPT2, _size("gpt2", size))


def llama(size: str) -> Model:
    """Llama 3.2 "1b", Llama 3.1 "8b" or "70b" (Grattafiori et al. 2024), with their scaling of rotary positions."""
    scaling = RopeScaling(factor=32.0 if size == "1b" else 8.0)
    return replace_fields(LLAMA, {"positions.scaling": scaling, **_size("llama", size)})


def bert(size: str) -> Model:
    """BERT, uncased (Devlin et al. 2019): "base" or "large"."""
    return replace_fields(BERT, _size("bert", size))


def roberta(size: str) -> Model:
    """RoBERTa (Liu et al. 2019): "base" or "large"."""
    roberta = replace_fields(
        BERT,
        {
            "vocabulary": 50_265,
            "positions.max_length": 514,
            "positions.offset": 2,
            "embedding.token_types": 1,
            "norm.epsilon": 1e-5,
        },
    )
    return replace_fields(roberta, _size("bert", size))


def t5(size: str) -> Model:
    """T5 version 1.1 (Raffel et al. 2020; Shazeer 2020 for the gate): "small", "base" or "large"."""
    return replace_fields(T5, _size("t5", size))


def _size(family: str, size: str) -> dict[str, Any]:
    sizes = _SIZES[family]
    if size not in sizes:
        raise InputError(f"{family} has no size {size!r}; there are {', '.join(sizes)}")
    return sizes[size]
