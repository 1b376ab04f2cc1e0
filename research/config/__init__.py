"""What can be set: `Experiment`, the typed tree that a config file returns, how it is stored, and how it is checked."""

from research.config.experiment import (
    Checkpoint,
    Data,
    Evaluation,
    Experiment,
    Logging,
    Mesh,
    Optimizer,
    Probes,
    Rules,
    Schedule,
    Step,
)
from research.config.model import MLP, Attention, Embedding, Head, Lora, Model, Norm, Positions, RopeScaling, resolve
from research.config.storage import from_dict, load, save, to_dict, typed
from research.config.tree import field_paths, get_field, replace_fields
from research.objectives import Causal, Instruction, Masked, Objective, Prefix, SpanCorruption, TextToText

__all__ = [
    "MLP",
    "Attention",
    "Causal",
    "Checkpoint",
    "Data",
    "Embedding",
    "Evaluation",
    "Experiment",
    "Head",
    "Instruction",
    "Logging",
    "Lora",
    "Masked",
    "Mesh",
    "Model",
    "Norm",
    "Objective",
    "Optimizer",
    "Positions",
    "Prefix",
    "Probes",
    "RopeScaling",
    "Rules",
    "Schedule",
    "SpanCorruption",
    "Step",
    "TextToText",
    "field_paths",
    "from_dict",
    "get_field",
    "load",
    "replace_fields",
    "resolve",
    "save",
    "to_dict",
    "typed",
]
