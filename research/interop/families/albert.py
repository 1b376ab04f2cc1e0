"""ALBERT (Lan et al. 2020): BERT with narrow embeddings and one block, which is applied again and again."""

from research.config import replace_fields
from research.interop.families import bert
from research.interop.families.family import Family
from research.interop.names import Names

_BLOCK = "albert.encoder.albert_layer_groups.0.albert_layers.0."
_LAYER = {
    "attention/query": "attention.query",
    "attention/key": "attention.key",
    "attention/value": "attention.value",
    "attention/out": "attention.dense",
    "attention_norm": "attention.LayerNorm",
    "mlp/up": "ffn",
    "mlp/down": "ffn_output",
    "mlp_norm": "full_layer_layer_norm",
}
NAMES = Names(
    modules={
        "embedding": "albert.embeddings.word_embeddings",
        "positions": "albert.embeddings.position_embeddings",
        "token_types": "albert.embeddings.token_type_embeddings",
        "embedding_norm": "albert.embeddings.LayerNorm",
        "embedding_projection": "albert.encoder.embedding_hidden_mapping_in",
        **{f"decoder/layers/{ours}": _BLOCK + theirs for ours, theirs in _LAYER.items()},
        "head_transform": "predictions.dense",
        "head_norm": "predictions.LayerNorm",
        "output": "predictions.decoder",
        "output_bias": "predictions",
    },
    prefix="albert.",
    copies=(
        ("albert.embeddings.word_embeddings.weight", "predictions.decoder.weight"),
        ("predictions.bias", "predictions.decoder.bias"),
    ),
    dropped=(r"albert\.pooler\..*", r"sop_classifier\..*"),
)
_DEFAULTS = {
    "vocab_size": 30_000,
    "hidden_size": 4096,
    "num_attention_heads": 64,
    "intermediate_size": 16_384,
    "hidden_act": "gelu_new",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
FAMILY = Family(
    model_type="albert",
    architecture="AlbertForMaskedLM",
    base=replace_fields(bert.BASE, {"shared_layers": True}),
    fields=(
        *((ours, key, _DEFAULTS.get(key, default)) for ours, key, default in bert.FIELDS),
        ("embedding.width", "embedding_size", 128),
    ),
    names=lambda model: NAMES,
    requires=(("num_hidden_groups", 1), ("inner_group_num", 1), ("position_embedding_type", "absolute")),
    without_effect=(
        "classifier_dropout_prob",
        "net_structure_type",
        "gap_size",
        "num_memory_blocks",
        "down_scale_factor",
    ),
    headless="AlbertModel",
)
