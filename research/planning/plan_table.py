"""A plan as text: what was tried, what the experiment itself needs and does, the whole run, and what was assumed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from research.config import Experiment
from research.planning import roofline
from research.planning.chips import GIB, LINK_SHARE, PRODUCT_SHARE, STORE, Topology
from research.planning.compiling import Compiled
from research.planning.roofline import Times
from research.runtime import xla_flags
from research.training.flops import train_flops


@dataclass(frozen=True)
class Tried:
    """An experiment, compiled for a topology."""

    experiment: Experiment
    topology: Topology
    compiled: Compiled

    @property
    def fits(self) -> bool:
        """Into the memory of a chip."""
        return not self.compiled.refused and self.compiled.total <= self.topology.chip.memory

    @property
    def times(self) -> Times:
        """Seconds of a step."""
        return roofline.times(self.compiled, self.topology)

    @property
    def tokens(self) -> int:
        """That a step reads."""
        return self.experiment.data.batch * self.experiment.data.length

    @property
    def model_flops(self) -> float:
        """Of a step on one chip, without recomputation."""
        data = self.experiment.data
        return data.batch * train_flops(self.experiment.model, data) / self.topology.chips

    @property
    def mfu(self) -> float:
        """Model FLOPs, all pairs of attention counted, by what the chip could do in a step's time."""
        return self.model_flops / self.topology.chip.flops / self.times.step

    @property
    def causal_mfu(self) -> float:
        """The same with half of the pairs, those that a causal model needs."""
        data = self.experiment.data
        flops = data.batch * train_flops(self.experiment.model, data, causal=True) / self.topology.chips
        return flops / self.topology.chip.flops / self.times.step

    @property
    def options(self) -> str:
        """What to add to a command to run this one."""
        e = self.experiment
        mesh = " ".join(f"--mesh.{axis} {size}" for axis, size in self.compiled.mesh.items())
        return f"{mesh} --step.accumulation {e.step.accumulation} --model.remat {e.model.remat}"

    @property
    def micro(self) -> float:
        """Rows of a microbatch on one chip, as those of a chip that shares them with others."""
        sizes = self.compiled.mesh
        return self.experiment.data.batch / self.experiment.step.accumulation / sizes["data"] / sizes["fsdp"]


def best(tried: Sequence[Tried]) -> Tried | None:
    """The fastest that fits, if any does."""
    return min((each for each in tried if each.fits), key=lambda each: each.times.step, default=None)


def show(console: Console, tried: Sequence[Tried], chosen: Tried | None) -> None:
    """Prints a whole plan; `tried` begins with the experiment as it is configured."""
    first = tried[0]
    model = first.experiment.model
    console.print(
        f"{first.compiled.count:,} parameters, {first.tokens:,} tokens a step, on {first.topology} "
        f"({first.topology.chips:,} chips); {model.positions.kind} positions, {first.experiment.step.compute_dtype}",
        highlight=False,
    )
    console.print(_tried(tried, chosen))
    shown = [first] if chosen in (first, None) else [first, chosen]
    for each, title in zip(shown, ("as configured", "best that was tried"), strict=False):
        console.rule(title, align="left")
        console.print(_bytes(each))
        if not each.compiled.refused:
            console.print(_work(each))
            if each.compiled.traffic:
                console.print(_traffic(each))
            for line in _run(each):
                console.print(line, highlight=False)
    console.rule("assumed", align="left")
    for line in _assumptions(first.topology):
        console.print(line, highlight=False)


def _tried(tried: Iterable[Tried], chosen: Tried | None) -> Table:
    headings = ("", "mesh", "remat", "rows", "GiB", "fits", "step s", "k tokens/s", "MFU", "bound by")
    table = _table(*headings, left=(0, 1, 2, 5, 9))
    for number, each in enumerate(tried):
        mesh = " ".join(f"{axis} {size}" for axis, size in each.compiled.mesh.items() if size > 1) or "one device"
        row = [
            "*" if each is chosen else "configured" if number == 0 else "",
            mesh,
            each.experiment.model.remat,
            f"{each.micro:g}",
            f"{each.compiled.total / GIB:,.1f}",
            "yes" if each.fits else "no",
        ]
        if not each.compiled.refused:
            times = each.times
            row += [f"{times.step:.3g}", f"{each.tokens / times.step / 1e3:,.0f}", f"{each.mfu:.1%}", times.bound]
        table.add_row(*row)
    return table


def _bytes(each: Tried) -> Table:
    compiled = each.compiled
    rest = max(0.0, compiled.temporary - compiled.activations)
    parts = {
        "parameters": compiled.parameters,
        "optimizer": compiled.optimizer,
        "activations": min(compiled.activations, compiled.temporary),
        "temporaries": rest,
        "all, at the peak": compiled.total,
        f"a chip's memory ({each.topology.chip.name})": each.topology.chip.memory,
    }
    table = _table("bytes of one chip", "GiB", left=(0,))
    for name, size in parts.items():
        table.add_row(name, f"{size / GIB:,.3f}")
    return table


def _work(each: Tried) -> Table:
    compiled, times = each.compiled, each.times
    moved = sum(piece.bytes * piece.times for piece in compiled.pieces)
    table = _table("one step of one chip", "", "s", left=(0,))
    table.add_row("model FLOPs", f"{each.model_flops:.3g}", "")
    table.add_row("FLOPs of the program", f"{compiled.flops:.3g}", f"{times.products:.3g}")
    table.add_row("bytes of its memory moved", f"{moved:.3g}", f"{moved / each.topology.chip.bandwidth:.3g}")
    table.add_row("all local work", "", f"{times.local:.3g}")
    table.add_row("collectives on links", "", f"{times.links:.3g}")
    table.add_row("collectives between slices", "", f"{times.network:.3g}")
    table.add_row("collectives that nothing hides", "", f"{times.exposed:.3g}")
    table.add_row("step", "", f"{times.step:.3g}")
    return table


def _traffic(each: Tried) -> Table:
    sums: dict[tuple[str, str], list[float]] = {}
    for traffic in each.compiled.traffic:
        axes = " x ".join(traffic.axes) + (" (between slices)" if traffic.slices > 1 else "")
        line = sums.setdefault((axes, traffic.kind), [0.0, 0.0, 0.0])
        links, network = roofline.seconds(traffic, each.topology)
        for place, value in enumerate((traffic.times, roofline.received(traffic), links + network)):
            line[place] += value
    table = _table("axis", "collective", "times", "bytes received", "s", left=(0, 1))
    for (axes, kind), (often, size, seconds) in sorted(sums.items(), key=lambda item: -item[1][2]):
        table.add_row(axes, kind, f"{often:,.0f}", f"{size:.3g}", f"{seconds:.3g}")
    return table


def _run(each: Tried) -> list[str]:
    steps, times, chips = each.experiment.schedule.steps, each.times, each.topology.chips
    hours = steps * times.step / 3600
    hosts = max(1, chips // each.topology.chip.hosted)
    state = each.compiled.state
    return [
        f"{steps:,} steps of {times.step:.3g} s, bound by {times.bound}: {each.tokens / times.step:,.0f} tokens/s, "
        f"MFU {each.mfu:.1%} with all pairs of attention, {each.causal_mfu:.1%} with the causal half; "
        f"{hours:,.1f} hours, {hours * chips:,.0f} chip-hours",
        f"a checkpoint is {state / 1e9:,.2f} GB, written in {state / hosts / STORE:,.1f} s "
        f"by {hosts:,} host{'s' * (hosts > 1)}",
        f"options: {each.options}",
    ]


def _assumptions(topology: Topology) -> list[str]:
    common = [
        f"- hosts write {STORE / 1e9:g} GB/s each, while training continues; time to start, to evaluate and to save is "
        "not counted, nor is waiting for data",
        f"- links reach {LINK_SHARE:.0%} of their nominal speed",
    ]
    if topology.tpu:
        flags = " ".join(xla_flags.FLAGS[topology.chip.name])
        return [
            f"- compiled by the TPU compiler with {flags}",
            "- local work is the compiler's own estimate in cycles, at the nominal clock; of attention kernels, into "
            "which it does not look, the FLOPs of blocks that are not skipped, at "
            f"{topology.chip.kernel:.0%} of the peak with heads of 128, with narrower ones in proportion",
            "- collectives that it schedules apart from their use run beside the work between, the others do not",
            *common,
        ]
    return [
        "- compiled for CPUs on a mesh of the same size: there is no compiler for GPUs without one. It holds bfloat16 "
        "products in float32 and has no fused attention, so that temporaries are an upper bound",
        f"- a kernel takes the longer of its products at {PRODUCT_SHARE:.0%} of the peak and its bytes at the memory's "
        "speed; all collectives run beside local work. No step of a GPU was measured against this yet",
        *common,
    ]


def _table(*headings: str, left: tuple[int, ...]) -> Table:
    table = Table()
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number in left else "right")
    return table
