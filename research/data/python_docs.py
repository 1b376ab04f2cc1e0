"""The documentation that every CPython carries: the language topics of `help()`, and the docstrings of the standard
library, read from its sources without importing them."""

import ast
import hashlib
import inspect
import os
import platform
import sysconfig
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics

SHORTEST = 24  # characters; below are labels ("Return self."), not text
SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


def fingerprint() -> str:
    """What decides the text: the version of Python, with its patch level."""
    return f"{platform.python_implementation()} {platform.python_version()}"


@cache
def documents() -> tuple[tuple[str, str], ...]:
    """Pairs (place, text), each text once, in the order of a hash of the text: so the last ones are a random sample."""
    places: dict[str, str] = {}
    for place, text in _all():
        if len(text) >= SHORTEST:
            places.setdefault(text, place)
    shuffled = sorted(places, key=lambda text: hashlib.sha256(text.encode(errors="replace")).digest())
    return tuple((places[text], text) for text in shuffled)


def _all() -> Iterator[tuple[str, str]]:
    for name, text in topics.items():
        yield f"pydoc_data.topics:{name}", inspect.cleandoc(text)
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(_sources(library)):
        yield from _docstrings(path, path.relative_to(library))


def _sources(library: Path) -> Iterator[Path]:
    for folder, inner, files in os.walk(library):
        inner[:] = set(inner) - SKIPPED_FOLDERS  # not descended into: packages may be many
        yield from (Path(folder, name) for name in files if name.endswith(".py"))


def _docstrings(path: Path, name: Path) -> Iterator[tuple[str, str]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old escapes in the library's own strings
        try:
            tree = ast.parse(path.read_bytes())
        except SyntaxError:  # templates and files that are kept broken on purpose
            return
    for node in _statements(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield f"{name}:{getattr(node, 'lineno', 1)}", text


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """A node and the statements within, in their order; unlike `ast.walk` without their expressions, which are many."""
    yield node
    for block in ("body", "handlers", "orelse", "finalbody"):
        for child in getattr(node, block, ()):
            yield from _statements(child)
