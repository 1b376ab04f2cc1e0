"""Changes of a valid file: of its bytes, of numbers and words in its text, and of the tree of a JSON file."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

INTEGERS = (0, 1, 127, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**33, 2**62, 2**63, 2**64 - 1)
WORDS = (b"0", b"-1", b"1e999", b"NaN", b"-Infinity", b"9" * 23, b"null", b"true", b'""', b"[]", b"{}")
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    0.5,
    2**31,
    2**64,
    10**30,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "a",
    "\0",
    "é" * 50,
    [],
    {},
)
VALUES += ([None], [[]], {"": None}, ["a"] * 3, "x" * 10_000, "{{ 'x' * 10 ** 9 }}", "../../etc/passwd", "/etc/passwd")


def mutate(folder: Path, draw: random.Random) -> None:
    """Changes one file of a folder, or several times the same one; now and then removes or empties one, or makes it a
    link or a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = draw.choice(files)
    if draw.random() < 0.03:
        content = path.read_bytes()
        path.unlink()
        rest = draw.choice(("nothing", "empty", "folder", "other"))
        if rest == "folder":
            path.mkdir()
        elif rest == "empty":
            path.write_bytes(b"")
        elif rest == "other":
            others = [other for other in files if other != path]
            path.write_bytes(draw.choice(others).read_bytes() if others else content[::-1])
        return
    data = path.read_bytes()
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        data = draw.choice(_changes(path))(data, draw)
    path.write_bytes(data)


def _changes(path: Path) -> list[Callable[[bytes, random.Random], bytes]]:
    changes = [_flip, _byte, _insert, _delete, _repeat, _truncate, _integer]
    if path.suffix in (".json", ".jsonl", ".yaml", ".txt", ".jinja"):
        changes += [_word, _word]
    if path.suffix in (".json", ".jsonl", ".yaml"):
        changes += [_tree] * 5
    return changes


def _place(data: bytes, draw: random.Random) -> int:
    """Headers and ends are changed more often than what lies between."""
    size = len(data)
    return draw.choice(
        (draw.randrange(size + 1), draw.randrange(min(size, 64) + 1), size - draw.randrange(min(size, 64) + 1))
    )


def _flip(data: bytes, draw: random.Random) -> bytes:
    place = min(_place(data, draw), len(data) - 1)
    return data if place < 0 else data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :]


def _byte(data: bytes, draw: random.Random) -> bytes:
    place = _place(data, draw)
    return data[:place] + bytes([draw.choice((0, 1, 0x7F, 0x80, 0xFF, 10, 34, 92))]) + data[place + 1 :]


def _insert(data: bytes, draw: random.Random) -> bytes:
    place = _place(data, draw)
    return data[:place] + draw.randbytes(draw.choice((1, 2, 4, 8, 300))) + data[place:]


def _delete(data: bytes, draw: random.Random) -> bytes:
    place = _place(data, draw)
    return data[:place] + data[place + draw.choice((1, 2, 4, 8, 100)) :]


def _repeat(data: bytes, draw: random.Random) -> bytes:
    begin, place = _place(data, draw), _place(data, draw)
    return data[:place] + data[begin : begin + draw.choice((1, 8, 100, 1000))] * draw.choice((1, 2, 50)) + data[place:]


def _truncate(data: bytes, draw: random.Random) -> bytes:
    return data[: _place(data, draw)]


def _integer(data: bytes, draw: random.Random) -> bytes:
    size, place = draw.choice((1, 2, 4, 8)), _place(data, draw)
    value = draw.choice(INTEGERS) % 256**size
    return data[:place] + value.to_bytes(size, draw.choice(("little", "big"))) + data[place + size :]


def _word(data: bytes, draw: random.Random) -> bytes:
    """A number or a word of a text exchanged."""
    words = data.split(b" ")
    place = draw.randrange(len(words))
    kept = words[place][-1:] if words[place][-1:] in (b",", b"}", b"]", b"\n") else b""
    words[place] = draw.choice(WORDS) + kept
    return b" ".join(words)


def _tree(data: bytes, draw: random.Random) -> bytes:
    """One value of a JSON tree, or of one line of JSON, exchanged, removed, or put under another name."""
    lines = data.split(b"\n")
    whole = draw.random() < 0.5 or len(lines) < 3
    place = draw.randrange(len(lines))
    try:
        tree = json.loads(data if whole else lines[place])
    except ValueError:
        return data
    nodes = list(_nodes(tree))
    if not nodes:
        return data
    parent, key = draw.choice(nodes)
    match draw.randrange(4):
        case 0 if isinstance(parent, dict):
            parent[draw.choice(("", "x", key + "_"))] = parent.pop(key)
        case 1:
            del parent[key]
        case 2:
            other, name = draw.choice(nodes)
            parent[key] = json.loads(json.dumps(other.get(name) if isinstance(other, dict) else None))
        case _:
            parent[key] = draw.choice(VALUES)
    changed = json.dumps(tree).encode()
    return changed if whole else b"\n".join([*lines[:place], changed, *lines[place + 1 :]])


def _nodes(tree: Any) -> list[tuple[Any, Any]]:
    """Each value of a tree as its parent and its key."""
    found: list[tuple[Any, Any]] = []
    pending = [tree]
    while pending and len(found) < 5000:
        node = pending.pop()
        if isinstance(node, dict | list):
            items = node.items() if isinstance(node, dict) else enumerate(node)
            found += [(node, key) for key, _ in items]
            pending += node.values() if isinstance(node, dict) else node
    return found
