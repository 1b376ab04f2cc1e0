"""Command R (Cohere 2024): attention and MLP read the same norm, pairs that rotate are neighbours; scaled logits."""

from typing import Any

from research.config import Model, replace_fields
from research.interop.families import llama, rotary
from research.interop.families.family import LAYERNORM, Config, Family, attention_biases, positive

NAMES = llama.names(
    llama.ATTENTION,
    llama.MLP,
    {"attention_norm": "input_layernorm"},
    interleaved=("decoder/layers/attention/query", "decoder/layers/attention/key"),
)


def _read(config: Config) -> dict[str, Any]:
    rope = rotary.read(config, theta=500_000.0)
    scale = positive({"logit_scale": 0.0625, **config}, "logit_scale")
    return {**rope, "head.logits_scale": scale, **attention_biases(config)}


def _write(model: Model) -> Config:
    return {**llama.write(model), "logit_scale": model.head.logits_scale}


FAMILY = Family(
    model_type="cohere",
    architecture="CohereForCausalLM",
    base=replace_fields(
        LAYERNORM, {"mlp.gated": True, "norm.bias": False, "norm.shared": True, "parallel_residual": True}
    ),
    fields=(
        *llama.fields(
            vocab_size=256_000,
            hidden_size=8192,
            intermediate_size=22_528,
            num_hidden_layers=40,
            num_attention_heads=64,
            max_position_embeddings=8192,
            tie_word_embeddings=True,
            rms_norm_eps=None,
        ),
        ("norm.epsilon", "layer_norm_eps", 1e-5),
    ),
    names=lambda model: NAMES,
    read=_read,
    write=_write,
    reads=(*rotary.KEYS, "attention_bias", "logit_scale"),
    requires=(("use_qk_norm", False),),
)
