"""What a compiled program does while a collective is under way, by the order of its instructions.

A TPU's collectives run beside other work in two notations: as a pair `all-gather-start` and `all-gather-done` (or
`async-start` and `async-done` around a computation), and as fusions, of which one starts the collective, one ends it,
and those between, which compute, carry it along and name it again.
"""

import re

from research.planning.hlo import Computation, Instruction, Program

_STARTS, _ENDS = "AsyncCollectiveStart", "AsyncCollectiveDone"  # the calls inside such fusions


def channel(instruction: Instruction) -> str | None:
    """The number that all instructions of one collective share."""
    found = re.search(r"\bchannel_id=(\d+)", instruction.attributes)
    return found and found.group(1)


def windows(program: Program, computation: Computation) -> dict[str | None, tuple[str, ...]]:
    """By channel, the instructions from the start of each asynchronous collective to its end, the start first. Where a
    loop ends in one turn what it starts in the turn before, they are those behind the start, then those before the
    end."""
    order = list(computation)
    starts: dict[str | None, int] = {}
    ends: dict[str | None, int] = {}
    pairs: dict[str, str | None] = {}  # channels by the name of what starts them
    for place, instruction in enumerate(computation.values()):
        if instruction.opcode == "fusion":
            inside = program.computations[instruction.called("calls") or ""]
            calls = " ".join(each.attributes for each in inside.values() if each.opcode == "custom-call")
            channels = [number for each in inside.values() if (number := channel(each))]
            for mark, places in ((_STARTS, starts), (_ENDS, ends)):
                if mark in calls:
                    places.update(dict.fromkeys(channels, place))
        elif instruction.opcode.endswith("-start"):
            called = instruction.called("calls")
            inside = program.computations[called] if called else {instruction.name: instruction}
            for number in filter(None, map(channel, inside.values())):
                starts[number], pairs[instruction.name] = place, number
        elif instruction.opcode.endswith("-done") and instruction.operands[0] in pairs:
            ends[pairs[instruction.operands[0]]] = place
    found = {}
    for number, start in starts.items():
        end = ends.get(number, len(order))
        found[number] = tuple(order[start:end] if end > start else order[start:] + order[:end])
    return found
