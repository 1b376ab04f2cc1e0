"""The platform that a program is compiled for, which need not be that of the machine that compiles it."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax

_target: ContextVar[str | None] = ContextVar("target", default=None)


@contextmanager
def compiled_for(platform: str) -> Iterator[None]:
    """While a function is traced inside, it is meant for "cpu", "gpu" or "tpu"."""
    token = _target.set(platform)
    try:
        yield
    finally:
        _target.reset(token)


def current() -> str:
    """The platform that is traced for: that of `compiled_for`, else JAX's default."""
    return _target.get() or jax.default_backend()
