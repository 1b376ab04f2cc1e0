"""GPT-J (Wang and Komatsuzaki 2021): attention and MLP read the same norm, pairs that rotate are neighbours."""

from research.config import replace_fields
from research.interop.families.family import LAYERNORM, Family
from research.interop.names import Names, layers

NAMES = Names(
    modules={
        "embedding": "transformer.wte",
        "decoder/norm": "transformer.ln_f",
        "output": "lm_head",
        "output_bias": "lm_head",
        **layers(
            "decoder",
            "transformer.h.{layer}.",
            {
                "attention_norm": "ln_1",
                "attention/query": "attn.q_proj",
                "attention/key": "attn.k_proj",
                "attention/value": "attn.v_proj",
                "attention/out": "attn.out_proj",
                "mlp/up": "mlp.fc_in",
                "mlp/down": "mlp.fc_out",
            },
        ),
    },
    prefix="transformer.",
    interleaved=("decoder/layers/attention/query", "decoder/layers/attention/key"),
    copies=(("transformer.wte.weight", "lm_head.weight"),),
    dropped=(r"transformer\.h\.\d+\.attn\.(bias|embed_positions)",),
)
FAMILY = Family(
    model_type="gptj",
    architecture="GPTJForCausalLM",
    base=replace_fields(
        LAYERNORM, {"mlp.bias": True, "head.bias": True, "norm.shared": True, "parallel_residual": True}
    ),
    fields=(
        ("vocabulary", "vocab_size", 50_400),
        ("positions.max_length", "n_positions", 2048),
        ("width", "n_embd", 4096),
        ("depth", "n_layer", 28),
        ("attention.heads", "n_head", 16),
        ("positions.rotary_width", "rotary_dim", 64),
        ("mlp.width", "n_inner", 0),
        ("mlp.activation", "activation_function", "gelu_new"),
        ("dropout", "resid_pdrop", 0.0),
        ("dropout", "embd_pdrop", 0.0),
        ("attention.dropout", "attn_pdrop", 0.0),
        ("norm.epsilon", "layer_norm_epsilon", 1e-5),
        ("head.tied", "tie_word_embeddings", False),
    ),
    names=lambda model: NAMES,
    requires=(("rotary", True),),
    aliases=(
        ("max_position_embeddings", "n_positions"),
        ("hidden_size", "n_embd"),
        ("num_attention_heads", "n_head"),
        ("num_hidden_layers", "n_layer"),
    ),
)
