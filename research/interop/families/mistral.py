"""Mistral (Jiang et al. 2023): Llama, with a sliding window in every layer."""

from research.config import Model
from research.interop.families import llama, rotary
from research.interop.families.family import Family

FAMILY = Family(
    model_type="mistral",
    architecture="MistralForCausalLM",
    base=Model(),
    fields=llama.fields(intermediate_size=14_336, num_key_value_heads=8, max_position_embeddings=4096 * 32),
    names=lambda model: llama.NAMES,
    read=lambda config: {
        **rotary.read_uniform(config),
        **rotary.read_layers({"sliding_window": 4096, **config}, every=0, first=0),
    },
    write=lambda model: {**rotary.write(model), **rotary.write_layers(model), "layer_types": None},
    reads=(*rotary.KEYS, "layer_types", "sliding_window"),
)
