"""Qwen2 and Qwen2.5 (Yang et al. 2024), and Qwen3 (Yang et al. 2025)."""

from dataclasses import replace

from research.config import Attention, Model
from research.interop.families import llama, rotary
from research.interop.families.family import Family

QWEN2 = Family(
    model_type="qwen2",
    architecture="Qwen2ForCausalLM",
    base=Model(attention=Attention(qkv_bias=True)),
    fields=llama.fields(
        vocab_size=151_936, intermediate_size=22_016, num_key_value_heads=32, max_position_embeddings=32_768
    ),
    names=lambda model: llama.NAMES,
    read=rotary.read_uniform,
    write=rotary.write,
    reads=(*rotary.KEYS, "layer_types"),
    requires=(("use_sliding_window", False),),
    without_effect=("sliding_window", "max_window_layers"),  # of the sliding window that is refused
)
QWEN3 = replace(
    QWEN2,
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    base=Model(attention=Attention(qk_norm=True)),
    fields=llama.fields(
        vocab_size=151_936,
        intermediate_size=22_016,
        num_key_value_heads=32,
        max_position_embeddings=32_768,
        head_dim=128,
    ),
    read=llama.read,
    write=llama.write,
    reads=(*rotary.KEYS, "layer_types", "attention_bias"),
)
