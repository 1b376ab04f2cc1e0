"""What one device does when it runs a compiled program once: FLOPs, bytes of its memory, cycles, and collectives.

Compilers' own totals count the body of a loop once; here every loop counts as often as it runs. FLOPs are those of
matrix products and convolutions. Bytes of memory are what each instruction that is not inside a fusion reads and
writes in the large memory; of a stacked array of which it takes or changes one slice, that slice.
"""

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from research.planning import hlo, schedule
from research.planning.hlo import ArrayShape, Computation, Instruction, Program

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all"}
FREE |= {"copy-done", "partition-id", "replica-id", "iota", "opt-barrier", "async-done", "async-update", "send", "recv"}


@dataclass(frozen=True)
class Collective:
    """One collective operation as one device takes part in it."""

    kind: str  # of COLLECTIVES
    bytes: float  # of the whole array: gathered, reduced or exchanged by a group; of one message of a permutation
    members: np.ndarray  # [groups, members]; [pairs, 2] for a permutation
    times: float  # how often a step does it
    overlapped: bool  # starts and ends at different places of the schedule
    beside: "Piece | None" = None  # all that the schedule has between these places, once; None: unknown


@dataclass(frozen=True)
class Piece:
    """An instruction, or a fusion of several, which runs as one kernel."""

    flops: float
    bytes: float  # read from and written to the large memory
    cycles: float  # the compiler's own estimate; 0 where it gives none
    times: float  # how often a step runs it
    head: int = 0  # width of an attention head, where it is a kernel of our own: no compiler looks into those


@dataclass(frozen=True)
class Work:
    """Of one step on one device, in the order of the schedule."""

    pieces: tuple[Piece, ...]
    collectives: tuple[Collective, ...]

    @property
    def flops(self) -> float:
        """Of all matrix products, those that are computed again for the backward pass included."""
        return sum(piece.flops * piece.times for piece in self.pieces)

    @property
    def bytes(self) -> float:
        """Read from and written to the large memory."""
        return sum(piece.bytes * piece.times for piece in self.pieces)


def count(program: Program, devices: int, slices: int = 1) -> Work:
    """Counts for one run of the program, compiled for `devices` devices in each of `slices` slices of a TPU.

    Its devices are those of one slice, and slices send each other what all of them reduce or gather."""
    pieces, collectives = [], []
    windows = {name: schedule.windows(program, each) for name, each in program.computations.items()}
    for where, instruction, times in _kernels(program, program.entry, 1.0):
        computation, flops = program.computations[where], 0.0
        for around, each, fused in _parts(program, computation, instruction):
            if each.opcode in ("dot", "convolution"):
                flops += _flops(around, each)
            kind = each.opcode.removesuffix("-start")
            if kind in COLLECTIVES:
                inside = windows[where].get(schedule.channel(each))
                if inside is None:
                    collectives.append(_collective(around, each, kind, times, fused, devices))
                elif inside[0] == instruction.name:  # it is named once more wherever it goes on
                    whole = _collective(around, each, kind, times, fused, devices)
                    collectives.append(replace(whole, overlapped=True, beside=_beside(computation, inside)))
            elif each.opcode == "send" and (sent := _between(around, each, times, devices, slices)):
                collectives.append(sent)
        if instruction.opcode in FREE or instruction.opcode.endswith("-done"):
            continue
        if kernel := _kernel(instruction, times):
            pieces.append(kernel)
            continue
        moved = (
            0.0
            if instruction.opcode.removesuffix("-start") in COLLECTIVES
            else _moved(program, computation, instruction)
        )
        pieces.append(Piece(flops, moved, _cycles(instruction), times))
    return Work(tuple(pieces), tuple(collectives))


def _kernels(program: Program, where: str, times: float) -> Iterator[tuple[str, Instruction, float]]:
    """Every instruction that runs by itself, with its computation's name, and how often. Of a conditional, every branch
    counts."""
    computation = program.computations[where]
    for instruction in computation.values():
        yield where, instruction, times
        loop = instruction.opcode == "while"
        for name in _called(instruction):
            often = times * (hlo.trip_count(program, computation, instruction) if loop else 1)
            yield from _kernels(program, name, often)


def _called(instruction: Instruction) -> list[str]:
    """The computations that an instruction runs as a part of the program, not as a part of itself."""
    match instruction.opcode:
        case "while":
            names = [instruction.called("body")]
        case "call":
            names = [instruction.called("to_apply")]
        case "conditional":
            branches = re.search(r"branch_computations=\{([^}]*)\}", instruction.attributes)
            names = [instruction.called("true_computation"), instruction.called("false_computation")]
            names += re.findall(r"[\w.\-]+", branches.group(1)) if branches else []
        case _:
            names = []
    return [name for name in names if name]


def _parts(
    program: Program, computation: Computation, instruction: Instruction, fused: bool = False
) -> Iterator[tuple[Computation, Instruction, bool]]:
    """An instruction, or those that are fused in it, with their computation, and whether they are."""
    if instruction.opcode not in ("fusion", "async-start"):
        yield computation, instruction, fused
        return
    inside = program.computations[instruction.called("calls") or ""]
    for each in inside.values():
        yield from _parts(program, inside, each, fused or instruction.opcode == "fusion")


def _kernel(instruction: Instruction, times: float) -> Piece | None:
    """A Pallas kernel, by the costs that it states itself: blocks that it is known to skip are not among them."""
    stated = re.search(r'"cost_estimate":\{"flops":"(\d+)".*?"bytes_accessed":"(\d+)"', instruction.attributes)
    if instruction.opcode != "custom-call" or stated is None:
        return None
    return Piece(float(stated.group(1)), float(stated.group(2)), 0.0, times, instruction.shapes[0].dims[-1])


def _cycles(instruction: Instruction) -> float:
    found = re.search(r'"estimated_cycles":"(\d+)"', instruction.attributes)
    return float(found.group(1)) if found else 0.0


def _beside(computation: Computation, names: Sequence[str]) -> Piece:
    """The local work of these instructions, loops among them left out."""
    each = [computation[name] for name in names]
    kernels = [kernel for instruction in each if (kernel := _kernel(instruction, 1.0))]
    head = max((kernel.head for kernel in kernels), default=0)
    return Piece(sum(kernel.flops for kernel in kernels), 0.0, sum(map(_cycles, each)), 1.0, head)


def _flops(computation: Computation, product: Instruction) -> float:
    left, right = (computation[name].shapes[0] for name in product.operands[:2])
    out = product.shapes[0]
    if product.opcode == "dot":
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", product.attributes)
        dims = [int(dim) for dim in contracted.group(1).split(",") if dim] if contracted else []
        return 2 * out.elements * math.prod(left.dims[dim] for dim in dims)
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", product.attributes)
    assert labels is not None
    of_left, of_right, of_out = labels.groups()
    window = re.search(r"window=\{([^}]*)\}", product.attributes)
    fields = dict(part.split("=") for part in window.group(1).split()) if window else {}
    count = 2.0 * out.dims[of_out.index("b")] * out.dims[of_out.index("f")] * right.dims[of_right.index("i")]
    for place, spatial in enumerate(sorted(label for label in of_left if label.isdigit())):
        size = left.dims[of_left.index(spatial)]
        kernel, outputs = right.dims[of_right.index(spatial)], out.dims[of_out.index(spatial)]
        count *= _valid(size, kernel, outputs, {key: value.split("x")[place] for key, value in fields.items()})
    return count


def _valid(size: int, kernel: int, outputs: int, window: dict[str, str]) -> int:
    """Pairs of an output and a kernel place that meet an element of the input, neither padding nor a dilation's hole:
    a TPU's batched products are convolutions in which few pairs do."""
    stride, low = int(window.get("stride", 1)), int(window.get("pad", "0_0").split("_")[0])
    dilate, spread = int(window.get("lhs_dilate", 1)), int(window.get("rhs_dilate", 1))
    at = np.arange(outputs)[:, None] * stride + np.arange(kernel) * spread - low
    return int(np.sum((at >= 0) & (at % dilate == 0) & (at // dilate < size)))


def _collective(
    computation: Computation, instruction: Instruction, kind: str, times: float, fused: bool, devices: int
) -> Collective:
    """An all-reduce inside a fusion, of which the fusion keeps a part, is what a TPU does for a reduce-scatter."""
    given = sum(computation[name].bytes for name in instruction.operands if name in computation)
    overlapped = instruction.opcode.endswith("-start")
    if kind == "collective-permute":
        return Collective(kind, given, hlo.pairs(instruction.attributes), times, overlapped)
    members = hlo.groups(instruction.attributes, devices)
    if kind == "all-reduce" and fused:
        kind = "reduce-scatter"
    whole = given * members.shape[1] if kind in ("all-gather", "all-to-all") else given
    return Collective(kind, whole, members, times, overlapped)


def _between(computation: Computation, send: Instruction, times: float, devices: int, slices: int) -> Collective | None:
    """What slices do together, of which a program has the sending and the receiving; None for what goes to a host. It
    is over when its result arrives."""
    found = re.search(r'_xla_megascale_transfer_type="(\w+)"', send.attributes)
    if found is None:
        return None
    kind, given = found.group(1).lower().replace("_", "-"), send.shapes[0].bytes
    members = np.arange(devices * slices).reshape(slices, devices).T
    if kind not in COLLECTIVES:
        kind, members = "collective-permute", members[:, :2]
    whole = given * slices if kind in ("all-gather", "all-to-all") else given
    return Collective(kind, whole, members, times, _meanwhile(computation, send))


def _meanwhile(computation: Computation, send: Instruction) -> bool:
    """Whether anything runs between a `send` and the arrival of what comes back for it."""
    meeting = re.search(r'_xla_host_transfer_rendezvous="([^"]*)"', send.attributes)
    back = next(
        (
            each.name
            for each in computation.values()
            if each.opcode == "recv" and meeting and meeting.group(0) in each.attributes
        ),
        None,
    )
    after = itertools.dropwhile(lambda each: each is not send, computation.values())
    between = itertools.takewhile(lambda each: each.opcode != "recv-done" or back not in each.operands, after)
    return any(each.opcode not in FREE and not each.opcode.endswith("-done") for each in between)


def _moved(program: Program, computation: Computation, instruction: Instruction) -> float:
    """Bytes that an instruction reads from and writes to the large memory."""
    operands = [computation[name] for name in instruction.operands if name in computation]
    outputs = instruction.shapes[:1] if instruction.opcode == "copy-start" else instruction.shapes
    match instruction.opcode:
        case "dynamic-slice" | "gather" | "slice":
            return 2 * _large(outputs)
        case "dynamic-update-slice":
            return 2 * _large(operands[1].shapes)
        case "fusion":
            inside = program.computations[instruction.called("calls") or ""]
            return _fused(inside, instruction, operands)
        case _:
            return _large(outputs) + sum(_large(operand.shapes) for operand in operands)


def _fused(inside: Computation, fusion: Instruction, operands: list[Instruction]) -> float:
    """Of a fusion: whole arrays, except where it slices a parameter, or writes a slice into one in place."""
    users: dict[str, list[Instruction]] = {name: [] for name in inside}
    for each in inside.values():
        for name in each.operands:
            users[name].append(each)
    root = next(each for each in inside.values() if each.root)
    roots = [inside[name] for name in root.operands] if root.opcode == "tuple" else [root]
    total = 0.0
    for shape, end in zip(fusion.shapes, roots, strict=False):
        source = _through(inside, end)
        written = inside[source.operands[1]].shapes[0] if source.opcode == "dynamic-update-slice" else shape
        total += 0 if shape.space else min(written.bytes, shape.bytes)
    parameters = {each.arguments: each for each in inside.values() if each.opcode == "parameter"}
    for number, operand in enumerate(operands):
        if not operand.shapes or operand.shapes[0].space:
            continue
        total += _read(users, parameters[str(number)]) if str(number) in parameters else _large(operand.shapes)
    return total


def _read(users: dict[str, list[Instruction]], parameter: Instruction) -> float:
    """Bytes of a fusion's parameter that it reads."""
    read = 0.0
    pending = list(users[parameter.name])
    names = {parameter.name}
    while pending:
        user = pending.pop()
        if user.opcode in ("bitcast", "convert", "copy", "reshape"):
            names.add(user.name)
            pending += users[user.name]
        elif user.opcode in ("dynamic-slice", "slice", "gather") and user.operands[0] in names:
            read += user.bytes
        elif user.opcode != "dynamic-update-slice" or user.operands[0] not in names:
            return parameter.bytes
    return min(read, parameter.bytes)


def _through(inside: Computation, instruction: Instruction) -> Instruction:
    while instruction.opcode in ("bitcast", "convert", "copy"):
        instruction = inside[instruction.operands[0]]
    return instruction


def _large(shapes: tuple[ArrayShape, ...]) -> float:
    return sum(shape.bytes for shape in shapes if shape.space == 0)
