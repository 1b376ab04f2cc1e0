"""ModernBERT (Warner et al. 2024): a gated encoder with rotary positions, in which every third layer is global."""

from typing import Any

from research.config import Model, replace_fields
from research.errors import InputError
from research.interop.families import rotary
from research.interop.families.family import LAYERNORM, Config, Family, attention_biases, their_activation
from research.interop.names import Names, layers

NAMES = Names(
    modules={
        "embedding": "model.embeddings.tok_embeddings",
        "embedding_norm": "model.embeddings.norm",
        "decoder/norm": "model.final_norm",
        **layers(
            "decoder",
            "model.layers.{layer}.",
            {
                "attention_norm": "attn_norm",
                "attention/query": "attn.Wqkv#0/3",
                "attention/key": "attn.Wqkv#1/3",
                "attention/value": "attn.Wqkv#2/3",
                "attention/out": "attn.Wo",
                "mlp_norm": "mlp_norm",
                "mlp/gate": "mlp.Wi#0/2",
                "mlp/up": "mlp.Wi#1/2",
                "mlp/down": "mlp.Wo",
            },
        ),
        "head_transform": "head.dense",
        "head_norm": "head.norm",
        "output": "decoder",
        "output_bias": "decoder",
    },
    prefix="model.",
    absent=("model.layers.0.attn_norm.weight", "model.layers.0.attn_norm.bias"),
    copies=(("model.embeddings.tok_embeddings.weight", "decoder.weight"),),
)


def _read(config: Config) -> dict[str, Any]:
    for key, like, default in (("bias", "mlp_bias", False), ("activation", "hidden_activation", "gelu")):
        if config.get(f"classifier_{key}", default) != config.get(like, default):
            raise InputError(f"modernbert with classifier_{key} unlike {like} is not supported")
    depth, every = config["num_hidden_layers"], config.get("global_attn_every_n_layers", 3)
    kinds = config.get("layer_types")
    every, first = rotary.pattern(kinds or rotary.layer_types(depth, every, 0), depth)
    by_layer = {**config, "rope_theta": config.get("global_rope_theta")}
    by_layer["rope_local_base_freq"] = config.get("local_rope_theta")
    rope = rotary.read_by_layer(by_layer, 160_000.0, 10_000.0)
    if rope["positions.scaling"] is not None:
        raise InputError("rope_parameters: modernbert with scaled rotary positions is not supported")
    window = config.get("local_attention", 128) // 2
    if config.get("sliding_window", window) != window:  # which sets local_attention there
        raise InputError(f"sliding_window = {config['sliding_window']!r} is not half of local_attention")
    return {
        **rope,
        "attention.window": window,
        "attention.global_every": every,
        "attention.first_global": first,
        **attention_biases(config),
    }


def _write(model: Model) -> Config:
    attention = model.attention
    return {
        **rotary.write_by_layer(model),
        "local_attention": 2 * attention.window,
        "global_attn_every_n_layers": attention.global_every or model.depth,
        "layer_types": rotary.layer_types(model.depth, attention.global_every, attention.first_global),
        "global_rope_theta": model.positions.theta,
        "local_rope_theta": model.positions.local_theta,
        "attention_bias": attention.output_bias,
        "classifier_bias": model.mlp.bias,
        "classifier_activation": their_activation(model.mlp.activation),
        "cls_token_id": None,
        "sep_token_id": None,
    }


_CHANGES = {"positions.kind": "rope", "mlp.gated": True, "norm.bias": False, "norm.embedding": True}
FAMILY = Family(
    model_type="modernbert",
    architecture="ModernBertForMaskedLM",
    base=replace_fields(LAYERNORM, {**_CHANGES, "norm.first": False, "head.transform": True}),
    fields=(
        ("vocabulary", "vocab_size", 50_368),
        ("width", "hidden_size", 768),
        ("mlp.width", "intermediate_size", 1152),
        ("depth", "num_hidden_layers", 22),
        ("attention.heads", "num_attention_heads", 12),
        ("mlp.activation", "hidden_activation", "gelu"),
        ("positions.max_length", "max_position_embeddings", 8192),
        ("norm.epsilon", "norm_eps", 1e-5),
        ("norm.bias", "norm_bias", False),
        ("mlp.bias", "mlp_bias", False),
        ("dropout", "mlp_dropout", 0.0),
        ("attention.dropout", "attention_dropout", 0.0),
        ("dropout", "embedding_dropout", 0.0),
        ("head.bias", "decoder_bias", True),
        ("head.tied", "tie_word_embeddings", True),
    ),
    names=lambda model: NAMES,
    read=_read,
    write=_write,
    reads=(
        *(*rotary.KEYS, "layer_types", "global_attn_every_n_layers", "local_attention", "attention_bias"),
        "sliding_window",
        *("global_rope_theta", "local_rope_theta", "classifier_bias", "classifier_activation"),
    ),
    without_effect=(
        *("initializer_cutoff_factor", "deterministic_flash_attn", "classifier_pooling", "reference_compile"),
        *("sparse_prediction", "sparse_pred_ignore_index", "repad_logits_with_grad"),  # of the loss
    ),
    headless="ModernBertModel",
)
