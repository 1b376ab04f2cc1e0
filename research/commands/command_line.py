"""What all commands share: an experiment from a config file and overrides, typed options, and how errors are shown.

JAX is not imported here, so that a mistake on the command line is told at once.
"""

import difflib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import tyro

from research import config
from research.config import Experiment, config_file, ranges, validation
from research.errors import InputError
from research.runtime import processes

T = TypeVar("T")
ALIASES = {  # options of other trainers -> what they are here
    "lr": "optimizer.learning-rate",
    "wd": "optimizer.weight-decay",
    "batch-size": "data.batch",
    "dataset": "data.source",
    "seq-len": "data.length",
    "max-length": "data.length",
    "max-steps": "schedule.steps",
    "num-steps": "schedule.steps",
    "warmup-steps": "schedule.warmup",
    "dtype": "step.compute-dtype",
    "output-dir": "workdir",
}


def run(main: Callable[[list[str]], None], arguments: list[str]) -> None:
    """Runs a command and ends the process. Exit codes: 2 for a user's mistake (as for tyro's own), 74 where storage is
    full or read-only, 75 where another process of the run is gone, 128 + its number after a signal, 1 for anything
    else; the first two are one line."""
    try:
        with processes.ending_at_once():
            main(arguments)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        sys.exit(processes.shown(error))


@dataclass(frozen=True)
class Training:
    """Trains, or resumes the run in this folder."""

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    workdir: Path  # run folder
    profile: str | None = None  # trace these steps into the run folder, FIRST:LAST, for xprof
    resume_from: int | None = None  # resume from the checkpoint of this step, and delete later ones; None: the latest
    resume_schedule: bool = False  # with more --schedule.steps than before: also if that raises the learning rate again
    replay: int | None = None  # instead of training, show the batch and the losses of this step; nothing is written


def train(arguments: Sequence[str]) -> Training:
    """`CONFIG [--workdir DIR] [--profile FIRST:LAST] [--FIELD VALUE …]`. Where no run folder is given, it is
    `runs/NAME` for `NAME.py`, and its own for a run's `experiment.json`.

    Raises:
      InputError: if the config is unusable, or an option is not one of its fields.
    """
    name, options = first(arguments, "train begins with a config file: train configs/quickstart.py [--FIELD VALUE …]")
    path = Path(name or "NAME.py")
    folder = path.parent if path.suffix == ".json" else Path("runs") / path.stem
    chosen = parse(
        f"train {name or 'CONFIG'}", options, Training(config_file.read(path) if name else Experiment(), folder)
    )
    if chosen.replay is not None and (chosen.resume_from is not None or chosen.profile is not None):
        raise InputError("--replay only shows a step: leave --resume-from and --profile out")
    if ":/" in str(chosen.workdir):
        raise InputError(f"--workdir {chosen.workdir}: a run needs a folder; launch/mount.sh mounts a bucket as one")
    return chosen


def first(arguments: Sequence[str], missing: str) -> tuple[str | None, list[str]]:
    """What a command is about, which comes before its options, and the options; None if help is asked for instead.

    Raises:
      InputError: `missing`, if there are only options.
    """
    if {"-h", "--help"} & set(arguments[:1]):
        return None, list(arguments)
    if not arguments or arguments[0].startswith("-"):
        raise InputError(missing)
    return arguments[0], list(arguments[1:])


def leading(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What comes before the first option, and the rest."""
    first_option = next((n for n, argument in enumerate(arguments) if argument.startswith("-")), len(arguments))
    return list(arguments[:first_option]), list(arguments[first_option:])


def parse(program: str, arguments: Sequence[str], default: T) -> T:
    """`default`, a dataclass that may hold others, with the fields that `arguments` name by their paths. Asked for
    help, prints every field with its meaning and default and exits; a value of the wrong type exits with its field.

    Raises:
      InputError: if there is no such field, with the nearest ones, or an option is out of its range or empty.
    """
    if empty := _empty(arguments):
        raise InputError(f"{empty} is empty: give it a value, or leave the option out")
    names = [argument[2:].split("=")[0].replace("-", "_") for argument in arguments if argument.startswith("--")]
    default, absent = _with_parts(default, names)
    numbers = ((_option(path), ranges.range_of(path)) for path, _ in _leaves(default))
    bounds = [f"--{option} {range_}" for option, range_ in numbers if range_ is not None]
    off = [f"--{_option(path)}.{{{','.join(_option(each.name) for each in fields(part))}}}" for path, part in absent]
    chosen, unknown = tyro.cli(
        type(default),
        prog=program,
        args=arguments,
        default=default,
        description=(type(default).__doc__ or "")
        + "".join(f"\n\nNot in use unless given: {option}" for option in off)
        + "\n\nNumbers: " * bool(bounds)
        + "; ".join(bounds),
        config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff),
        registry=_registry,
        return_unknown_args=True,
    )
    if unknown:
        raise InputError(_unknown(unknown[0], [_option(path) for path, _ in _leaves(default)]))
    if wrong := [line for path, value in _leaves(chosen) if "." not in path and (line := _out_of_range(path, value))]:
        raise InputError("; ".join(wrong))
    return chosen


def _empty(arguments: Sequence[str]) -> str | None:
    """The first option with a value that is empty apart from spaces, as of a variable of the shell that is not set. Of
    options that are texts, any will do."""
    option = ""
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if argument.startswith("--"):
            option = name
        else:
            equals, value = "=", argument
        if equals and not value.strip() and option.strip("-").rpartition(".")[2] not in validation.TEXTS:
            return option or "an argument"
    return None


def _out_of_range(path: str, value: Any) -> str:
    """What is wrong with an option, if it is a number; those of an experiment are checked with the rest of it."""
    range_ = ranges.range_of(path)
    outside = range_ is not None and isinstance(value, int | float) and value not in range_
    return f"--{_option(path)} {value} is not {range_}" if outside else ""


def _with_parts(tree: Any, names: Sequence[str], path: str = "") -> tuple[Any, list[tuple[str, type]]]:
    """The tree with every part that is None, but has a field among `names`, at its defaults; and path and type of the
    parts that stay None."""
    changes, absent = {}, []
    for name, kind in get_type_hints(type(tree)).items():
        value, here = getattr(tree, name), _join(path, tree, name)
        part = next((each for each in get_args(kind) if is_dataclass(each) and NoneType in get_args(kind)), None)
        if value is None and isinstance(part, type):
            if any(given.startswith(here + ".") for given in names):
                changes[name] = part()
            else:
                absent.append((here, part))
        elif is_dataclass(value):
            changes[name], more = _with_parts(value, names, here)
            absent += more
    return replace(tree, **changes), absent


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Path and value of every field that has no fields of its own."""
    for each in fields(tree):
        value, here = getattr(tree, each.name), _join(path, tree, each.name)
        parts = {here: value} if is_dataclass(value) else {}
        if isinstance(value, tuple) and value and all(is_dataclass(part) for part in value):
            parts = {f"{here}.{number}": part for number, part in enumerate(value)}
        for where, part in parts.items():
            yield from _leaves(part, where)
        if not parts:
            yield here, value


def _join(path: str, tree: Any, name: str) -> str:
    """A field's path. One with an empty name, `Annotated[…, tyro.conf.arg(name="")]`, is left out of it."""
    extras = getattr(get_type_hints(type(tree), include_extras=True)[name], "__metadata__", ())
    return path if any(getattr(extra, "name", None) == "" for extra in extras) else f"{path}.{name}".strip(".")


def _option(path: str) -> str:
    return path.replace("_", "-")


def _unknown(argument: str, options: Sequence[str]) -> str:
    if not argument.startswith("-"):
        return f"{argument!r} belongs to no option"
    given = argument.lstrip("-").split("=")[0].replace("_", "-")
    if ALIASES.get(given) in options:
        return f"there is no option {argument}; here it is --{ALIASES[given]}"
    tails = {option: option if "." in given else option.rpartition(".")[2] for option in options}
    close = set(difflib.get_close_matches(given, tails.values(), n=3))
    near = sorted((option for option in options if tails[option] in close), key=lambda o: -_likeness(given, o))
    nearest = f"; nearest: {', '.join('--' + option for option in near[:3])}" if near else "; --help lists all"
    return f"there is no option {argument}{nearest}"


def _likeness(first: str, second: str) -> float:
    return difflib.SequenceMatcher(None, first, second).ratio()


_registry = tyro.constructors.ConstructorRegistry()


@_registry.primitive_rule
def _rules(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec | None:
    """The table of a mesh: `--mesh.rules batch=data,fsdp heads=tensor` replaces it as a whole."""
    if info.type != config.Rules:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="[AXIS=MESH,MESH …]",
        instance_from_str=lambda words: tuple(_rule(word) for word in words),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda rules: [f"{axis}={','.join(mesh)}" for axis, mesh in rules],
    )


def _rule(word: str) -> tuple[str, tuple[str, ...]]:
    axis, equals, mesh = word.partition("=")
    if not axis or not equals:
        raise ValueError(f"{word!r} is not of the form AXIS=MESH,MESH")
    return axis, tuple(name for name in mesh.split(",") if name)
