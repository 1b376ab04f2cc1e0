"""The text of a compiled program, read: computations of instructions, with shapes, loops and replica groups.

Only what counting needs. The grammar is that of `jax.stages.Compiled.as_text()`, for CPUs and TPUs alike.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

BYTES = {
    "pred": 1,
    "s4": 0.5,
    "u4": 0.5,
    "f16": 2,
    "bf16": 2,
    "s16": 2,
    "u16": 2,
    "f64": 8,
    "s64": 8,
    "u64": 8,
    "c64": 8,
}
_SHAPE = re.compile(r"([a-z][a-z0-9]*)\[([0-9,]*)\](?:\{([^}]*)\})?")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_NAME = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")


@dataclass(frozen=True)
class ArrayShape:
    """Of an array on one device. `space` is its memory: 0 is the large one (HBM), others are on the chip."""

    dtype: str
    dims: tuple[int, ...]
    space: int = 0

    @property
    def elements(self) -> int:
        return math.prod(self.dims)

    @property
    def bytes(self) -> float:
        """Unpadded; 8- and 32-bit types say their size themselves."""
        return self.elements * BYTES.get(self.dtype, 1 if "8" in self.dtype else 4)


@dataclass(frozen=True)
class Instruction:
    """One line: its result's shapes (several for a tuple), what stands in parentheses, and what follows."""

    name: str
    opcode: str
    shapes: tuple[ArrayShape, ...]
    arguments: str
    attributes: str
    root: bool

    @cached_property
    def operands(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(re.findall(r"%([\w.\-]+)", self.arguments))

    def called(self, attribute: str) -> str | None:
        """The computation that an attribute names, as `body=%region_1`."""
        found = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.attributes)
        return found and found.group(1)

    @cached_property
    def bytes(self) -> float:
        """Of the result."""
        return sum(shape.bytes for shape in self.shapes)


Computation = dict[str, Instruction]  # by name, in order


@dataclass(frozen=True)
class Program:
    """All computations by name, and the one that is run."""

    computations: dict[str, Computation]
    entry: str


def parse(text: str) -> Program:
    """Reads a whole module."""
    computations: dict[str, Computation] = {}
    entry, here = "", None
    for line in _lines(text):
        if here is None:
            if head := _HEAD.match(line):
                here = computations.setdefault(head.group(2), {})
                entry = head.group(2) if head.group(1) else entry
        elif line.startswith("}"):
            here = None
        elif named := _NAME.match(line):
            instruction = _instruction(line[named.end() :], named.group(2), bool(named.group(1)))
            here[instruction.name] = instruction
    return Program(computations, entry)


def _lines(text: str) -> Iterator[str]:
    """Lines, those joined over which an attribute of an instruction goes on, as a kernel's metadata does."""
    lines = iter(text.splitlines())
    for line in lines:
        if line.endswith("{") and _NAME.match(line):
            while _depth(line) > 0:
                line += next(lines).strip()
        yield line


def _depth(line: str) -> int:
    """Braces that are open at the end of a line, those in strings not counted."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', "", line)
    return bare.count("{") - bare.count("}")


def _instruction(rest: str, name: str, root: bool) -> Instruction:
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    opening = rest.index("(", end)
    closing = _closing(rest, opening)
    shapes = tuple(_shape(match) for match in _SHAPE.finditer(re.sub(r"/\*.*?\*/", "", rest[:end])))
    return Instruction(name, rest[end:opening].strip(), shapes, rest[opening + 1 : closing], rest[closing + 1 :], root)


def _shape(match: re.Match[str]) -> ArrayShape:
    dtype, dims, layout = match.groups()
    space = re.search(r"S\((\d+)\)", layout or "")
    return ArrayShape(dtype, tuple(int(dim) for dim in dims.split(",") if dim), int(space.group(1)) if space else 0)


def _closing(text: str, opening: int) -> int:
    depth = 0
    for place in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place
    raise ValueError(f"no closing parenthesis in {text[opening : opening + 80]!r}")


def trip_count(program: Program, around: Computation, loop: Instruction) -> int:
    """How often the body of a `while` in the computation `around` runs: as the compiler notes it, else from where its
    counter begins to the constant that its condition compares that with, by what its body adds. 1 where there is no
    such constant."""
    if noted := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
        return int(noted.group(1))
    condition = program.computations[loop.called("condition") or ""]
    constants = [each.arguments for each in condition.values() if each.opcode == "constant"]
    bound = max((int(each) for each in constants if each.isdigit()), default=1)
    counters = [each for each in condition.values() if each.opcode == "get-tuple-element"]
    found = [re.search(r"index=(\d+)", each.attributes) for each in counters]
    places = [int(each.group(1)) for each in found if each]
    added = max((_added(program.computations[loop.called("body") or ""], place) for place in places), default=1)
    begin = max((_begin(around, loop, place) for place in places), default=0)
    return -(-(bound - begin) // added)


def _begin(around: Computation, loop: Instruction, place: int) -> int:
    """Where the counter of a loop begins; not with 0 if the compiler has taken its first turn out of it."""
    carried = around[loop.operands[0]]
    if carried.opcode != "tuple":
        return 0
    first = around[carried.operands[place]]
    while first.opcode == "copy":
        first = around[first.operands[0]]
    return int(first.arguments) if first.opcode == "constant" else 0


def _added(body: Computation, place: int) -> int:
    """What the body of a loop adds to a counter; compilers unroll loops of their own, and then add more than 1."""
    total, now = 0, body[next(each for each in body.values() if each.root).operands[place]]
    while now.opcode in ("add", "copy"):
        terms = [body[name] for name in now.operands]
        total += sum(int(term.arguments) for term in terms if term.opcode == "constant")
        now = next(term for term in terms if term.opcode != "constant")
    return max(1, total)


def groups(attributes: str, devices: int) -> np.ndarray:
    """The devices that communicate with each other, `[groups, members]`, of a collective's attributes.

    Three notations: `{{0,1},{2,3}}`; `[2,2]<=[4]T(1,0)`; and `mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}`, in
    which the transposition of the devices' numbers can be left out.
    """
    if listed := re.search(r"replica_groups=\{(\{[\d,{}]*\})\}", attributes):
        rows = re.findall(r"\{([\d,]*)\}", listed.group(1))
        return np.array([_numbers(row) for row in rows])
    if iota := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes):
        shape, dims, order = (_numbers(part) if part else None for part in iota.groups())
        assert shape is not None and dims is not None
        return np.arange(math.prod(dims)).reshape(dims).transpose(order).reshape(shape)
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\](.*?)\{([^}]*)\}", attributes):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", mesh.group(1))}
        ids = list(range(math.prod(sizes.values())))
        if turned := re.search(r"device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\)", mesh.group(2)):
            dims, axes = (_numbers(part) if part else None for part in turned.groups())
            ids = np.reshape(ids, dims or ()).transpose(axes).ravel().tolist()
        elif given := re.search(r"device_ids=\(([\d,]+)\)", mesh.group(2)):
            ids = list(_numbers(given.group(1)))
        inside = re.findall(r"'(\w+)'", mesh.group(3))
        names = list(sizes)
        outside = [name for name in names if name not in inside]
        cube = np.reshape(ids, tuple(sizes.values())).transpose([names.index(name) for name in (*outside, *inside)])
        return cube.reshape(-1, math.prod(sizes[name] for name in inside))
    return np.arange(devices)[None]


def _numbers(listed: str) -> tuple[int, ...]:
    return tuple(int(number) for number in listed.split(","))


def pairs(attributes: str) -> np.ndarray:
    """Senders and receivers of a collective permutation, `[pairs, 2]`."""
    found = re.search(r"source_target_pairs=\{(\{.*?\})\}", attributes)
    rows = re.findall(r"\{(\d+),(\d+)\}", found.group(1)) if found else []
    return np.array([[int(sender), int(receiver)] for sender, receiver in rows]).reshape(-1, 2)
