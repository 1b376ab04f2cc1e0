"""ELECTRA (Clark et al. 2020): its generator, as a masked language model; its discriminator, which predicts no tokens,
for analysis. Embeddings may be narrower than the model."""

from typing import Any

from research.interop.families import bert
from research.interop.families.family import Config, Family

NAMES = bert.names(
    "electra",
    {
        "embedding_projection": "electra.embeddings_project",
        "head_transform": "generator_predictions.dense",
        "head_norm": "generator_predictions.LayerNorm",
        "output": "generator_lm_head",
        "output_bias": "generator_lm_head",
    },
    dropped=(r"discriminator_predictions\..*",),
)


def _read(config: Config) -> dict[str, Any]:
    narrow = config.get("embedding_size") or 128
    bert.check_head(config, "ElectraModel")
    return {"embedding.width": 0 if narrow == config["hidden_size"] else narrow}


FAMILY = Family(
    model_type="electra",
    architecture="ElectraForMaskedLM",
    base=bert.BASE,
    fields=tuple(
        (ours, key, {"hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024}.get(key, default))
        for ours, key, default in bert.FIELDS
    ),
    names=lambda model: NAMES,
    read=_read,
    write=lambda model: {"embedding_size": model.embedding.width or model.width},
    reads=("embedding_size",),
    requires=(("position_embedding_type", "absolute"),),
    headless="ElectraModel",
)
