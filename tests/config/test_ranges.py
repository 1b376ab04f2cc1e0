import dataclasses
import math
from dataclasses import replace
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from research import config
from research.config import (
    Causal,
    Data,
    Experiment,
    Lora,
    Model,
    Mup,
    Optimizer,
    Positions,
    RopeScaling,
    Schedule,
    Step,
)
from research.config.ranges import RANGES, Range, out_of_range
from research.config.validation import validate
from research.errors import InputError

OBJECTIVES = (Causal(), config.Masked(), config.SpanCorruption(), config.Prefix(), config.TextToText())
EVERYTHING = Experiment(
    model=Model(positions=Positions(scaling=RopeScaling()), lora=Lora(), mup=Mup()),
    objectives=OBJECTIVES,
)


def numeric(kind: Any) -> bool:
    options = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    return bool({int, float} & set(options))


def numbers(tree: Any, path: str = "") -> dict[str, Any]:
    """The path of every field that may be a number, and the type it may have."""
    found = {}
    for name, kind in get_type_hints(type(tree)).items():
        value, here = getattr(tree, name), f"{path}{name}"
        if dataclasses.is_dataclass(value):
            found |= numbers(value, f"{here}.")
        elif isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
            for part in value:
                found |= numbers(part, f"{here}.*.")
        elif get_origin(kind) is not tuple and numeric(kind):
            found[here] = kind
    return found


def test_every_number_has_a_range_and_every_range_a_number():
    assert set(numbers(EVERYTHING)) == set(RANGES)


def test_the_defaults_are_in_their_ranges():
    assert out_of_range(EVERYTHING) == []


def changed(tree: Any, path: str, value: Any) -> Any:
    name, _, rest = path.partition(".")
    if rest.startswith("*."):
        wanted = rest[2:]
        return replace(
            tree, **{name: tuple(replace(p, **{wanted: value}) if hasattr(p, wanted) else p for p in OBJECTIVES)}
        )
    return replace(tree, **{name: changed(getattr(tree, name), rest, value) if rest else value})


@pytest.mark.parametrize("path", RANGES)
def test_what_is_outside_is_refused_with_field_value_and_range(path):
    range_ = RANGES[path]
    integer = float not in (get_args(numbers(EVERYTHING)[path]) or (numbers(EVERYTHING)[path],))
    outside = [range_.least - 3, range_.most + 3]
    if not integer:
        outside = [float(value) for value in outside] + [math.nan, math.inf, -math.inf]
    for value in outside:
        assert value not in range_
        with pytest.raises(InputError) as error:
            validate(changed(EVERYTHING, path, value))
        assert f"{value} is not {range_}" in str(error.value)
        assert path.split(".")[-1] in str(error.value)


@pytest.mark.parametrize(
    "experiment",
    [
        Experiment(model=Model(initial_scale=-1.0)),
        Experiment(model=Model(positions=Positions(theta=0.0))),
        Experiment(model=Model(depth=100_000)),
        Experiment(optimizer=Optimizer(clip=math.inf)),
        Experiment(optimizer=Optimizer(learning_rate=math.inf)),
        Experiment(schedule=Schedule(final=100.0)),
        Experiment(data=Data(held_out=0.999999)),
        Experiment(data=Data(length=100_000_000)),
        Experiment(step=Step(z_loss=math.nan)),
        Experiment(seed=12345678901234567890123),
    ],
)
def test_mistakes_that_were_once_accepted(experiment):
    with pytest.raises(InputError, match=r"(above|from) .* (to|below) "):
        validate(experiment)


def test_a_range_in_words_and_its_bounds():
    assert str(Range(0, 1, "()")) == "above 0 below 1" and 0 not in Range(0, 1, "()") and 0.5 in Range(0, 1, "()")
    assert str(Range(1, 2**20, also=(-1,))) == "-1, or from 1 to 1,048,576"
    assert -1 in Range(1, 8, also=(-1,)) and 0 not in Range(1, 8, also=(-1,)) and 8 in Range(1, 8)
