"""OLMo 2 (OLMo team 2024), whose norms are of what each layer puts out, and OLMo 3, in which three of four layers have
a sliding window."""

from dataclasses import replace
from typing import Any

from research.config import Attention, Model, Norm
from research.interop.families import llama, rotary
from research.interop.families.family import Config, Family, attention_biases

NAMES = llama.names(
    llama.ATTENTION,
    llama.MLP,
    {"attention_norm": "post_attention_layernorm", "mlp_norm": "post_feedforward_layernorm"},
)


def _read_olmo3(config: Config) -> dict[str, Any]:
    window = rotary.read_layers({"sliding_window": 4096, **config}, every=4, first=3)
    rope = rotary.read_by_layer(config, theta=500_000.0, local_theta=500_000.0)
    return {**window, **rope, **attention_biases(config)}


OLMO2 = Family(
    model_type="olmo2",
    architecture="Olmo2ForCausalLM",
    base=Model(norm=Norm(placement="output"), attention=Attention(qk_norm=True, qk_norm_joint=True)),
    fields=llama.fields(vocab_size=50_304, rms_norm_eps=1e-5),
    names=lambda model: NAMES,
    read=llama.read,
    write=llama.write,
    reads=(*rotary.KEYS, "layer_types", "attention_bias"),
)
OLMO3 = replace(
    OLMO2,
    model_type="olmo3",
    architecture="Olmo3ForCausalLM",
    read=_read_olmo3,
    write=lambda model: {
        **rotary.write_by_layer(model),
        **rotary.write_layers(model),
        "attention_bias": model.attention.output_bias,
    },
    reads=(*rotary.KEYS, *rotary.LAYER_KEYS, "attention_bias"),
)
