"""A config file with what a plan found: the config that was planned, and the fields that differ."""

import pprint
from pathlib import Path

from research.config import Experiment
from research.config.tree import field_paths, get_field
from research.errors import InputError
from research.planning.plan_table import Tried

_TEXT = '''"""{base} on {topology}, as `plan` found it: {seconds:.3g} s a step and {mfu:.0%} MFU are predicted.

./launch/local.sh plan {file} --topology {topology_option}
"""

import {module}

from research.config import Experiment
from research.config.tree import replace_fields

CHANGES = {changes}


def get_config() -> Experiment:
    return replace_fields({module}.get_config(), CHANGES)
'''


def check(base: Path, file: Path) -> None:
    """Before anything is compiled.

    Raises:
      InputError: if `file` could not import the config `base`, or is there already.
    """
    if base.suffix != ".py" or not base.stem.isidentifier():
        raise InputError(f"--write {file}: it imports the config that is planned, and {base} is no Python module")
    if file.suffix != ".py" or file.parent.resolve() != base.parent.resolve():
        raise InputError(f"--write {file}: it imports {base.name} beside it; write {base.parent}/NAME.py")
    if file.exists():
        raise InputError(f"--write {file}: is there already; give another name")


def write(base: Path, file: Path, original: Experiment, asked: Experiment, best: Tried) -> None:
    """The config `base`, which is `original`, with the options that it was planned with, `asked`, as `best` has it."""
    changes = {
        path: get_field(asked, path)
        for path in field_paths(Experiment)
        if get_field(asked, path) != get_field(original, path)
    }
    changes |= {f"mesh.{axis}": size for axis, size in best.compiled.mesh.items()}
    changes |= {"step.accumulation": best.experiment.step.accumulation, "model.remat": best.experiment.model.remat}
    chip, shape, slices = best.topology.chip.name, best.topology.shape, best.topology.slices
    option = f"{chip}:{'x'.join(map(str, shape))}" + (f" --slices {slices}" if slices > 1 else "")
    text = _TEXT.format(
        base=base,
        file=file,
        module=base.stem,
        topology=best.topology,
        topology_option=option,
        seconds=best.times.step,
        mfu=best.mfu,
        changes=pprint.pformat(changes, indent=4, width=100, sort_dicts=False),
    )
    file.write_text(text, encoding="utf-8")
