"""T5 (Raffel et al. 2020), its version 1.1, Flan-T5, ByT5 and UL2; mT5 (Xue et al. 2021); umT5 (Chung et al. 2023), in
which each layer has its own relative bias."""

from dataclasses import replace
from typing import Any

from research.config import Attention, Embedding, Model, Positions, replace_fields
from research.interop.families.family import Config, Family, activation, their_activation
from research.interop.names import Names, layers


def names(model: Model) -> Names:
    """T5 numbers the sublayers of a block, and calls the MLP of version 1.0, which has no gate, otherwise."""
    letters = dict(zip(("query", "key", "value", "out"), "qkvo", strict=True))

    def attention(ours: str, theirs: str) -> dict[str, str]:
        return {f"{ours}/{our}": f"{theirs}.{their}" for our, their in letters.items()}

    def mlp(sublayer: int) -> dict[str, str]:
        dense = f"layer.{sublayer}.DenseReluDense"
        gated = {"mlp/gate": f"{dense}.wi_0", "mlp/up": f"{dense}.wi_1"}
        inner = gated if model.mlp.gated else {"mlp/up": f"{dense}.wi"}
        return {"mlp_norm": f"layer.{sublayer}.layer_norm", **inner, "mlp/down": f"{dense}.wo"}

    bias = "layer.0.SelfAttention.relative_attention_bias"
    own = {"attention_norm": "layer.0.layer_norm", **attention("attention", "layer.0.SelfAttention")}
    own |= {"relative_bias": bias} if model.positions.per_layer else {}
    cross = {"cross_attention_norm": "layer.1.layer_norm", **attention("cross_attention", "layer.1.EncDecAttention")}
    return Names(
        modules={
            "embedding": "shared",
            **layers("encoder", "encoder.block.{layer}.", own | mlp(1)),
            "encoder/relative_bias": f"encoder.block.0.{bias}",
            "encoder/norm": "encoder.final_layer_norm",
            **layers("decoder", "decoder.block.{layer}.", own | cross | mlp(2)),
            "decoder/relative_bias": f"decoder.block.0.{bias}",
            "decoder/norm": "decoder.final_layer_norm",
            "output": "lm_head",
        },
        copies=(
            ("shared.weight", "encoder.embed_tokens.weight"),
            ("shared.weight", "decoder.embed_tokens.weight"),
            ("shared.weight", "lm_head.weight"),
        ),
        dropped=(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",),
    )


def _read(config: Config) -> dict[str, Any]:
    # version 1.0 scales what goes into its tied output layer; a missing flag means that version
    scaled = config.get("scale_decoder_outputs", config.get("tie_word_embeddings") is not False)
    return {
        **_read_mt5({"feed_forward_proj": "relu", **config}),
        "head.logits_scale": config["d_model"] ** -0.5 if scaled else 1.0,
    }


def _read_mt5(config: Config) -> dict[str, Any]:
    kind = config.get("feed_forward_proj") or "gated-gelu"
    name = "gelu_new" if kind == "gated-gelu" else kind.removeprefix("gated-")
    name = activation(config.get("dense_act_fn", name))  # what follows from the first key, and counts where it is given
    gated = config.get("is_gated_act", kind.startswith("gated-"))
    depth = config.get("num_decoder_layers") or config["num_layers"]
    tied = config.get("tie_word_embeddings") is not False
    return {"mlp.gated": gated, "mlp.activation": name, "depth": depth, "head.tied": tied}


def _read_umt5(config: Config) -> dict[str, Any]:
    read = _read_mt5(config)
    # the flag decides the scale, though the tensors decide what is tied: transformers 5 ties, and so scales, always
    scaled = config.get("scale_decoder_outputs", read["head.tied"])
    return {**read, "head.logits_scale": config["d_model"] ** -0.5 if scaled else 1.0}


def _write(model: Model) -> Config:
    tanh = model.mlp.gated and model.mlp.activation == "gelu_tanh"
    name = "gelu" if tanh else their_activation(model.mlp.activation)
    return {
        "feed_forward_proj": f"gated-{name}" if model.mlp.gated else name,
        "num_decoder_layers": model.depth,
        "tie_word_embeddings": model.head.tied,
        "scale_decoder_outputs": model.head.logits_scale != 1,
    }


T5 = Family(
    model_type="t5",
    architecture="T5ForConditionalGeneration",
    base=Model(
        initial_scale=None,
        positions=Positions(kind="relative"),
        attention=Attention(scale=1.0),
        embedding=Embedding(initial_scale=1.0),
    ),
    fields=(
        ("vocabulary", "vocab_size", 32_128),
        ("width", "d_model", 512),
        ("attention.head_width", "d_kv", 64),
        ("mlp.width", "d_ff", 2048),
        ("encoder_depth", "num_layers", 6),
        ("attention.heads", "num_heads", 8),
        ("positions.buckets", "relative_attention_num_buckets", 32),
        ("positions.max_distance", "relative_attention_max_distance", 128),
        ("dropout", "dropout_rate", 0.1),
        ("attention.dropout", "dropout_rate", 0.1),
        ("norm.epsilon", "layer_norm_epsilon", 1e-6),
    ),
    names=names,
    read=_read,
    write=_write,
    reads=(
        *("feed_forward_proj", "dense_act_fn", "is_gated_act"),
        *("num_decoder_layers", "tie_word_embeddings", "scale_decoder_outputs"),
    ),
    requires=(("is_encoder_decoder", True),),
    without_effect=("initializer_factor", "output_past", "n_positions"),
    aliases=(
        ("hidden_size", "d_model"),
        ("num_attention_heads", "num_heads"),
        ("num_hidden_layers", "num_layers"),
        ("head_dim", "d_kv"),
    ),
)
_MT5 = {"vocab_size": 250_112, "d_ff": 1024, "num_layers": 8, "num_heads": 6}
MT5 = replace(
    T5,
    model_type="mt5",
    architecture="MT5ForConditionalGeneration",
    fields=tuple((ours, key, _MT5.get(key, default)) for ours, key, default in T5.fields),
    read=_read_mt5,
)
UMT5 = replace(
    MT5,
    model_type="umt5",
    architecture="UMT5ForConditionalGeneration",
    base=replace_fields(T5.base, {"positions.per_layer": True}),
    read=_read_umt5,
)
