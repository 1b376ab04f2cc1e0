"""Llama (Touvron et al. 2023) and all that was published in its format, such as SmolLM2; the others of its kin take its
tables."""

from typing import Any

from research.config import Model
from research.interop.families import rotary
from research.interop.families.family import Config, Family, attention_biases
from research.interop.names import Names, layers

ATTENTION = {
    "attention/query": "self_attn.q_proj",
    "attention/query_norm": "self_attn.q_norm",
    "attention/key": "self_attn.k_proj",
    "attention/key_norm": "self_attn.k_norm",
    "attention/value": "self_attn.v_proj",
    "attention/out": "self_attn.o_proj",
}
MLP = {"mlp/gate": "mlp.gate_proj", "mlp/up": "mlp.up_proj", "mlp/down": "mlp.down_proj"}
NORMS = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
FIELDS: tuple[tuple[str, str, Any], ...] = (
    ("vocabulary", "vocab_size", 32_000),
    ("width", "hidden_size", 4096),
    ("mlp.width", "intermediate_size", 11_008),
    ("depth", "num_hidden_layers", 32),
    ("attention.heads", "num_attention_heads", 32),
    ("attention.kv_heads", "num_key_value_heads", 0),
    ("attention.head_width", "head_dim", 0),
    ("mlp.activation", "hidden_act", "silu"),
    ("positions.max_length", "max_position_embeddings", 2048),
    ("norm.epsilon", "rms_norm_eps", 1e-6),
    ("head.tied", "tie_word_embeddings", False),
    ("attention.dropout", "attention_dropout", 0.0),
)


def fields(**defaults: Any) -> tuple[tuple[str, str, Any], ...]:
    """Llama's table with other values where a key is missing; a key whose value is None is not in it."""
    changed = ((ours, key, defaults.get(key, default)) for ours, key, default in FIELDS)
    return tuple(row for row in changed if row[2] is not None)


def names(*modules: dict[str, str], **others: Any) -> Names:
    """The names of a decoder whose layers have these modules."""
    inside = {our: their for part in modules for our, their in part.items()}
    table = {"embedding": "model.embed_tokens", "decoder/norm": "model.norm", "output": "lm_head"}
    return Names(
        modules=table | layers("decoder", "model.layers.{layer}.", inside),
        prefix="model.",
        copies=(("model.embed_tokens.weight", "lm_head.weight"),),
        **others,
    )


def read(config: Config) -> dict[str, Any]:
    """Rotary positions, and one flag for all biases of attention."""
    return {**rotary.read_uniform(config), **attention_biases(config)}


def write(model: Model) -> Config:
    """As `read` reads it."""
    return {**rotary.write(model), "attention_bias": model.attention.output_bias}


NAMES = names(ATTENTION, MLP, NORMS)
FAMILY = Family(
    model_type="llama",
    architecture="LlamaForCausalLM",
    base=Model(),
    fields=(*FIELDS, ("mlp.bias", "mlp_bias", False)),
    names=lambda model: NAMES,
    read=read,
    write=write,
    reads=(*rotary.KEYS, "layer_types", "attention_bias"),
    requires=(("rope_interleaved", False),),
    without_effect=("pretraining_tp",),  # how the products of some published sizes were once split
)
