"""Imports run one way, in the order of the rooms that docs/architecture.md draws, and never in a circle."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# From left to right: a room imports from the rooms on its left. Rooms on one line do not import each other, except
# those that are joined by "+".
ROOMS = (
    "errors",
    "runtime",
    "config + objectives",
    "data",
    "models",
    "sharding",
    "interop",
    "training | inference",
    "evaluation",
    "runs",
    "analysis | planning | benchmarks",
    "commands",
)
PACKAGE = ("research", "research.__main__")  # the face of the package, and its command line


def modules() -> dict[str, Path]:
    """Every module of the package by its name."""
    found = {}
    for path in sorted((ROOT / "research").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def imports(text: str, known: set[str]) -> set[str]:
    """The modules of the package that a module's text imports, wherever in it the statement stands."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {name if (name := f"{node.module}.{alias.name}") in known else node.module for alias in node.names}
    return found & known


def room(module: str) -> str:
    return module.split(".")[1]


def place(module: str) -> int:
    return next(number for number, line in enumerate(ROOMS) if room(module) in line.replace("+", "|").split(" | "))


def against(edges: set[tuple[str, str]]) -> list[tuple[str, str]]:
    """The imports that do not go from right to left."""

    def wrong(importer: str, imported: str) -> bool:
        if importer in PACKAGE or imported in PACKAGE or room(importer) == room(imported):
            return False
        same = place(importer) == place(imported) and "|" in ROOMS[place(importer)]
        return place(importer) < place(imported) or same

    return sorted(edge for edge in edges if wrong(*edge))


def circles(edges: set[tuple[str, str]]) -> set[str]:
    """The modules on circles, and between them: those left when modules without imports are removed again and again,
    from either end."""
    left = set(edges)
    while True:
        importers, imported = {a for a, _ in left}, {b for _, b in left}
        rest = {(a, b) for a, b in left if b in importers and a in imported}
        if rest == left:
            return {name for edge in left for name in edge}
        left = rest


@pytest.fixture(scope="module")
def edges() -> set[tuple[str, str]]:
    found = modules()
    return {
        (name, other)
        for name, path in found.items()
        for other in imports(path.read_text(encoding="utf-8"), set(found))
        if other != name
    }


def test_every_room_has_its_place():
    rooms = {room(name) for name in modules() if name not in PACKAGE}
    assert rooms == {name for line in ROOMS for name in line.replace("+", "|").replace(" ", "").split("|")}


def test_imports_run_one_way(edges):
    assert against(edges) == []


def test_no_module_is_on_a_circle(edges):
    assert not circles({edge for edge in edges if not set(edge) & set(PACKAGE)})


def test_an_import_against_the_order_and_a_circle_are_found():
    assert against({("research.data.sources", "research.models")}) == [("research.data.sources", "research.models")]
    assert not against({("research.models", "research.data.sources"), ("research.config", "research.objectives")})
    assert circles({("a", "b"), ("b", "c"), ("c", "b"), ("c", "d")}) == {"b", "c"}
    assert not circles({("a", "b"), ("a", "c"), ("b", "c")})
    assert imports(
        "def f():\n    from research.data import cache, Corpus\n", {"research.data", "research.data.cache"}
    ) == {
        "research.data",
        "research.data.cache",
    }


def test_the_picture_and_the_page_have_every_room():
    page, picture = ((ROOT / "docs" / f"architecture.{kind}").read_text(encoding="utf-8") for kind in ("md", "svg"))
    for line in ROOMS:
        for name in line.replace("+", "|").split("|"):
            assert f"`{name.strip()}`" in page and f">{name.strip()}</text>" in picture
