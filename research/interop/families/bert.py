"""BERT (Devlin et al. 2019), MultiBERTs, the sentence encoders of its format, and RoBERTa (Liu et al. 2019)."""

from dataclasses import replace
from typing import Any

from research.config import replace_fields
from research.errors import InputError
from research.interop.families.family import BIASED, Config, Family
from research.interop.names import Names, layers

BASE = replace_fields(
    BIASED, {"norm.placement": "post", "norm.embedding": True, "head.bias": True, "head.transform": True}
)
LAYER = {
    "attention/query": "attention.self.query",
    "attention/key": "attention.self.key",
    "attention/value": "attention.self.value",
    "attention/out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "mlp/up": "intermediate.dense",
    "mlp/down": "output.dense",
    "mlp_norm": "output.LayerNorm",
}


def names(root: str, head: dict[str, str], dropped: tuple[str, ...] = (), layer: dict[str, str] = LAYER) -> Names:
    """The names of an encoder of this kind whose head is called otherwise."""
    table = f"{root}.embeddings.word_embeddings.weight"
    copies = [(table, f"{head['output']}.weight")]
    if head["output_bias"] != head["output"]:
        copies.append((f"{head['output_bias']}.bias", f"{head['output']}.bias"))
    return Names(
        modules={
            "embedding": f"{root}.embeddings.word_embeddings",
            "positions": f"{root}.embeddings.position_embeddings",
            "token_types": f"{root}.embeddings.token_type_embeddings",
            "embedding_norm": f"{root}.embeddings.LayerNorm",
            **layers("decoder", f"{root}.encoder.layer.{{layer}}.", layer),
            **head,
        },
        prefix=f"{root}.",
        copies=tuple(copies),
        dropped=(rf"{root}\.pooler\..*", *dropped),
    )


def check_head(config: Config, headless: str) -> None:
    """Raises InputError if the layers have another activation than the head, which has GELU whatever the config says:
    the stack has one for both. A model of the class `headless` has no head."""
    if headless not in (config.get("architectures") or ()) and config["hidden_act"] not in ("gelu", "gelu_python"):
        raise InputError(
            f"{config['model_type']} with hidden_act = {config['hidden_act']!r} is not supported, only 'gelu', which "
            "its head has always"
        )


FIELDS = (
    ("vocabulary", "vocab_size", 30_522),
    ("width", "hidden_size", 768),
    ("depth", "num_hidden_layers", 12),
    ("attention.heads", "num_attention_heads", 12),
    ("mlp.width", "intermediate_size", 3072),
    ("mlp.activation", "hidden_act", "gelu"),
    ("dropout", "hidden_dropout_prob", 0.1),
    ("attention.dropout", "attention_probs_dropout_prob", 0.1),
    ("positions.max_length", "max_position_embeddings", 512),
    ("embedding.token_types", "type_vocab_size", 2),
    ("norm.epsilon", "layer_norm_eps", 1e-12),
    ("head.tied", "tie_word_embeddings", True),
)
BERT_NAMES = names(
    "bert",
    {
        "head_transform": "cls.predictions.transform.dense",
        "head_norm": "cls.predictions.transform.LayerNorm",
        "output": "cls.predictions.decoder",
        "output_bias": "cls.predictions",
    },
    dropped=(r"cls\.seq_relationship\..*",),
)
ROBERTA_NAMES = names(
    "roberta",
    {
        "head_transform": "lm_head.dense",
        "head_norm": "lm_head.layer_norm",
        "output": "lm_head.decoder",
        "output_bias": "lm_head",
    },
)
BERT = Family(
    model_type="bert",
    architecture="BertForMaskedLM",
    base=BASE,
    fields=FIELDS,
    names=lambda model: BERT_NAMES,
    requires=(("position_embedding_type", "absolute"),),
    headless="BertModel",
)


def _read_roberta(config: Config) -> dict[str, Any]:
    check_head(config, "RobertaModel")
    return {"positions.offset": (1 if config.get("pad_token_id") is None else config["pad_token_id"]) + 1}


ROBERTA = replace(
    BERT,
    model_type="roberta",
    architecture="RobertaForMaskedLM",
    fields=tuple((ours, key, 50_265 if key == "vocab_size" else default) for ours, key, default in FIELDS),
    names=lambda model: ROBERTA_NAMES,
    read=_read_roberta,
    write=lambda model: {"pad_token_id": model.positions.offset - 1},
    reads=("pad_token_id",),
    headless="RobertaModel",
)
