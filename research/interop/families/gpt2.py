"""GPT-2 (Radford et al. 2019), and what was trained in its format."""

from research.interop.families.family import BIASED, Family
from research.interop.names import Names, layers

NAMES = Names(
    modules={
        "embedding": "transformer.wte",
        "positions": "transformer.wpe",
        "decoder/norm": "transformer.ln_f",
        "output": "lm_head",
        **layers(
            "decoder",
            "transformer.h.{layer}.",
            {
                "attention_norm": "ln_1",
                "attention/query": "attn.c_attn#0/3",
                "attention/key": "attn.c_attn#1/3",
                "attention/value": "attn.c_attn#2/3",
                "attention/out": "attn.c_proj",
                "mlp_norm": "ln_2",
                "mlp/up": "mlp.c_fc",
                "mlp/down": "mlp.c_proj",
            },
        ),
    },
    prefix="transformer.",
    transposed=False,  # its Conv1D is a Linear turned over
    copies=(("transformer.wte.weight", "lm_head.weight"),),
    dropped=(r"transformer\.h\.\d+\.attn\.bias",),  # causal masks
)
FAMILY = Family(
    model_type="gpt2",
    architecture="GPT2LMHeadModel",
    base=BIASED,
    fields=(
        ("vocabulary", "vocab_size", 50_257),
        ("positions.max_length", "n_positions", 1024),
        ("width", "n_embd", 768),
        ("depth", "n_layer", 12),
        ("attention.heads", "n_head", 12),
        ("mlp.width", "n_inner", 0),
        ("mlp.activation", "activation_function", "gelu_new"),
        ("dropout", "resid_pdrop", 0.1),
        ("dropout", "embd_pdrop", 0.1),
        ("attention.dropout", "attn_pdrop", 0.1),
        ("norm.epsilon", "layer_norm_epsilon", 1e-5),
        ("head.tied", "tie_word_embeddings", True),
    ),
    names=lambda model: NAMES,
    requires=(("scale_attn_weights", True), ("scale_attn_by_inverse_layer_idx", False)),
    without_effect=("reorder_and_upcast_attn",),  # it guards float16 against overflow
    aliases=(
        ("max_position_embeddings", "n_positions"),
        ("hidden_size", "n_embd"),
        ("num_attention_heads", "n_head"),
        ("num_hidden_layers", "n_layer"),
        ("n_ctx", "n_positions"),
    ),
)
