"""The one exception for what a user can mend: a command prints its message alone, without a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """A config, a file or an argument is not usable; the message names it, its value, and what would work."""


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
            f"{what} needs the package {error.name or error}, which the extra {extra} brings: "
            f"pip install --constraint constraints.txt --editable '.[{extra}]'"
        ) from error
