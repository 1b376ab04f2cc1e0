"""The mixture of denoisers of UL2 (Tay et al. 2022, table 1) in one decoder-only model, as data alone.

./launch/local.sh train configs/ul2_mixture.py

Hardware: a laptop; minutes on 2 CPU cores. Text, model and optimizer are those of the quickstart, which it varies.
Measured there, with a third of their time: 1,149 s (403 s of CPU time) and 1.1 GB; held-out loss as a share of the
unigram baseline's: r3 0.71, r8 0.68, s 0.71, x3 0.76, x8 0.73, x64 0.68, x64_half 0.70.
A mode token before every example tells what is asked for: [R], regular denoising of short spans; [X], extreme denoising
of long spans or of half the text; [S], sequential denoising, which continues a prefix.
"""

from dataclasses import replace

import quickstart

from research.config import Experiment, Prefix, SpanCorruption


def get_config() -> Experiment:
    objectives = (
        SpanCorruption(name="r3", mode="[R]", mean_span=3.0, noise_rate=0.15),
        SpanCorruption(name="r8", mode="[R]", mean_span=8.0, noise_rate=0.15),
        Prefix(name="s", mode="[S]"),
        SpanCorruption(name="x3", mode="[X]", mean_span=3.0, noise_rate=0.5),
        SpanCorruption(name="x8", mode="[X]", mean_span=8.0, noise_rate=0.5),
        SpanCorruption(name="x64", mode="[X]", mean_span=64.0, noise_rate=0.15),
        SpanCorruption(name="x64_half", mode="[X]", mean_span=64.0, noise_rate=0.5),
    )
    return replace(quickstart.get_config(), objectives=objectives)
