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
from research.config.model import Lora, Model, RotaryScaling, resolve
from research.config.storage import from_dict, load, save, to_dict, typed
from research.objectives import Causal, Instruction, Masked, Objective, Prefix, SpanCorruption, TextToText

__all__ = [
    "Causal",
    "Checkpoint",
    "Data",
    "Evaluation",
    "Experiment",
    "Instruction",
    "Logging",
    "Lora",
    "Masked",
    "Mesh",
    "Model",
    "Objective",
    "Optimizer",
    "Prefix",
    "Probes",
    "RotaryScaling",
    "Rules",
    "Schedule",
    "SpanCorruption",
    "Step",
    "TextToText",
    "from_dict",
    "load",
    "resolve",
    "save",
    "to_dict",
    "typed",
]
