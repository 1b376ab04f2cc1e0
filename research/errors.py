"""The one exception for what a user can mend: a command prints its message alone, without a traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class InputError(ValueError):
    """A config, a file or an argument is not usable; the message names it, its value, and what would work."""


def install(extra: str) -> str:
    """The one line that brings an extra of the distribution into the environment of this process, from the clone."""
    if (Path(sys.prefix) / "installed.json").exists():  # made by launch/install.py
        return f"python3 launch/install.py {extra}"
    return f"pip install --constraint constraints.txt --editable '.[{extra}]'"


@contextmanager
def requires(extra: str, what: str) -> Iterator[None]:
    """Imports packages that only `what` needs, and that an extra of the distribution brings.

    Raises:
      InputError: with the name of the extra, if a package is missing.
    """
    try:
        yield
    except ImportError as error:
        raise InputError(
            f"{what} needs the package {error.name or error}, which the extra {extra} brings: {install(extra)}"
        ) from error
