"""The published models, by family and size: what each architecture is, in the terms of `config.Model`."""

from dataclasses import replace
from typing import Any

from research.config import Model, RotaryScaling
from research.errors import InputError

GPT2 = Model(
    positions="learned",
    max_positions=1024,
    norm="layernorm",
    norm_epsilon=1e-5,
    norm_bias=True,
    activation="gelu_tanh",
    gated=False,
    qkv_bias=True,
    attention_bias=True,
    mlp_bias=True,
    vocabulary=50_257,
)
LLAMA = Model(norm_epsilon=1e-5, rotary_theta=500_000.0, vocabulary=128_256, tied=False)
BERT = Model(
    positions="learned",
    max_positions=512,
    norm="layernorm",
    norm_epsilon=1e-12,
    norm_bias=True,
    norm_placement="post",
    embedding_norm=True,
    token_types=2,
    activation="gelu",
    gated=False,
    qkv_bias=True,
    attention_bias=True,
    mlp_bias=True,
    head_bias=True,
    head_transform=True,
    vocabulary=30_522,
    dropout=0.1,
)
T5 = Model(
    positions="relative",
    activation="gelu_tanh",
    attention_scale=1.0,
    tied=False,
    vocabulary=32_128,
    initial_scale=None,
    embedding_scale=1.0,
)

_SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "gpt2": {
        "124m": {"width": 768, "depth": 12, "heads": 12},
        "355m": {"width": 1024, "depth": 24, "heads": 16},
        "774m": {"width": 1280, "depth": 36, "heads": 20},
        "1.5b": {"width": 1600, "depth": 48, "heads": 25},
    },
    "llama": {  # 3.2, 3.1 and 3.1
        "1b": {
            "width": 2048,
            "depth": 16,
            "heads": 32,
            "kv_heads": 8,
            "head_width": 64,
            "mlp_width": 8192,
            "tied": True,
        },
        "8b": {"width": 4096, "depth": 32, "heads": 32, "kv_heads": 8, "mlp_width": 14_336},
        "70b": {"width": 8192, "depth": 80, "heads": 64, "kv_heads": 8, "mlp_width": 28_672},
    },
    "bert": {
        "base": {"width": 768, "depth": 12, "heads": 12},
        "large": {"width": 1024, "depth": 24, "heads": 16},
    },
    "t5": {  # version 1.1
        "small": {"width": 512, "depth": 8, "encoder_depth": 8, "heads": 6, "head_width": 64, "mlp_width": 1024},
        "base": {"width": 768, "depth": 12, "encoder_depth": 12, "heads": 12, "head_width": 64, "mlp_width": 2048},
        "large": {"width": 1024, "depth": 24, "encoder_depth": 24, "heads": 16, "head_width": 64, "mlp_width": 2816},
    },
}


def gpt2(size: str) -> Model:
    """GPT-2 (Radford et al. 2019): "124m", "355m", "774m" or "1.5b"."""
    return replace(GPT2, **_size("gpt2", size))


def llama(size: str) -> Model:
    """Llama 3.2 "1b", Llama 3.1 "8b" or "70b" (Grattafiori et al. 2024), with their scaling of rotary positions."""
    scaling = RotaryScaling(factor=32.0 if size == "1b" else 8.0)
    return replace(LLAMA, rotary_scaling=scaling, **_size("llama", size))


def bert(size: str) -> Model:
    """BERT, uncased (Devlin et al. 2019): "base" or "large"."""
    return replace(BERT, **_size("bert", size))


def roberta(size: str) -> Model:
    """RoBERTa (Liu et al. 2019): "base" or "large"."""
    roberta = replace(BERT, vocabulary=50_265, max_positions=514, position_offset=2, token_types=1, norm_epsilon=1e-5)
    return replace(roberta, **_size("bert", size))


def t5(size: str) -> Model:
    """T5 version 1.1 (Raffel et al. 2020; Shazeer 2020 for the gate): "small", "base" or "large"."""
    return replace(T5, **_size("t5", size))


def _size(family: str, size: str) -> dict[str, Any]:
    sizes = _SIZES[family]
    if size not in sizes:
        raise InputError(f"{family} has no size {size!r}; there are {', '.join(sizes)}")
    return sizes[size]
