"""Every row of docs/compatibility.md names tests that there are.

`ROOM/test_MODULE: NAME` is `test_NAME` of that file, a bare `NAME` is one of the file named last, `ROOM/test_MODULE` is
all of a file, and "the same" is what the row above names.
"""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
PAGE = TESTS.parent / "docs" / "compatibility.md"


def rows() -> list[tuple[str, str]]:
    """What each row of each table says, and its last cell."""
    found = []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and cells[-1] not in ("test", "---"):
            found.append((" | ".join(cells[:-1]), cells[-1]))
    return found


@cache
def functions(module: str) -> set[str]:
    tree = ast.parse((TESTS / f"{module}.py").read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def resolved() -> dict[str, list[tuple[str, str | None]]]:
    """For each row, its tests as (module, function); None is all of them."""
    found: dict[str, list[tuple[str, str | None]]] = {}
    module, above = "", []
    for said, cell in rows():
        tests = list(above) if cell.startswith("the same") else []
        for reference in re.findall(r"`([^`]+)`", cell):
            file, _, name = reference.rpartition(": ") if ": " in reference else ("", "", reference)
            module = file or (reference if "/" in reference else module)
            tests.append((module, None if "/" in name else f"test_{name}"))
        assert said not in found
        found[said] = above = tests
    return found


@pytest.mark.parametrize("row", resolved())
def test_a_row_names_tests_that_there_are(row):
    tests = resolved()[row]
    assert tests
    for module, name in tests:
        assert functions(module) if name is None else name in functions(module), (module, name)
