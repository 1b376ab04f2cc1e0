"""SmolLM3: Llama, in which every fourth layer does not rotate queries and keys (Yang et al. 2025, "RoPE to NoPE")."""

from typing import Any

from research.config import Model
from research.errors import InputError
from research.interop.families import llama, rotary
from research.interop.families.family import Config, Family, attention_biases


def _read(config: Config) -> dict[str, Any]:
    depth, every = config["num_hidden_layers"], config.get("no_rope_layer_interval", 4)
    rotates = config.get("no_rope_layers")
    if rotates is not None:
        every = rotates.index(0) + 1 if 0 in rotates else 0
    if rotates is not None and rotates != _rotates(depth, every):
        raise InputError(
            f"no_rope_layers: of num_hidden_layers = {depth} every n-th can be without rotation, not {rotates}"
        )
    rope = rotary.read_uniform(config, theta=2_000_000.0)
    return {**rope, "positions.skip_every": every, **attention_biases(config)}


def _rotates(depth: int, every: int) -> list[int]:
    return [int(not every or (layer + 1) % every != 0) for layer in range(depth)]


FAMILY = Family(
    model_type="smollm3",
    architecture="SmolLM3ForCausalLM",
    base=Model(),
    fields=(
        *llama.fields(
            vocab_size=128_256,
            hidden_size=2048,
            num_hidden_layers=36,
            num_attention_heads=16,
            num_key_value_heads=4,
            max_position_embeddings=32_768,
            tie_word_embeddings=True,
        ),
        ("mlp.bias", "mlp_bias", False),
    ),
    names=lambda model: llama.NAMES,
    read=_read,
    write=lambda model: {
        **llama.write(model),
        "no_rope_layers": _rotates(model.depth, model.positions.skip_every),
        "no_rope_layer_interval": model.positions.skip_every or 4,
    },
    reads=(*rotary.KEYS, "layer_types", "attention_bias", "no_rope_layers", "no_rope_layer_interval"),
    requires=(("use_sliding_window", False),),
    without_effect=("sliding_window",),  # of the sliding window that is refused
)
