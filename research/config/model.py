"""`Model`: what a Transformer is."""

import dataclasses
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class RotaryScaling:
    """Longer contexts for rotary positions: `linear` divides every frequency by `factor`; `llama3` only the low ones
    (Llama 3.1, as in `transformers`' `_compute_llama3_parameters`)."""

    kind: Literal["linear", "llama3"] = "llama3"  # which frequencies are divided
    factor: float = 8.0  # how many times longer than the original context
    low_frequency: float = 1.0  # llama3: wavelengths above original_length / low_frequency are divided by factor
    high_frequency: float = 4.0  # llama3: wavelengths below original_length / high_frequency are kept
    original_length: int = 8192  # llama3: the context length of the original training


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters (Hu et al. 2021): a kernel W is read as W + alpha / rank * A B; only A and B are trained."""

    rank: int = 8  # columns of A, rows of B
    alpha: float = 16.0  # their product counts alpha / rank times
    # patterns of the projections that have them, e.g. "decoder/layers/mlp/up"; * stands for anything
    targets: tuple[str, ...] = ("*/attention/*", "*/cross_attention/*", "*/mlp/*")


@dataclass(frozen=True)
class Model:
    """One Transformer stack. `research/models/families.py` has the published settings by name."""

    vocabulary: int = 0  # number of token ids; 0: the tokenizer's, rounded up to a multiple of 128
    width: int = 256  # of the residual stream
    depth: int = 4  # layers (of the decoder, in an encoder-decoder)
    encoder_depth: int = 0  # layers of the encoder; 0 means that there is none
    heads: int = 4  # query heads
    kv_heads: int = 0  # key and value heads, shared by groups of query heads; 0: as many as heads
    head_width: int = 0  # 0: width / heads
    mlp_width: int = 0  # 0: 4 * width
    positions: Literal["learned", "rotary", "relative", "none"] = "rotary"  # relative: T5's bias by distance buckets
    max_positions: int = 0  # rows of the learned position table; 0: as long as the data
    position_offset: int = 0  # learned positions start at this row of the table (RoBERTa: 2)
    rotary_theta: float = 10_000.0  # base wavelength of rotary positions
    rotary_scaling: RotaryScaling | None = None  # stretch rotary positions to longer contexts
    relative_buckets: int = 32  # buckets of the relative position bias
    relative_distance: int = 128  # distances from here on share the last bucket
    window: int = 0  # a layer with a sliding window sees so many places to each side; 0: there are none
    global_every: int = 1  # with a window: every so-manyth layer, from the first on, has none (ModernBERT: 3)
    window_theta: float = 0.0  # rotary_theta of the layers with a window; 0: the same
    norm: Literal["layernorm", "rmsnorm"] = "rmsnorm"  # kind of normalisation
    norm_epsilon: float = 1e-6  # added to the variance
    norm_bias: bool = False  # layernorm: a learned shift beside the scale
    norm_placement: Literal["pre", "post"] = "pre"  # before each block, or after its residual sum (BERT)
    embedding_norm: bool = False  # normalise the embeddings (BERT)
    first_norm: bool = True  # the first layer has a norm before attention (ModernBERT: no, its embeddings have one)
    token_types: int = 0  # rows of BERT's token type table; the first row is added everywhere
    activation: Literal["gelu", "gelu_tanh", "relu", "silu"] = "silu"  # of the MLP
    gated: bool = True  # multiply the activation by a second projection (SwiGLU, gated GELU)
    qkv_bias: bool = False  # biases of the query, key and value projections
    attention_bias: bool = False  # bias of the attention's output projection
    mlp_bias: bool = False  # biases of the MLP and of the head's dense layer
    qk_norm: bool = False  # RMS-normalise queries and keys by head (Qwen3)
    attention_scale: float = 0.0  # factor on query-key products; 0: head_width ** -0.5 (T5: 1)
    tied: bool = True  # the output layer is the embedding table
    logits_scale: float = 1.0  # factor on the logits (T5 v1.0: width ** -0.5)
    head_bias: bool = False  # bias of the output layer (BERT)
    head_transform: bool = False  # dense layer, activation and norm before the output layer (BERT)
    dropout: float = 0.0  # rate on embeddings, attention probabilities and both residual branches
    initial_scale: float | None = 0.02  # standard deviation of the initial kernels; None: fan_in ** -0.5
    embedding_scale: float = 0.02  # standard deviation of the initial embeddings
    lora: Lora | None = None  # low-rank adapters; with them, nothing else is trained
    bits: Literal[32, 8, 4] = 32  # of the layers' kernels; below 32 they are integers in scaled blocks, under adapters
    unroll: int = 1  # layers per iteration of the loop over layers: 1 compiles fastest, depth can run fastest
    # what is kept of a layer for the backward pass. none: everything; dots: matrix products and attention;
    # attention_mlp: attention and the input of the MLP; attention: attention and the layer's input; full: the layer's
    # input alone; offload: as attention_mlp, but in the host's memory
    remat: Literal["none", "dots", "attention_mlp", "attention", "full", "offload"] = "none"
    # implementation; auto: the fastest right one for the platform
    attention: Literal["auto", "plain", "cudnn", "splash"] = "auto"


def resolve(model: Model, vocabulary: int, length: int) -> Model:
    """Fills every 0 of a model that follows from the others: `vocabulary` is the tokenizer's size, `length` the
    longest row."""
    return dataclasses.replace(
        model,
        vocabulary=model.vocabulary or -(-vocabulary // 128) * 128,
        kv_heads=model.kv_heads or model.heads,
        head_width=model.head_width or model.width // model.heads,
        mlp_width=model.mlp_width or 4 * model.width,
        max_positions=model.max_positions or length + model.position_offset,
        window_theta=model.window_theta or model.rotary_theta,
        attention_scale=model.attention_scale or (model.head_width or model.width // model.heads) ** -0.5,
    )
