"""OPT (Zhang et al. 2022): learned positions from the third row of their table on. OPT-350M, which has its norms after
the layers and narrower embeddings, is refused."""

from typing import Any

from research.config import Model, replace_fields
from research.errors import InputError
from research.interop.families.family import BIASED, Config, Family
from research.interop.names import Names, layers

OFFSET = 2
NAMES = Names(
    modules={
        "embedding": "model.decoder.embed_tokens",
        "positions": "model.decoder.embed_positions",
        "decoder/norm": "model.decoder.final_layer_norm",
        "output": "lm_head",
        **layers(
            "decoder",
            "model.decoder.layers.{layer}.",
            {
                "attention_norm": "self_attn_layer_norm",
                "attention/query": "self_attn.q_proj",
                "attention/key": "self_attn.k_proj",
                "attention/value": "self_attn.v_proj",
                "attention/out": "self_attn.out_proj",
                "mlp_norm": "final_layer_norm",
                "mlp/up": "fc1",
                "mlp/down": "fc2",
            },
        ),
    },
    prefix="model.",
    copies=(("model.decoder.embed_tokens.weight", "lm_head.weight"),),
)


def _read(config: Config) -> dict[str, Any]:
    narrow = config.get("word_embed_proj_dim")
    if narrow not in (None, config["hidden_size"]):
        raise InputError(f"word_embed_proj_dim = {narrow!r} is not supported, only hidden_size")
    bias = config.get("enable_bias", True)
    biases = dict.fromkeys(("attention.qkv_bias", "attention.output_bias", "mlp.bias"), bias)
    return {"positions.max_length": config.get("max_position_embeddings", 2048) + OFFSET, **biases}


def _write(model: Model) -> Config:
    rows = model.positions.max_length - OFFSET
    return {"max_position_embeddings": rows, "word_embed_proj_dim": model.width, "enable_bias": model.mlp.bias}


FAMILY = Family(
    model_type="opt",
    architecture="OPTForCausalLM",
    base=replace_fields(BIASED, {"positions.offset": OFFSET, "norm.epsilon": 1e-5}),
    fields=(
        ("vocabulary", "vocab_size", 50_272),
        ("width", "hidden_size", 768),
        ("depth", "num_hidden_layers", 12),
        ("mlp.width", "ffn_dim", 3072),
        ("attention.heads", "num_attention_heads", 12),
        ("mlp.activation", "activation_function", "relu"),
        ("dropout", "dropout", 0.1),
        ("attention.dropout", "attention_dropout", 0.0),
        ("head.tied", "tie_word_embeddings", True),
    ),
    names=lambda model: NAMES,
    read=_read,
    write=_write,
    reads=("max_position_embeddings", "word_embed_proj_dim", "enable_bias"),
    requires=(
        ("do_layer_norm_before", True),
        ("_remove_final_layer_norm", False),
        ("layer_norm_elementwise_affine", True),
    ),
    without_effect=("layerdrop",),  # of training there
)
