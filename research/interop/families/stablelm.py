"""StableLM 2 (Bellagente et al. 2024): Llama with layer norms, of whose heads a quarter rotates."""

from research.config import replace_fields
from research.interop.families import llama, rotary
from research.interop.families.family import LAYERNORM, Family

_ROWS = llama.fields(
    vocab_size=50_304,
    hidden_size=2560,
    intermediate_size=6912,
    num_key_value_heads=32,
    max_position_embeddings=4096,
    head_dim=None,
    rms_norm_eps=None,
)
FAMILY = Family(
    model_type="stablelm",
    architecture="StableLmForCausalLM",
    base=replace_fields(LAYERNORM, {"mlp.gated": True}),
    fields=(
        *_ROWS,
        ("norm.epsilon", "layer_norm_eps", 1e-5),
        ("attention.qkv_bias", "use_qkv_bias", False),
        ("dropout", "hidden_dropout", 0.0),
        ("parallel_residual", "use_parallel_residual", False),
        ("norm.shared", "use_parallel_residual", False),
    ),
    names=lambda model: llama.NAMES,
    read=lambda config: rotary.read(config, share=0.25),
    write=lambda model: {"partial_rotary_factor": 1.0, **rotary.write(model)},
    reads=rotary.KEYS,
    requires=(("qk_layernorm", False),),
)
