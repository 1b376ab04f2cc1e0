"""The families of `transformers`, one file each: what a config means, and how tensors are called. To add one, write its
file and name it here."""

from research.interop.families import (
    albert,
    bert,
    cohere,
    distilbert,
    electra,
    gemma,
    gpt2,
    gpt_neox,
    gptj,
    llama,
    mistral,
    modernbert,
    olmo2,
    opt,
    phi3,
    qwen,
    smollm3,
    stablelm,
    t5,
)
from research.interop.families.family import Config, Family, activation, their_activation

__all__ = ["FAMILIES", "Config", "Family", "activation", "their_activation"]

FAMILIES = {  # by `model_type`; the first one that a model fits is written
    family.model_type: family
    for family in (
        *(gpt2.FAMILY, llama.FAMILY, mistral.FAMILY, qwen.QWEN2, qwen.QWEN3, smollm3.FAMILY, phi3.FAMILY),
        *(olmo2.OLMO2, olmo2.OLMO3, gemma.GEMMA, gemma.GEMMA2, gemma.GEMMA3, stablelm.FAMILY, cohere.FAMILY),
        *(gpt_neox.FAMILY, gptj.FAMILY, opt.FAMILY),
        *(bert.BERT, bert.ROBERTA, distilbert.FAMILY, electra.FAMILY, albert.FAMILY, modernbert.FAMILY),
        *(t5.T5, t5.MT5, t5.UMT5),
    )
}
