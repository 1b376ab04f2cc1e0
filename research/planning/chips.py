"""Accelerators and how they are joined, by their makers' data; what a topology is."""

import math
import re
from dataclasses import dataclass

from research.errors import InputError
from research.training.flops import PEAKS

GIB = 2**30
LINK_SHARE = 0.9  # of a link's nominal speed that large transfers reach ("How to scale your model", chapter TPUs)
PRODUCT_SHARE = 0.8  # of a GPU's peak that large matrix products reach: 770 to 798 of 989 TFLOP/s on an H200
HOP = 1e-6  # seconds that a message takes from a chip to its neighbour (same source)
STORE = 1e9  # bytes/s that a host writes to its store: an assumption, which every plan states


@dataclass(frozen=True)
class Chip:
    """One accelerator. Speeds are per chip and per second, of links in one direction.

    TPUs: docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}; `memory` is what the compiler leaves to a program. GPUs: the
    data sheets of H100 SXM and H200 SXM; `memory` is what XLA takes by default where it takes nine tenths.
    """

    name: str
    flops: float  # dense bfloat16
    memory: float  # bytes for a program
    bandwidth: float  # of that memory
    link: float  # of one link; a TPU has two in each dimension of its torus, a GPU one to its node's switch
    network: float  # of its share of the data centre's network, between slices or nodes
    hosted: int  # chips of one host
    dimensions: int  # of the torus; 0: all to all
    wraps: int = 0  # a dimension closes to a ring if its size is a multiple of this
    clock: float = 0.0  # of the compiler's cycles
    config: str = ""  # the compiler's name of how a chip's cores are used, where there is a choice
    kernel: float = 0.65  # of `flops` that attention kernels reach with heads of 128, as their schedules have it


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", PEAKS["v4"], 30.75 * GIB, 1.2e12, 50e9, 6.25e9, 4, 3, 4, 1.05e9, "megacore"),
        Chip("v5e", PEAKS["v5e"], 15.75 * GIB, 0.82e12, 50e9, 3.125e9, 4, 2, 16, 1.5e9),
        Chip("v5p", PEAKS["v5p"], 95.74 * GIB, 2.765e12, 100e9, 6.25e9, 4, 3, 4, 1.75e9),
        Chip("v6e", PEAKS["v6e"], 31.25 * GIB, 1.6e12, 100e9, 12.5e9, 4, 2, 16, 1.75e9, kernel=0.35),
        Chip("h100", PEAKS["h100"], 0.9 * 80e9, 3.35e12, 450e9, 50e9, 8, 0),
        Chip("h200", PEAKS["h200"], 0.9 * 141e9, 4.8e12, 450e9, 50e9, 8, 0),
        Chip("cpu", 50e9, math.inf, 20e9, 10e9, 1e9, 1, 0),  # any machine: bytes are exact, speeds only nominal
    )
}


@dataclass(frozen=True)
class Topology:
    """Slices of a TPU, or nodes of GPUs, joined by the data centre's network."""

    chip: Chip
    shape: tuple[int, ...]  # of a slice's torus; of a node: (GPUs,)
    slices: int = 1

    @property
    def chips(self) -> int:
        """Of all slices."""
        return math.prod(self.shape) * self.slices

    @property
    def tpu(self) -> bool:
        """Whether the TPU compiler is asked; else the one for CPUs."""
        return self.chip.dimensions > 0

    def __str__(self) -> str:
        several = f"{self.slices} slices of " if self.slices > 1 else ""
        return f"{several}{self.chip.name}:{'x'.join(map(str, self.shape))}"


def topology(text: str, slices: int) -> Topology:
    """`v5p:4x4x8`, `v6e:16x16`, `h100:8`: a chip and how many of them stand together.

    Raises:
      InputError: if it is none, with what would be.
    """
    name, _, sizes = text.partition(":")
    known = ", ".join(chip for chip in CHIPS)
    if name not in CHIPS or not re.fullmatch(r"\d+(x\d+)*", sizes):
        raise InputError(f"--topology {text}: should be like v5p:4x4x8, v6e:16x16 or h100:8; chips are {known}")
    chip, shape = CHIPS[name], tuple(int(size) for size in sizes.split("x"))
    if len(shape) != max(1, chip.dimensions):
        example = {0: "8", 2: "4x4", 3: "2x2x4"}[chip.dimensions]
        raise InputError(f"--topology {text}: {name} has {max(1, chip.dimensions)} sizes, as in {name}:{example}")
    if slices < 1 or min(shape) < 1:
        raise InputError(f"--topology {text} --slices {slices}: sizes must be at least 1")
    if name in ("h100", "h200") and shape[0] > chip.hosted:
        raise InputError(f"--topology {text}: a node has {chip.hosted}; {name}:8 --slices N is N nodes")
    return Topology(chip, shape, slices)
