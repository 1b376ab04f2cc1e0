"""Phi-3 (Abdin et al. 2024) and Phi-4: Llama with fused projections. The "longrope" of its long contexts is refused."""

from typing import Any

from research.config import Model
from research.errors import InputError
from research.interop.families import llama, rotary
from research.interop.families.family import Config, Family

NAMES = llama.names(
    {
        "attention/query": "self_attn.qkv_proj#0/3",
        "attention/key": "self_attn.qkv_proj#1/3",
        "attention/value": "self_attn.qkv_proj#2/3",
        "attention/out": "self_attn.o_proj",
        "mlp/gate": "mlp.gate_up_proj#0/2",
        "mlp/up": "mlp.gate_up_proj#1/2",
        "mlp/down": "mlp.down_proj",
    },
    llama.NORMS,
)


def _read(config: Config) -> dict[str, Any]:
    given = rotary.parameters(config)
    kind = given.get("rope_type") or given.get("type") or "default"
    if kind != "default":  # "su" and "yarn" are names of longrope in this family
        raise InputError(f"rope_scaling of type {kind!r} is not supported in phi3, only default")
    return {**rotary.read_uniform(config, share=1.0), **rotary.read_layers(config, every=0, first=0)}


FAMILY = Family(
    model_type="phi3",
    architecture="Phi3ForCausalLM",
    base=Model(),
    fields=(
        *llama.fields(
            vocab_size=32_064, hidden_size=3072, intermediate_size=8192, max_position_embeddings=4096, rms_norm_eps=1e-5
        ),
        ("dropout", "resid_pdrop", 0.0),
    ),
    names=lambda model: NAMES,
    read=_read,
    write=lambda model: {**rotary.write(model), **rotary.write_layers(model), "layer_types": None},
    reads=(*rotary.KEYS, "layer_types", "sliding_window"),
    without_effect=("embd_pdrop",),  # which nothing of transformers reads
)
