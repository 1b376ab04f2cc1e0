"""`Experiment`: the typed tree that a config file returns.

A file in `configs/` is a Python function `get_config() -> Experiment`; a variant is a `dataclasses.replace` of another.
Every field can be set from the command line by its path (`--optimizer.learning-rate 3e-4`). `research/command_line.py`
reads files and overrides, `research/validation.py` checks the tree as a whole, `save` and `load` keep it as JSON in a
run folder.
"""

import dataclasses
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import cattrs
from cattrs.strategies import configure_tagged_union
from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

from research.errors import InputError


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
    remat: Literal["none", "dots", "full"] = "none"  # keep every activation, only matrix products, or only layer inputs
    # implementation; auto: the fastest right one for the platform
    attention: Literal["auto", "plain", "cudnn"] = "auto"


@dataclass(frozen=True, kw_only=True)
class Stream:
    """What every objective has: where its documents come from and how much they count."""

    name: str  # in metrics and results
    rate: float = 1.0  # share of the rows of a batch, relative to the other objectives
    weight: float = 1.0  # factor on the loss of its tokens
    source: str | None = None  # where its documents come from; None: data.source
    mode: str | None = None  # a token put before every example to name the objective (UL2)


@dataclass(frozen=True, kw_only=True)
class Causal(Stream):
    """Predict each token from those before it (GPT-2)."""

    name: str = "causal"  # in metrics and results


@dataclass(frozen=True, kw_only=True)
class Instruction(Causal):
    """Predict the answers of conversations, from what precedes them (a source `chat:GLOB`)."""

    name: str = "instruction"  # in metrics and results


@dataclass(frozen=True, kw_only=True)
class Masked(Stream):
    """Predict hidden tokens from both sides (BERT): of the chosen tokens 80 % become the mask, 10 % a random token,
    10 % stay; another choice every epoch."""

    name: str = "masked"  # in metrics and results
    mask_rate: float = 0.15  # share of tokens to predict
    whole_words: bool = False  # choose all pieces of a word together


@dataclass(frozen=True, kw_only=True)
class Prefix(Stream):
    """Predict the rest of a document from a prefix that is seen from both sides; the split is uniformly random."""

    name: str = "prefix"  # in metrics and results


@dataclass(frozen=True, kw_only=True)
class SpanCorruption(Stream):
    """Replace random spans by sentinels in the input; predict the spans (T5, section 3.1.4)."""

    name: str = "span_corruption"  # in metrics and results
    noise_rate: float = 0.15  # share of tokens to hide
    mean_span: float = 3.0  # mean number of tokens in a hidden span


@dataclass(frozen=True, kw_only=True)
class TextToText(Stream):
    """Predict the second field of a pair from the first (T5's "translate English to French: …")."""

    name: str = "text_to_text"  # in metrics and results
    prefix: str = ""  # text put before every input


Objective = Causal | Instruction | Masked | Prefix | SpanCorruption | TextToText


@dataclass(frozen=True)
class Data:
    """What is read, and how it becomes batches. `research/data/sources.py` lists the forms of a source."""

    # python-docs | text:GLOB | jsonl:GLOB#FIELD | parquet:GLOB#COLUMN | tfds:NAME/CONFIG:SPLIT#FIELD | tokens:GLOB;
    # two fields (#INPUT,TARGET) make pairs
    source: str = "python-docs"
    held_out: float | str = 0.05  # the last fraction of the documents (of the text, where there is one), or a source
    # bytes | characters | integers:SIZE | train:PIECES (sentencepiece, trained on the source) | a file or folder of a
    # tokenizer | a name on the Hugging Face hub
    tokenizer: str = "train:4096"
    length: int = 128  # tokens in a row of a batch
    source_length: int | None = None  # of the encoder's rows, in an encoder-decoder; None: length
    batch: int = 16  # rows in a step's batch, over all hosts
    workers: int = 0  # processes that prepare batches ahead; 0: a thread of the main process
    cache: str | None = None  # where prepared token stores are kept; None: $RESEARCH_CACHE or ~/.cache/research


@dataclass(frozen=True)
class Optimizer:
    """An optax optimizer; the learning rate is its peak, `Schedule` its course."""

    name: Literal["adamw", "adafactor", "muon", "lion"] = "adamw"  # muon: matrices by Muon, everything else by AdamW
    learning_rate: float = 1e-3  # peak
    weight_decay: float = 0.1  # on matrices and embeddings, never on norms and biases
    b1: float = 0.9  # decay of the first moment (adafactor has none)
    b2: float = 0.95  # decay of the second moment (adafactor has its own; muon: only of its AdamW part)
    epsilon: float = 1e-8  # added to the root of the second moment (adamw, muon)
    clip: float = 1.0  # largest norm of the whole gradient; 0: not clipped


@dataclass(frozen=True)
class Schedule:
    """How long training lasts, and the course of the learning rate."""

    steps: int = 1000  # optimizer steps
    # course after the warmup; stable_decay: warmup-stable-decay
    name: Literal["cosine", "stable_decay", "inverse_square_root", "linear"] = "cosine"
    warmup: int = 100  # steps of linear rise
    decay: int | None = None  # stable_decay: length of the final fall in steps; None: a fifth of all
    final: float = 0.1  # last learning rate, as a share of the peak (not inverse_square_root)


Rules = tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Mesh:
    """Sizes of the device mesh; -1 takes what is left. `rules` maps the model's logical axes to it."""

    data: int = -1  # copies of the model, each with its rows of the batch; 1, if another size is -1
    fsdp: int = 1  # rows too, but parameters and optimizer state are split as well
    tensor: int = 1  # heads, MLP and vocabulary are split, and the residual stream along its length
    context: int = 1  # places of a row are split; attention gathers keys and values
    # groups of devices with a slow network between them, over which `data` is split first; -1: a TPU's
    slices: int = -1
    # logical axis -> mesh axes; a logical axis that is not named here is not split
    rules: Rules = (
        ("batch", ("data", "fsdp")),
        ("length", ("context",)),
        ("residual_length", ("context", "tensor")),
        ("embed", ("fsdp",)),
        ("heads", ("tensor",)),
        ("kv_heads", ("tensor",)),
        ("mlp", ("tensor",)),
        ("vocab", ("tensor",)),
    )


@dataclass(frozen=True)
class Step:
    """How the gradient of a batch is computed."""

    accumulation: int = 1  # microbatches of a step, weighted by their tokens; must divide the batch
    compute: Literal["float32", "bfloat16"] = "float32"  # of activations; parameters and optimizer stay float32
    z_loss: float = 0.0  # factor on the squared log-partition (PaLM: 1e-4)
    loss_chunk: int = 16_384  # tokens whose logits exist at once on a device


@dataclass(frozen=True)
class Checkpoint:
    """When a run is saved, and what is kept."""

    every: int = 1000  # steps between checkpoints; the last step is always saved
    keep_last: int = 2  # most recent checkpoints that are kept
    keep_every: int | None = None  # also keep every checkpoint at a multiple of this step
    keep_best: bool = False  # also keep the one with the lowest held-out loss


@dataclass(frozen=True)
class Probes:
    """What is asked of the model before training, at every evaluation, and at the end."""

    continuations: tuple[tuple[str, str], ...] = ()  # (context, continuation): how probable the continuation is
    texts: tuple[str, ...] = ()  # whose every token's loss is shown
    unrelated: tuple[str, ...] = ()  # prompts for which the next token should stay as probable as before training


@dataclass(frozen=True)
class Evaluation:
    """Held-out loss and tasks, during and after training."""

    every: int = 500  # steps between evaluations; 0: only at the end
    batches: int = 16  # batches of an evaluation during training; the one at the end reads all held-out data
    final_batches: int | None = None  # bound on the evaluation at the end; None: all held-out data
    tasks: tuple[str, ...] = ()  # shipped tasks (copying, arc_easy, …) or YAML files, asked with every evaluation
    data: tuple[str, ...] = ()  # folders with the files of those tasks
    limit: int | None = 200  # the first so many questions of each task; None: all
    samples: bool = True  # write a sample for each objective at every evaluation
    probes: Probes = field(default_factory=Probes)  # what a fine-tuned model is asked before, during and after


@dataclass(frozen=True)
class Logging:
    """Where metrics go, beside `metrics.jsonl`."""

    every: int = 10  # steps between lines
    tensorboard: bool = True  # event files in the run folder
    wandb: str | None = None  # Weights & Biases project; None: not used


@dataclass(frozen=True)
class Experiment:
    """Everything that defines a run."""

    model: Model = field(default_factory=Model)
    objectives: tuple[Objective, ...] = (Causal(),)
    data: Data = field(default_factory=Data)
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    mesh: Mesh = field(default_factory=Mesh)
    step: Step = field(default_factory=Step)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    evaluation: Evaluation = field(default_factory=Evaluation)
    logging: Logging = field(default_factory=Logging)
    # what to start from: a run folder, a Hugging Face folder or hub name, or a GGUF file. The tokenizer, and what model
    # says of the architecture then come from there; model.dropout, unroll, remat, attention, lora and bits stay
    initialize_from: str | None = None
    frozen: tuple[str, ...] = ()  # patterns of parameters that are not trained: embedding, decoder/layers/mlp/*, …
    # where compiled programs are kept, a folder or gs://…; None: $JAX_COMPILATION_CACHE_DIR, or jax/ below the cache
    compiled: str | None = None
    seed: int = 0  # of everything random: initial parameters, order of the data, masks, dropout


_converter = cattrs.Converter(forbid_extra_keys=True)
configure_tagged_union(Objective, _converter, tag_name="objective")
for _plain in (bool, int, float, str, float | str):  # cattrs itself would turn 1.5 to 1 and "False" to True
    _converter.register_structure_hook(_plain, lambda value, kind: typed(value, kind))


def to_dict(experiment: Experiment) -> dict[str, Any]:
    """The tree as plain JSON types; an objective carries its class as `objective`."""
    return _converter.unstructure(experiment)


def from_dict(tree: dict[str, Any]) -> Experiment:
    """The inverse of `to_dict`. Raises InputError with the path of every wrong field."""
    try:
        return _converter.structure(tree, Experiment)
    except (cattrs.BaseValidationError, TypeError, ValueError, KeyError) as error:
        wrong = cattrs.transform_error(error, "experiment", format_exception=_told)
        raise InputError("not an experiment: " + "; ".join(wrong)) from error


def typed(value: Any, kind: Any) -> Any:
    """The value itself. Raises ValueError if it is not of this type."""
    try:
        return check_type(value, kind, collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS)
    except TypeCheckError as error:
        name = kind.__name__ if isinstance(kind, type) else re.sub(r"typing\.|research\.config\.", "", str(kind))
        raise ValueError(f"{value!r} is not {name}") from error


def _told(error: BaseException, kind: type | None) -> str:
    if isinstance(error, KeyError):
        return f"{error.args[0]!r} is missing or unknown"
    return str(error) if isinstance(error, ValueError) else cattrs.v.format_exception(error, kind)


def save(experiment: Experiment, path: Path, **facts: Any) -> None:
    """Writes the experiment as JSON, with `facts` (versions, hardware) beside it."""
    path.write_text(json.dumps({"experiment": to_dict(experiment), **facts}, indent=2) + "\n")


def load(path: Path) -> Experiment:
    """Reads what `save` wrote. Raises InputError if the file is missing or is not an experiment."""
    try:
        tree = json.loads(path.read_text())["experiment"]
    except (OSError, LookupError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not a saved experiment: {type(error).__name__}: {error}") from error
    try:
        return from_dict(tree)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


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
