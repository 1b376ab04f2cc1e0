"""What a run says of itself before its first step: on what, what is trained, how, and for how long."""

import math

import jax

from research import models
from research.config import Experiment
from research.errors import InputError
from research.interop import config_json
from research.models import adapters, attention
from research.runs import convert
from research.runs.prepared import Prepared

SHARE = 0.4  # of the peak, that steps are expected to reach before one was taken


def lines(run: Prepared, steps: int, at_peak: float) -> list[str]:
    """What stands at the beginning of a log.

    Args:
      steps: that will be taken.
      at_peak: seconds that one would take at the devices' peak (`Meter.utilisation`).
    """
    experiment, compiled, devices = run.experiment, run.compiled, jax.devices()
    leaves = models.flatten(compiled.state.params)
    frozen = sum(leaf.size for path, leaf in leaves.items() if path in compiled.frozen)
    trained = sum(leaf.size for leaf in leaves.values()) - frozen
    name, why = attention.implementation(experiment.model, experiment.data.length, experiment.step.compute_dtype)
    where = f"{len(devices):,} x {devices[0].device_kind}, {compiled.layout}"
    found = [
        f"{where}, {experiment.step.compute_dtype}; {trained:,} parameters are trained, {frozen:,} frozen",
        f"attention: {name} ({why})",
    ]
    if steps > 0:
        found.append(
            f"{steps:,} steps of {experiment.data.batch * experiment.data.length:,} tokens: "
            f"{_time(steps * at_peak / SHARE)} if they reach {SHARE:.0%} of the devices' peak"
        )
    if reason := unwritable(experiment):
        found.append(f"convert will write this model as a run folder alone: {reason}")
    return found


def unwritable(experiment: Experiment) -> str:
    """Why `convert` could not write the trained model for transformers; empty if it could."""
    try:
        convert.check_reading(experiment.model, experiment.objectives)
        config_json.write(adapters.plain(experiment.model))
    except InputError as error:
        return str(error)
    return ""


def _time(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{math.ceil(seconds)} s"
