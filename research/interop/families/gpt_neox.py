"""GPT-NeoX (Black et al. 2022): Pythia and PolyPythias. Attention and MLP read the same residual stream, and a
quarter of each head rotates."""

from typing import Any

from research.config import Model, replace_fields
from research.errors import InputError
from research.interop.families import rotary
from research.interop.families.family import LAYERNORM, Config, Family, attention_biases
from research.interop.names import Names, layers

NAMES = Names(
    modules={
        "embedding": "gpt_neox.embed_in",
        "decoder/norm": "gpt_neox.final_layer_norm",
        "output": "embed_out",
        **layers(
            "decoder",
            "gpt_neox.layers.{layer}.",
            {
                "attention_norm": "input_layernorm",
                "attention/query": "attention.query_key_value#0/3h",
                "attention/key": "attention.query_key_value#1/3h",
                "attention/value": "attention.query_key_value#2/3h",
                "attention/out": "attention.dense",
                "mlp_norm": "post_attention_layernorm",
                "mlp/up": "mlp.dense_h_to_4h",
                "mlp/down": "mlp.dense_4h_to_h",
            },
        ),
    },
    prefix="gpt_neox.",
    copies=(
        ("embed_out.weight", "lm_head.weight"),  # its name in version 5 of transformers
        *(("gpt_neox.embed_in.weight", name) for name in ("embed_out.weight", "lm_head.weight")),
    ),
    dropped=(r"gpt_neox\.layers\.\d+\.attention\.bias",),  # causal masks
)


def _read(config: Config) -> dict[str, Any]:
    names = (("rope_theta", "rotary_emb_base", 10_000), ("partial_rotary_factor", "rotary_pct", 0.25))
    for key, own, default in names:  # versions of transformers differ in which of the two counts
        if config.get(key, config.get(own, default)) != config.get(own, default):
            raise InputError(f"{key} is {config[key]!r}, but {own}, which is the same, {config.get(own, default)!r}")
    rope = rotary.read({**config, **{key: config.get(own, default) for key, own, default in names}}, share=0.25)
    return {**rope, **attention_biases(config, default=True)}


def _write(model: Model) -> Config:
    written = rotary.write(model)
    written |= {"rotary_emb_base": written["rope_theta"], "rotary_pct": written.pop("partial_rotary_factor", 1.0)}
    return {**written, "attention_bias": model.attention.output_bias}


FAMILY = Family(
    model_type="gpt_neox",
    architecture="GPTNeoXForCausalLM",
    base=replace_fields(LAYERNORM, {"mlp.bias": True}),
    fields=(
        ("vocabulary", "vocab_size", 50_432),
        ("width", "hidden_size", 6144),
        ("mlp.width", "intermediate_size", 24_576),
        ("depth", "num_hidden_layers", 44),
        ("attention.heads", "num_attention_heads", 64),
        ("mlp.activation", "hidden_act", "gelu"),
        ("positions.max_length", "max_position_embeddings", 2048),
        ("norm.epsilon", "layer_norm_eps", 1e-5),
        ("dropout", "hidden_dropout", 0.0),
        ("attention.dropout", "attention_dropout", 0.0),
        ("parallel_residual", "use_parallel_residual", True),
        ("head.tied", "tie_word_embeddings", False),
    ),
    names=lambda model: NAMES,
    read=_read,
    write=_write,
    reads=(*rotary.KEYS, "rotary_emb_base", "rotary_pct", "attention_bias"),
)
