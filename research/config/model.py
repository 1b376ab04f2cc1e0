"""`Model`: what a Transformer is, as a small tree."""

from dataclasses import dataclass, field, replace
from typing import Literal

Implementation = Literal["auto", "plain", "blocks", "scanned", "cudnn", "splash"]


@dataclass(frozen=True)
class Attention:
    """Self-attention and, in an encoder-decoder, cross-attention."""

    heads: int = 4  # query heads
    kv_heads: int = 0  # key and value heads, each shared by a group of query heads; 0: as many as heads
    head_width: int = 0  # features of a head; 0: width / heads
    scale: float = 0.0  # factor on query-key products; 0: head_width ** -0.5 (T5: 1)
    qkv_bias: bool = False  # biases of the query, key and value projections
    output_bias: bool = False  # bias of the output projection
    qk_norm: bool = False  # RMS-normalise queries and keys by head (Qwen3)
    window: int = 0  # a local layer sees this many positions to each side; 0: no layer is local
    global_every: int = 1  # with a window: every n-th layer is global (ModernBERT: 3); 0: none is (Mistral)
    dropout: float = 0.0  # rate on the attention probabilities; above 0, training needs the plain implementation
    # auto: the fastest that is right for the platform; plain: the reference; blocks: plain that saves what is causal;
    # scanned: plain, one block of queries after another; splash: on TPUs; cudnn: on NVIDIA GPUs
    implementation: Implementation = "auto"
    qk_norm_joint: bool = False  # qk_norm: all heads of a token together (OLMo 2)
    softcap: float = 0.0  # a score s becomes softcap * tanh(s / softcap) (Gemma 2: 50); 0: it stays
    first_global: int = 0  # with a window: the first of the global layers (Gemma 2: 1)


@dataclass(frozen=True)
class MLP:
    """The feed-forward layer of a block."""

    width: int = 0  # of its hidden layer; 0: 4 * width of the model
    activation: Literal["gelu", "gelu_tanh", "relu", "silu"] = "silu"  # of its hidden layer, and of head.transform
    gated: bool = True  # multiply the activation by a second projection (SwiGLU, gated GELU)
    bias: bool = False  # biases of its projections, and of head.transform


@dataclass(frozen=True)
class Norm:
    """Normalisation: which kind, and where."""

    kind: Literal["layernorm", "rmsnorm"] = "rmsnorm"  # layernorm also subtracts the mean
    epsilon: float = 1e-6  # added to the variance
    bias: bool = False  # layernorm: a learned shift beside the scale
    # pre: before each layer of a block; post: after its residual sum (BERT); output: of what the layer puts out, before
    # it is added (OLMo 2); sandwich: pre and output (Gemma 2)
    placement: Literal["pre", "post", "output", "sandwich"] = "pre"
    embedding: bool = False  # normalise the embeddings (BERT)
    first: bool = True  # the first block normalises before attention (ModernBERT: no, its embeddings are normalised)
    shared: bool = False  # with parallel_residual: one norm, whose output attention and MLP both read (GPT-J)


@dataclass(frozen=True)
class RopeScaling:
    """Longer contexts for rotary positions, as in `transformers`' `modeling_rope_utils`: `linear` divides every
    frequency by `factor`; `llama3` (Llama 3.1) and `yarn` (Peng et al. 2023) only the low ones; `dynamic` grows theta
    with a row that is longer than `original_length`, and changes nothing in shorter ones."""

    kind: Literal["linear", "llama3", "yarn", "dynamic"] = "llama3"  # which frequencies are divided
    factor: float = 8.0  # how many times longer than the original context
    # llama3, yarn: frequencies that turn less often than this over the original context are divided by factor
    low_frequency: float = 1.0
    high_frequency: float = 4.0  # llama3, yarn: those that turn more often than this are kept (yarn: usually 32)
    original_length: int = 8192  # llama3, yarn, dynamic: the context length of the original training
    magnitude: float = 1.0  # yarn: factor on rotated queries and keys
    truncate: bool = True  # yarn: between whole numbers of frequencies


@dataclass(frozen=True)
class Positions:
    """How the model knows the order of tokens."""

    # a learned table, rotary position embeddings (RoPE), T5's bias by buckets of relative distance, or nothing
    kind: Literal["learned", "rope", "relative", "none"] = "rope"
    max_length: int = 0  # learned: rows of the table; 0: as long as the data
    offset: int = 0  # learned: the row of the first position (RoBERTa: 2)
    theta: float = 10_000.0  # rope: base of the wavelengths
    local_theta: float = 0.0  # rope: theta of local layers; 0: the same
    scaling: RopeScaling | None = None  # rope: stretch it to longer contexts
    buckets: int = 32  # relative: number of buckets
    max_distance: int = 128  # relative: distances from here on share the last bucket
    rotary_width: int = 0  # rope: how many features of a head rotate, the first ones; 0: all (Pythia: a quarter)
    skip_every: int = 0  # rope: every n-th layer does not rotate (SmolLM3: 4); 0: all do
    local_scaling: bool = True  # rope: local layers are scaled too (Gemma 3: no)
    per_layer: bool = False  # relative: each layer has its own table (umT5)


@dataclass(frozen=True)
class Embedding:
    """What tokens become."""

    token_types: int = 0  # rows of BERT's token type table; the first row is added everywhere
    initial_scale: float = 0.02  # standard deviation of the initial embeddings
    width: int = 0  # of the table, which a projection leads to the model's width (ALBERT); 0: the model's, without one
    scale: float = 1.0  # factor on the embeddings of tokens (Gemma: square root of the width)


@dataclass(frozen=True)
class Head:
    """From features to logits."""

    tied: bool = True  # the output layer is the embedding table
    bias: bool = False  # bias of the output layer (BERT)
    transform: bool = False  # dense layer, activation and norm before the output layer (BERT)
    logits_scale: float = 1.0  # factor on the logits (T5 v1.0: width ** -0.5)
    softcap: float = 0.0  # a logit l becomes softcap * tanh(l / softcap) (Gemma 2: 30); 0: it stays


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters (Hu et al. 2021): a kernel W is read as W + alpha / rank * A B; only A and B are trained."""

    rank: int = 8  # columns of A, rows of B
    alpha: float = 16.0  # their product counts alpha / rank times
    # patterns of the projections that have them, e.g. "decoder/layers/mlp/up"; * stands for anything
    targets: tuple[str, ...] = ("*/attention/*", "*/cross_attention/*", "*/mlp/*")


@dataclass(frozen=True)
class Mup:
    """Maximal update parametrisation (Yang et al. 2022, arXiv 2203.03466, table 8): what is tuned at the base width
    holds at every width. With m = width / base_width, and for Adam and Lion:

      kernels between layers     initial variance / m, learning rate / m
      output layer, tied or not  logits / m, initial variance and learning rate as they are
      all else                   as it is: embeddings, positions, norms and biases
      query-key products         times base_head_width ** 0.5 / head_width instead of head_width ** -0.5
      weight decay               learning rate * weight_decay for all, not divided by m: what is decayed is the same

    A model of the base width is the one without muP. The MLP's width, and the product of heads and their width, must
    grow as the width does. Table 8, not table 3, because it allows tied embeddings. Depth-aware descendants (Yang et
    al. 2023, arXiv 2310.02244; Dey et al. 2025, arXiv 2505.01618) also scale what a layer adds by its depth, which
    matters where depth grows: ladders here grow in width at one depth. Unit scaling (Blake et al. 2024, arXiv
    2407.17465) is for formats of 8 bits, which are not used here."""

    base_width: int = 128  # the width at which everything was tuned
    base_head_width: int = 0  # width of its heads; 0: as here


@dataclass(frozen=True)
class Model:
    """One Transformer. `research/models/families.py` has the published settings by name."""

    vocabulary: int = 0  # number of token ids; 0: the tokenizer's, rounded up to a multiple of 128
    width: int = 256  # of the residual stream
    depth: int = 4  # layers (of the decoder, in an encoder-decoder)
    encoder_depth: int = 0  # layers of the encoder; 0: there is none
    attention: Attention = field(default_factory=Attention)
    mlp: MLP = field(default_factory=MLP)
    norm: Norm = field(default_factory=Norm)
    positions: Positions = field(default_factory=Positions)
    embedding: Embedding = field(default_factory=Embedding)
    head: Head = field(default_factory=Head)
    parallel_residual: bool = False  # attention and MLP of a block read the same residual stream (GPT-J, Pythia)
    shared_layers: bool = False  # all blocks of a stack are one, applied `depth` times (ALBERT)
    dropout: float = 0.0  # rate on the embeddings and on what each layer adds to the residual stream
    initial_scale: float | None = 0.02  # standard deviation of the initial kernels; None: fan_in ** -0.5
    mup: Mup | None = None  # hyperparameters hold across widths; None: the standard parametrisation
    lora: Lora | None = None  # low-rank adapters; with them, nothing else is trained
    # of the layers' kernels; below 32 they are integers in scaled blocks, and need adapters
    quantization_bits: Literal[32, 8, 4] = 32
    unroll: int = 1  # layers per iteration of the loop over layers: 1 compiles fastest, depth can run fastest
    # what is kept of a layer for the backward pass. none: everything; dots: matrix products and attention;
    # attention_mlp: attention and the input of the MLP; attention: attention and the layer's input; full: the layer's
    # input alone; offload: as attention_mlp, but in the host's memory
    remat: Literal["none", "dots", "attention_mlp", "attention", "full", "offload"] = "none"

    @property
    def has_dropout(self) -> bool:
        """Whether training needs random numbers."""
        return self.dropout > 0 or self.attention.dropout > 0

    @property
    def width_ratio(self) -> float:
        """By what muP divides (see `Mup`); 1 in the standard parametrisation."""
        return 1.0 if self.mup is None else self.width / self.mup.base_width


def resolve(model: Model, vocabulary: int, length: int) -> Model:
    """Fills every 0 of a model that follows from the others: `vocabulary` is the tokenizer's size, `length` the
    longest row."""
    attention, mlp, positions = model.attention, model.mlp, model.positions
    head_width = attention.head_width or model.width // attention.heads
    base_head_width = (model.mup and model.mup.base_head_width) or head_width
    return replace(
        model,
        vocabulary=model.vocabulary or -(-vocabulary // 128) * 128,
        attention=replace(
            attention,
            kv_heads=attention.kv_heads or attention.heads,
            head_width=head_width,
            scale=attention.scale or head_width**-0.5 * (base_head_width / head_width) ** 0.5,
        ),
        mlp=replace(mlp, width=mlp.width or 4 * model.width),
        positions=replace(
            positions,
            max_length=positions.max_length or length + positions.offset,
            local_theta=positions.local_theta or positions.theta,
            rotary_width=positions.rotary_width or head_width,
        ),
    )
