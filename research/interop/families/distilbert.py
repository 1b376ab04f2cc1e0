"""DistilBERT (Sanh et al. 2019): BERT without token types."""

from research.config import replace_fields
from research.interop.families import bert
from research.interop.families.family import Family
from research.interop.names import Names, layers

NAMES = Names(
    modules={
        "embedding": "distilbert.embeddings.word_embeddings",
        "positions": "distilbert.embeddings.position_embeddings",
        "embedding_norm": "distilbert.embeddings.LayerNorm",
        **layers(
            "decoder",
            "distilbert.transformer.layer.{layer}.",
            {
                "attention/query": "attention.q_lin",
                "attention/key": "attention.k_lin",
                "attention/value": "attention.v_lin",
                "attention/out": "attention.out_lin",
                "attention_norm": "sa_layer_norm",
                "mlp/up": "ffn.lin1",
                "mlp/down": "ffn.lin2",
                "mlp_norm": "output_layer_norm",
            },
        ),
        "head_transform": "vocab_transform",
        "head_norm": "vocab_layer_norm",
        "output": "vocab_projector",
        "output_bias": "vocab_projector",
    },
    prefix="distilbert.",
    copies=(("distilbert.embeddings.word_embeddings.weight", "vocab_projector.weight"),),
)
FAMILY = Family(
    model_type="distilbert",
    architecture="DistilBertForMaskedLM",
    base=replace_fields(bert.BASE, {"norm.epsilon": 1e-12}),
    fields=(
        ("vocabulary", "vocab_size", 30_522),
        ("positions.max_length", "max_position_embeddings", 512),
        ("depth", "n_layers", 6),
        ("attention.heads", "n_heads", 12),
        ("width", "dim", 768),
        ("mlp.width", "hidden_dim", 3072),
        ("mlp.activation", "activation", "gelu"),
        ("dropout", "dropout", 0.1),
        ("attention.dropout", "attention_dropout", 0.1),
        ("head.tied", "tie_word_embeddings", True),
    ),
    names=lambda model: NAMES,
    without_effect=("sinusoidal_pos_embds",),  # of how the table of positions begins, which is in the file
    aliases=(("hidden_size", "dim"), ("num_attention_heads", "n_heads"), ("num_hidden_layers", "n_layers")),
    headless="DistilBertModel",
)
