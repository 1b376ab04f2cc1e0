"""`Experiment`: the typed tree that a config file returns.

A file in `configs/` is a Python function `get_config() -> Experiment`; a variant is a `dataclasses.replace` of another.
Every field can be set from the command line by its path (`--optimizer.learning-rate 3e-4`).
"""

from dataclasses import dataclass, field
from typing import Literal

from research.config.model import Model
from research.objectives import Causal, Objective


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
    cache: str | None = None  # where token stores are kept; None: $RESEARCH_CACHE or ~/.cache/research
    # what the command `prepare` has tokenised, a folder or gs://…, which is read instead of the sources; None: nothing
    prepared: str | None = None


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
    compute_dtype: Literal["float32", "bfloat16"] = "float32"  # of activations; parameters and optimizer stay float32
    z_loss: float = 0.0  # factor on the squared log-partition (PaLM: 1e-4)
    loss_chunk: int = 16_384  # tokens whose logits exist at once on a device


@dataclass(frozen=True)
class Checkpoint:
    """When a run is saved, and what is kept."""

    every: int = 1000  # steps between checkpoints; the last step is always saved
    minutes: float = 10.0  # between checkpoints at most, whatever the steps take; 0: by steps alone
    # a folder on each host's own disk, where the run is saved more often, and from which it resumes if what is there is
    # newer and all hosts have it; None: nowhere else
    local: str | None = None
    local_minutes: float = 2.0  # between saves there
    keep_last: int = 2  # most recent checkpoints that are kept
    keep_every: int | None = None  # also keep every checkpoint at a multiple of this step
    keep_best: bool = False  # also keep the one with the lowest held-out loss


@dataclass(frozen=True)
class BadSteps:
    """What happens at a step whose loss, gradient or update is ruined: not finite, or far beyond those of the last
    steps. A checkpoint is only taken of a state whose own loss is not."""

    policy: Literal["stop", "skip"] = "stop"  # end the run, or leave parameters and optimizer state as they are
    in_a_row: int = 10  # skip: steps that may be skipped one after the other
    bound: float = 1000.0  # times the median of the last 64 steps (and at least 1); 0: only what is not finite


@dataclass(frozen=True)
class Probes:
    """What is asked of the model before training, at every evaluation, and at the end."""

    continuations: tuple[tuple[str, str], ...] = ()  # (context, continuation): how probable the continuation is
    texts: tuple[str, ...] = ()  # whose every token's loss is shown
    unrelated: tuple[str, ...] = ()  # prompts for which the next token should stay as probable as before training


@dataclass(frozen=True)
class Evaluation:
    """Held-out loss and tasks, during and after training."""

    every: int = 500  # steps between evaluations of the held-out loss; 0: only at the end
    tasks_every: int | None = None  # of tasks; None: as every
    samples_every: int | None = None  # of samples; None: as every
    probes_every: int | None = None  # of probes; None: as every
    batches: int = 16  # batches of an evaluation during training; the one at the end reads all held-out data
    final_batches: int | None = None  # bound on the evaluation at the end; None: all held-out data
    tasks: tuple[str, ...] = ()  # shipped tasks (copying, arc_easy, …) or YAML files, asked with every evaluation
    data: tuple[str, ...] = ()  # folders with the files of those tasks
    limit: int | None = 200  # number of questions of each task, from the first on; None: all
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
    bad_steps: BadSteps = field(default_factory=BadSteps)
    logging: Logging = field(default_factory=Logging)
    # what to start from: a run folder, a Hugging Face folder or hub name, or a GGUF file. Tokenizer and architecture
    # come from there; of model, the dropouts, lora, quantization_bits, unroll, remat and attention.implementation count
    initialize_from: str | None = None
    frozen: tuple[str, ...] = ()  # patterns of parameters that are not trained: embedding, decoder/layers/mlp/*, …
    # where compiled programs are kept, a folder or gs://…; None: $JAX_COMPILATION_CACHE_DIR, or jax/ below the cache
    compilation_cache_dir: str | None = None
    seed: int = 0  # of everything random: initial parameters, order of the data, masks, dropout
