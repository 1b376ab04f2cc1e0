"""Where each of our parameters lies in foreign checkpoints, as data.

A table maps our modules to theirs, with `{layer}` for the number of a layer; `a#1/3` is the second of three equal parts
of what module `a` puts out. Leaves follow a rule: our `kernel` and `scale` are their `weight`, our `bias` is their
`bias`; torch's Linear keeps a kernel as `[out, in]`.
"""

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Names:
    """How a family of checkpoints calls its tensors."""

    modules: dict[str, str]  # our module -> theirs
    prefix: str = ""  # of the names of the model without its head; files may lack it
    transposed: bool = True  # kernels are kept as [out, in]
    interleaved: tuple[str, ...] = ()  # our modules whose heads hold the pairs that rotate as neighbours
    absent: tuple[str, ...] = ()  # tensors that the family does not have because they would change nothing
    copies: tuple[tuple[str, str], ...] = ()  # (tensor, its copy): a file may hold either or both
    dropped: tuple[str, ...] = ()  # patterns of tensors that are no part of the language model


class Place(NamedTuple):
    """Where one of our parameters lies: in which tensor, in which part of it, and how it is turned."""

    name: str
    transposed: bool
    part: int
    parts: int
    interleaved: bool


def place(names: Names, path: str) -> Place | None:
    """The place of our parameter `path`, as "decoder/layers/mlp/up/kernel"; None if the family has no such module."""
    module, _, leaf = path.rpartition("/")
    if leaf not in ("kernel", "scale", "bias"):
        module, leaf = path, "kernel" if path == "output" else ""
    their = names.modules.get(module)
    if their is None:
        return None
    name, _, part = their.partition("#")
    number, _, parts = (part or "0/1").partition("/")
    suffix = "bias" if leaf == "bias" or path == "output_bias" else "weight"
    transposed = leaf == "kernel" and (names.transposed or path == "output")
    return Place(f"{name}.{suffix}", transposed, int(number), int(parts), module in names.interleaved)


def canonical(names: Names, name: str) -> str:
    """The tensor's name as the tables have it. Files of a model without its head lack the prefix, and the oldest BERT
    files call the scale and bias of a norm gamma and beta."""
    stem, dot, leaf = name.rpartition(".")
    full = stem + dot + {"gamma": "weight", "beta": "bias"}.get(leaf, leaf)
    roots = {their.partition(".")[0] for their in names.modules.values()}
    return full if full.partition(".")[0] in roots else names.prefix + full


def _layers(ours: str, theirs: str, modules: dict[str, str]) -> dict[str, str]:
    return {f"{ours}/layers/{our}": theirs + their for our, their in modules.items()}


GPT2 = Names(
    modules={
        "embedding": "transformer.wte",
        "positions": "transformer.wpe",
        "decoder/norm": "transformer.ln_f",
        "output": "lm_head",
        **_layers(
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
    dropped=(r"transformer\.h\.\d+\.attn\.(masked_)?bias",),  # causal masks
)

LLAMA = Names(  # and Qwen2, Qwen3
    modules={
        "embedding": "model.embed_tokens",
        "decoder/norm": "model.norm",
        "output": "lm_head",
        **_layers(
            "decoder",
            "model.layers.{layer}.",
            {
                "attention_norm": "input_layernorm",
                "attention/query": "self_attn.q_proj",
                "attention/query_norm": "self_attn.q_norm",
                "attention/key": "self_attn.k_proj",
                "attention/key_norm": "self_attn.k_norm",
                "attention/value": "self_attn.v_proj",
                "attention/out": "self_attn.o_proj",
                "mlp_norm": "post_attention_layernorm",
                "mlp/gate": "mlp.gate_proj",
                "mlp/up": "mlp.up_proj",
                "mlp/down": "mlp.down_proj",
            },
        ),
    },
    prefix="model.",
    copies=(("model.embed_tokens.weight", "lm_head.weight"),),
    dropped=(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",),
)

_BERT_LAYER = {
    "attention/query": "attention.self.query",
    "attention/key": "attention.self.key",
    "attention/value": "attention.self.value",
    "attention/out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "mlp/up": "intermediate.dense",
    "mlp/down": "output.dense",
    "mlp_norm": "output.LayerNorm",
}
BERT = Names(
    modules={
        "embedding": "bert.embeddings.word_embeddings",
        "positions": "bert.embeddings.position_embeddings",
        "token_types": "bert.embeddings.token_type_embeddings",
        "embedding_norm": "bert.embeddings.LayerNorm",
        **_layers("decoder", "bert.encoder.layer.{layer}.", _BERT_LAYER),
        "head_transform": "cls.predictions.transform.dense",
        "head_norm": "cls.predictions.transform.LayerNorm",
        "output": "cls.predictions.decoder",
        "output_bias": "cls.predictions",
    },
    prefix="bert.",
    copies=(
        ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
        ("cls.predictions.bias", "cls.predictions.decoder.bias"),
    ),
    dropped=(r"bert\.pooler\..*", r"cls\.seq_relationship\..*", r"bert\.embeddings\.(position_ids|token_type_ids)"),
)

ROBERTA = Names(
    modules={
        "embedding": "roberta.embeddings.word_embeddings",
        "positions": "roberta.embeddings.position_embeddings",
        "token_types": "roberta.embeddings.token_type_embeddings",
        "embedding_norm": "roberta.embeddings.LayerNorm",
        **_layers("decoder", "roberta.encoder.layer.{layer}.", _BERT_LAYER),
        "head_transform": "lm_head.dense",
        "head_norm": "lm_head.layer_norm",
        "output": "lm_head.decoder",
        "output_bias": "lm_head",
    },
    prefix="roberta.",
    copies=(
        ("roberta.embeddings.word_embeddings.weight", "lm_head.decoder.weight"),
        ("lm_head.bias", "lm_head.decoder.bias"),
    ),
    dropped=(r"roberta\.pooler\..*", r"roberta\.embeddings\.(position_ids|token_type_ids)"),
)

MODERNBERT = Names(
    modules={
        "embedding": "model.embeddings.tok_embeddings",
        "embedding_norm": "model.embeddings.norm",
        "decoder/norm": "model.final_norm",
        **_layers(
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


def t5(gated: bool) -> Names:
    """T5 numbers the sublayers of a block, and calls the MLP of version 1.0, which has no gate, otherwise."""

    def attention(ours: str, theirs: str) -> dict[str, str]:
        return {
            f"{ours}/{our}": f"{theirs}.{their}"
            for our, their in zip(("query", "key", "value", "out"), "qkvo", strict=True)
        }

    def mlp(sublayer: int) -> dict[str, str]:
        dense = f"layer.{sublayer}.DenseReluDense"
        inner = {"mlp/gate": f"{dense}.wi_0", "mlp/up": f"{dense}.wi_1"} if gated else {"mlp/up": f"{dense}.wi"}
        return {"mlp_norm": f"layer.{sublayer}.layer_norm", **inner, "mlp/down": f"{dense}.wo"}

    own = {"attention_norm": "layer.0.layer_norm", **attention("attention", "layer.0.SelfAttention")}
    cross = {
        "cross_attention_norm": "layer.1.layer_norm",
        **attention("cross_attention", "layer.1.EncDecAttention"),
    }
    return Names(
        modules={
            "embedding": "shared",
            **_layers("encoder", "encoder.block.{layer}.", own | mlp(1)),
            "encoder/relative_bias": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
            "encoder/norm": "encoder.final_layer_norm",
            **_layers("decoder", "decoder.block.{layer}.", own | cross | mlp(2)),
            "decoder/relative_bias": "decoder.block.0.layer.0.SelfAttention.relative_attention_bias",
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


GGUF = Names(  # of the architectures llama, qwen2 and qwen3; llama interleaves, as Meta's own files do
    modules={
        "embedding": "token_embd",
        "decoder/norm": "output_norm",
        "output": "output",
        **_layers(
            "decoder",
            "blk.{layer}.",
            {
                "attention_norm": "attn_norm",
                "attention/query": "attn_q",
                "attention/query_norm": "attn_q_norm",
                "attention/key": "attn_k",
                "attention/key_norm": "attn_k_norm",
                "attention/value": "attn_v",
                "attention/out": "attn_output",
                "mlp_norm": "ffn_norm",
                "mlp/gate": "ffn_gate",
                "mlp/up": "ffn_up",
                "mlp/down": "ffn_down",
            },
        ),
    },
    copies=(("token_embd.weight", "output.weight"),),
    dropped=(r"rope_freqs\.weight",),  # Llama 3.1's scaling, which the metadata give as well
)
