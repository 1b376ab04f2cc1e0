"""Templates and expressions of task files: Jinja in its sandbox, with bounds on time and memory, and errors that
name the task and the field."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jinja2
from jinja2.sandbox import SandboxedEnvironment

from research.data.limits import limited
from research.errors import InputError
from research.evaluation.detokenisers import detokenise

SECONDS = 5.0  # that one expression may take for one record
MEMORY = 1 << 30  # bytes that it may take
_ENVIRONMENT = SandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
_ENVIRONMENT.filters |= {
    "detokenise": detokenise,  # {{ sentence | detokenise("penn") }}
    "sub": lambda text, pattern, new: re.sub(pattern, new, text),
    "index": lambda items, item: list(items).index(item),
}


@dataclass(frozen=True)
class Expression:
    """A function of a record's fields. `place` is where it stands in the task, for messages."""

    place: str
    text: str
    function: Callable[[dict[str, Any]], Any]

    @classmethod
    def parse(cls, task: str, place: str, text: str) -> "Expression":
        """An expression, whose value can be of any type. Raises InputError if it is not valid."""
        return cls._parse(f"task {task}, {place}", text, lambda: _ENVIRONMENT.compile_expression(text, False))

    @classmethod
    def template(cls, task: str, place: str, text: str) -> "Expression":
        """Text with {{ expressions }}. Raises InputError if it is not valid."""
        return cls._parse(f"task {task}, {place}", text, lambda: _ENVIRONMENT.from_string(text).render)

    @classmethod
    def _parse(cls, place: str, text: str, compile_: Callable[[], Callable[[dict[str, Any]], Any]]) -> "Expression":
        try:
            return cls(place, text, limited(SECONDS, MEMORY, compile_))  # constant expressions are computed here
        except Exception as error:  # jinja2's own errors, and those of constants and of what it generates
            raise InputError(f"{place}: {text!r} is not a valid template: {error}") from error

    def __call__(self, record: dict[str, Any]) -> Any:
        """Raises InputError naming a field that the record lacks, or what else went wrong."""
        try:
            value = limited(SECONDS, MEMORY, lambda: self.function(record))
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise InputError(
                f"{self.place}: {self.text!r} fails on a record with {_fields(record)}: {reason}"
            ) from error
        if isinstance(value, jinja2.Undefined):
            raise InputError(f"{self.place}: {self.text!r} is not among the fields of a record: {_fields(record)}")
        return value


def _fields(record: dict[str, Any]) -> str:
    return ", ".join(map(str, record)) or "no fields"
