"""Forms of JSON values: what a file from elsewhere must look like before anything takes it for granted."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from research.errors import InputError

Form = Callable[[Any], str]  # what is wrong with a value: "" if nothing, else ".FIELD is not a number"


def number(value: Any) -> str:
    """A number that fits into a float; it need not be finite."""
    right = isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63)
    return "" if right else " is not a number"


def count(value: Any) -> str:
    return number(value) or ("" if isinstance(value, int) and value >= 0 else " is not a count")


def amount(value: Any) -> str:
    return number(value) or ("" if math.isfinite(value) and value >= 0 else " is not a finite number of at least 0")


def text(value: Any) -> str:
    return "" if isinstance(value, str) else " is not text"


def optional(form: Form) -> Form:
    return lambda value: "" if value is None else form(value)


def each(form: Form) -> Form:
    """A mapping from names to values of one form."""

    def check(value: Any) -> str:
        if not isinstance(value, dict):
            return " is not a mapping"
        return next((f".{name}{wrong}" for name, one in value.items() if (wrong := form(one))), "")

    return check


def sequence(*forms: Form) -> Form:
    """A list: of any length for one form, else with one value for each form."""

    def check(value: Any) -> str:
        if not isinstance(value, list) or (len(forms) > 1 and len(value) != len(forms)):
            return " is not a list" + f" of {len(forms)}" * (len(forms) > 1)
        pairs = zip(forms * len(value) if len(forms) == 1 else forms, value, strict=False)
        return next((f"[{place}]{wrong}" for place, (form, one) in enumerate(pairs) if (wrong := form(one))), "")

    return check


def fields(needed: dict[str, Form], allowed: dict[str, Form] | None = None) -> Form:
    """An object that has the needed fields, and perhaps the allowed ones; others are not looked at."""

    def check(value: Any) -> str:
        if not isinstance(value, dict):
            return " is not an object"
        absent = [f" has no {name}" for name in needed if name not in value]
        forms = needed | (allowed or {})
        wrong = [f".{name}{found}" for name, form in forms.items() if name in value and (found := form(value[name]))]
        return next(iter([*absent, *wrong]), "")

    return check


def read_json(path: Path, form: Form) -> Any:
    """What a file holds, or None if there is none.

    Raises:
      InputError: if it is not JSON of this form.
    """
    if not path.exists():
        return None
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not readable JSON: {error}") from error
    wrong = form(value)
    if wrong:
        raise InputError(f"{path}: it{wrong}" if wrong.startswith(" ") else f"{path}: {wrong.lstrip('.')}")
    return value
