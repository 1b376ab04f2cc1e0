"""From what a compiled step does on one device to how long it takes: the slowest of its parts, as far as they overlap.

Local work: on a TPU what its compiler estimates in cycles, fusion by fusion, else the longer of a kernel's products at
a stated share of the peak and its bytes at the memory's speed. Collectives that the schedule starts and ends at
different places run beside what it has between these, as long as that takes; the others do not.
"""

from dataclasses import dataclass

from research.planning.chips import HOP, LINK_SHARE, PRODUCT_SHARE, Chip, Topology
from research.planning.compiling import Compiled, Traffic
from research.planning.counting import Piece

RECEIVED = {"all-gather": 1.0, "reduce-scatter": 1.0, "all-reduce": 2.0, "all-to-all": 0.25, "collective-permute": 1.0}


@dataclass(frozen=True)
class Times:
    """Seconds of a step."""

    products: float  # matrix products at their peak
    local: float  # all that a device does by itself
    links: float  # collectives over the links of a slice or node
    network: float  # collectives over the data centre's network
    exposed: float  # of both, what nothing runs beside
    step: float

    @property
    def bound(self) -> str:
        """What most of the step is spent on."""
        shares = {
            "compute": self.products,
            "memory": self.local - self.products,
            "interconnect": min(self.links, self.step - self.local),
            "network": min(self.network, self.step - self.local),
        }
        return max(shares, key=lambda name: shares[name])


def times(compiled: Compiled, topology: Topology) -> Times:
    """Predicted for a compiled step."""
    chip = topology.chip
    local = sum(piece.times * work(piece, chip) for piece in compiled.pieces)
    costs = [(each, *seconds(each, topology)) for each in compiled.traffic]
    links, network = sum(cost[1] for cost in costs), sum(cost[2] for cost in costs)
    # the compiler for CPUs has no schedule to speak of; on GPUs XLA runs collectives beside what does not need them
    hidden = sum(
        min(link + net, each.times * work(each.beside, chip) if each.beside else link + net)
        for each, link, net in costs
        if each.overlapped or not topology.tpu
    )
    exposed = links + network - hidden
    step = max(local, hidden) + exposed
    return Times(compiled.flops / chip.flops, local, links, network, exposed, step)


def work(piece: Piece, chip: Chip) -> float:
    """Seconds of a piece of local work, once."""
    if piece.head:  # a window of the schedule has other work beside a kernel
        stated = piece.flops / (chip.flops * chip.kernel * min(1, piece.head / 128))
        return max(stated, piece.bytes / chip.bandwidth) + (piece.cycles / chip.clock if chip.clock else 0.0)
    if piece.cycles and chip.clock:
        return piece.cycles / chip.clock
    return max(piece.flops / (chip.flops * PRODUCT_SHARE), piece.bytes / chip.bandwidth)


def seconds(traffic: Traffic, topology: Topology) -> tuple[float, float]:
    """On the links of a slice, and on the network between slices, where a group exchanges what each chip holds."""
    chip, inside, slices = topology.chip, traffic.inside, traffic.slices
    speed = traffic.links * chip.link * LINK_SHARE
    if traffic.kind == "collective-permute":
        whole = traffic.bytes * traffic.times
        return (0.0, whole / chip.network) if slices > 1 else (whole / (chip.link * LINK_SHARE), 0.0)
    passes = RECEIVED[traffic.kind]
    across = passes * traffic.bytes / inside * (slices - 1) / slices / chip.network
    along = passes * traffic.bytes * (inside - 1) / inside / speed + passes * traffic.hops * HOP
    return along * traffic.times, across * traffic.times


def received(traffic: Traffic) -> float:
    """Bytes that a device receives in a step."""
    if traffic.kind == "collective-permute":
        return traffic.bytes * traffic.times
    members = traffic.inside * traffic.slices
    share = (members - 1) / members / (members if traffic.kind == "all-to-all" else 1)
    return (2 if traffic.kind == "all-reduce" else 1) * traffic.bytes * share * traffic.times
