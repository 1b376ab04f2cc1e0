"""Gemma (Mesnard et al. 2024), Gemma 2 (Riviere et al. 2024) and the text model of Gemma 3 (Kamath et al. 2025): scaled
embeddings, and norms whose scale is kept as its difference from 1."""

from dataclasses import replace
from typing import Any

from research.config import MLP, Attention, Model, Norm
from research.interop.families import llama, rotary
from research.interop.families.family import Config, Family, attention_biases, positive

_SANDWICH = {
    "attention_norm": "input_layernorm",
    "attention_output_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_output_norm": "post_feedforward_layernorm",
}
NAMES = llama.names(llama.ATTENTION, llama.MLP, llama.NORMS, offset=1.0)
NAMES2 = llama.names(llama.ATTENTION, llama.MLP, _SANDWICH, offset=1.0)
_CAPS = (("attention.softcap", "attn_logit_softcapping"), ("head.softcap", "final_logit_softcapping"))


def _read(config: Config) -> dict[str, Any]:
    scale = {"embedding.scale": config["hidden_size"] ** 0.5}
    # of old files that say gelu the tanh form is meant
    tanh = {"mlp.activation": "gelu_tanh"} if config.get("hidden_act") == "gelu" else {}
    return {**scale, **tanh, **attention_biases(config)}


def _read2(config: Config, every: int = 2, window: int = 4096, caps: tuple[Any, Any] = (50.0, 30.0)) -> dict[str, Any]:
    given = dict(zip((key for _, key in _CAPS), caps, strict=True)) | {"query_pre_attn_scalar": 256} | config
    read = {ours: positive(given, key) if given[key] is not None else 0.0 for ours, key in _CAPS}
    read["attention.scale"] = positive(given, "query_pre_attn_scalar") ** -0.5
    return {**_read(config), **read, **rotary.read_layers({"sliding_window": window, **config}, every, every - 1)}


def _read3(config: Config) -> dict[str, Any]:
    rope = rotary.read_by_layer(config, theta=1_000_000.0, local_theta=10_000.0)
    return {**_read2(config, config.get("sliding_window_pattern") or 6, caps=(None, None)), **rope}


def _write2(model: Model) -> Config:
    caps = {
        "attn_logit_softcapping": model.attention.softcap or None,
        "final_logit_softcapping": model.head.softcap or None,
    }
    scale = model.attention.scale**-2
    whole = {"query_pre_attn_scalar": round(scale) if round(scale) ** -0.5 == model.attention.scale else scale}
    return {**rotary.write_layers(model), **caps, **whole, "attention_bias": model.attention.output_bias}


def _fields(activation: str, **sizes: Any) -> tuple[tuple[str, str, Any], ...]:
    common = {"vocab_size": 256_000, "head_dim": 256, "max_position_embeddings": 8192, "tie_word_embeddings": True}
    rows = llama.fields(**common | sizes, hidden_act="gelu_pytorch_tanh")
    return tuple((ours, activation if key == "hidden_act" else key, default) for ours, key, default in rows)


GEMMA = Family(
    model_type="gemma",
    architecture="GemmaForCausalLM",
    base=Model(mlp=MLP(activation="gelu_tanh")),
    fields=_fields(
        "hidden_act",
        hidden_size=3072,
        intermediate_size=24_576,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=16,
    ),
    names=lambda model: NAMES,
    read=lambda config: {**rotary.read_uniform(config), **_read(config)},
    write=llama.write,
    reads=(*rotary.KEYS, "layer_types", "attention_bias"),
    requires=(("use_bidirectional_attention", False),),
    without_effect=("hidden_activation",),  # which transformers does not read in this family
)
_SIZES = {
    **{"hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26},
    **{"num_attention_heads": 8, "num_key_value_heads": 4},
}
GEMMA2 = replace(
    GEMMA,
    model_type="gemma2",
    architecture="Gemma2ForCausalLM",
    base=replace(GEMMA.base, norm=Norm(placement="sandwich")),
    fields=_fields("hidden_activation", **_SIZES),
    names=lambda model: NAMES2,
    read=lambda config: {**_read2(config), **rotary.read(config)},
    write=lambda model: {**_write2(model), **rotary.write(model)},
    reads=(*rotary.KEYS, *rotary.LAYER_KEYS, "attention_bias", "query_pre_attn_scalar", *(key for _, key in _CAPS)),
    requires=(("use_bidirectional_attention", False),),
    without_effect=("hidden_act", "cache_implementation"),
)
GEMMA3 = replace(
    GEMMA2,
    model_type="gemma3_text",
    architecture="Gemma3ForCausalLM",
    base=replace(GEMMA2.base, attention=Attention(qk_norm=True)),
    fields=_fields("hidden_activation", **_SIZES, vocab_size=262_208, max_position_embeddings=131_072),
    read=_read3,
    write=lambda model: {**_write2(model), **rotary.write_by_layer(model)},
    reads=(*GEMMA2.reads, "sliding_window_pattern", "rope_local_base_freq"),
)
