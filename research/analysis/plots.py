"""Pictures for notebooks, with matplotlib; every function returns a figure.

They are meant to be read at half their size and in grey: what colours tell, lightness, markers or numbers tell too.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

from research.analysis.heads import OneHead, Scores
from research.analysis.lens import Lens
from research.analysis.runs import Run
from research.inference.table import Table

SHADES = "Blues"  # light to dark
MARKERS = "osD^vP*X"
LINES = ("-", "--", "-.", ":")
COLOURS = ("#08306b", "#d95f0e", "#41ab5d", "#9e9ac8", "#252525", "#e7298a", "#66a61e", "#a6761d")
NUMBERS = 300  # cells of a picture that still have room for numbers
SMALL = 10  # points, of numbers within a picture and of legends

plt.rcParams["font.size"] = 12


def matrix(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str = "",
    across: str = "key",
    down: str = "query",
    ax: Axes | None = None,
    largest: float | None = None,
) -> Figure:
    """A matrix as shaded cells, rows and columns named; where there is room with its numbers, but for what is exactly
    0. The darkest shade is that of `largest`, or of the largest magnitude there is."""
    height, width = max(2.2, 0.34 * len(rows) + 1.3), max(3.2, 0.5 * len(columns) + 1.6)
    ax = ax or plt.subplots(figsize=(width, height), layout="constrained")[1]
    signed = values.min() < 0
    bound = largest or np.abs(values).max()
    ax.imshow(values, cmap="RdBu" if signed else SHADES, vmin=-bound if signed else 0, vmax=bound, aspect="auto")
    ax.set_xticks(range(len(columns)), map(shown, columns), rotation=60, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(rows)), map(shown, rows))
    ax.set(title=title, xlabel=across, ylabel=down)
    if values.size <= NUMBERS and values.dtype != bool:
        for row, column in np.argwhere(values):
            value = values[row, column]
            dark = abs(value) > 0.55 * bound
            text = f"{value:.2f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.1f}"
            ax.text(column, row, text, ha="center", va="center", fontsize=SMALL, color="white" if dark else "black")
    return _figure(ax)


def visibility(seen: Mapping[str, np.ndarray], tokens: Mapping[str, Sequence[str]]) -> Figure:
    """Who sees whom under several objectives, one picture each."""
    largest = max(map(len, seen.values()))
    size = (max(3.4, 0.36 * largest + 1.4) * len(seen), 0.36 * largest + 1.8)
    figure, axes = plt.subplots(1, len(seen), figsize=size, layout="constrained", squeeze=False)
    for ax, (name, matrix_) in zip(axes[0], seen.items(), strict=True):
        matrix(matrix_, tokens[name], tokens[name], title=name, across="is seen", down="sees", ax=ax)
        ax.set_xticks(np.arange(-0.5, len(matrix_)), minor=True)
        ax.set_yticks(np.arange(-0.5, len(matrix_)), minor=True)
        ax.grid(which="minor", color="white", linewidth=1)
    return figure


def losses(table: Table, title: str = "") -> Figure:
    """The loss of every token: one group of bars for each token of a table of `losses.compared`."""
    names = [name for name in table.columns if name != "target"]
    places, width = np.arange(len(table)), 0.8 / len(names)
    figure, ax = plt.subplots(figsize=(max(5, 0.7 * len(table) + 1.5), 3.4), layout="constrained")
    for number, name in enumerate(names):
        ax.bar(places + (number - (len(names) - 1) / 2) * width, table[name], width, label=name, color=COLOURS[number])
    ax.set_xticks(places, map(shown, table["target"]), rotation=40, ha="right", rotation_mode="anchor")
    ax.set(xlabel="target token", ylabel="loss, nats", title=title)
    if len(names) > 1:
        ax.legend()
    return figure


def head_grid(weights: np.ndarray) -> Figure:
    """The attention `[layer, head, query, key]` of all heads as one picture of small ones."""
    layers, heads, places, _ = weights.shape
    framed = np.pad(weights, ((0, 0), (0, 0), (1, 0), (1, 0)), constant_values=np.nan)
    tiles = framed.transpose(0, 2, 1, 3).reshape(layers * (places + 1), heads * (places + 1))
    figure, ax = plt.subplots(figsize=(0.9 * heads + 1, 0.9 * layers + 1), layout="constrained")
    shades = plt.get_cmap(SHADES).copy()
    shades.set_bad("#888888")
    ax.imshow(tiles, cmap=shades, vmin=0, vmax=1, interpolation="nearest")
    middle = np.arange(max(layers, heads)) * (places + 1) + (places + 1) / 2
    ax.set_xticks(middle[:heads], map(str, range(heads)))
    ax.set_yticks(middle[:layers], map(str, range(layers)))
    ax.set(xlabel="head (within: keys)", ylabel="layer (within: queries)")
    return figure


def scores(found: Mapping[str, Scores]) -> Figure:
    """Scores of heads, by layer and head."""
    layers, heads = next(iter(found.values())).shape
    figure, axes = plt.subplots(
        1,
        len(found),
        figsize=(len(found) * (0.5 * heads + 1.8), 0.36 * layers + 1.8),
        layout="constrained",
        squeeze=False,
    )
    for ax, (name, values) in zip(axes[0], found.items(), strict=True):
        rows, columns = ([str(number) for number in range(count)] for count in (layers, heads))
        matrix(values, rows, columns, title=name, across="head", down="layer", ax=ax, largest=1.0)
        ax.tick_params(axis="x", rotation=0)
    return figure


def one_head(head: OneHead, tokens: Sequence[str], place: int, width: int = 8) -> Figure:
    """A head at one place, step by step, each token a row; of vectors the first `width` numbers."""
    seen = slice(None) if head.weights[place + 1 :].any() else slice(place + 1)
    tokens, vector = tokens[seen], slice(min(width, len(head.query)))
    numbers = [str(number) for number in range(vector.stop)]
    figure, axes = plt.subplot_mosaic(
        [["query", ".", ".", "."], ["keys", "products", "weights", "values"], [".", ".", ".", "sum"]],
        figsize=(14, 2.6 + 0.42 * len(tokens)),
        layout="constrained",
        width_ratios=[4, 1.2, 1.2, 4],
        height_ratios=[1, len(tokens), 1],
    )
    steps = {
        "query": (head.query[None, vector], [tokens[place]], numbers, "1. the query of one token"),
        "keys": (head.keys[seen, vector], tokens, numbers, "2. the keys of those that it sees"),
        "products": (head.products[seen, None], tokens, [""], "3. query · key,\nscaled"),
        "weights": (head.weights[seen, None], tokens, [""], "4. softmax"),
        "values": (head.values[seen, vector], tokens, numbers, "5. the values"),
        "sum": (head.result[None, vector], ["sum"], numbers, "6. the values, weighted and summed"),
    }
    for name, (values, rows, columns, title) in steps.items():
        matrix(values, rows, columns, title=title, across="", down="", ax=axes[name])
        axes[name].tick_params(axis="x", rotation=0)
    axes["sum"].set_xlabel("place in the vector")
    axes["keys"].set_xlabel("place in the vector")
    return figure


def lens(seen: Lens) -> Figure:
    """What each layer would say next; the darker, the surer."""
    layers = len(seen.best)
    figure, ax = plt.subplots(figsize=(1.05 * len(seen.read) + 1.5, 0.36 * layers + 1.8), layout="constrained")
    ax.imshow(seen.probability, cmap=SHADES, vmin=0, vmax=1, aspect="auto", origin="lower")
    for layer, row in enumerate(seen.best):
        for place, token in enumerate(row):
            dark = seen.probability[layer, place] > 0.55
            ax.text(
                place, layer, shown(token), ha="center", va="center", fontsize=SMALL, color="white" if dark else "black"
            )
    labels = [f"{shown(a)}\n→ {shown(b)}" for a, b in zip(seen.read, seen.following, strict=True)]
    ax.set_xticks(range(len(labels)), labels, rotation=30, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(layers))
    ax.set(xlabel="token that is read → token that really follows", ylabel="after layer")
    ax.set_title("what each layer would say next")
    return figure


def by_layer(found: Mapping[str, np.ndarray], what: str, title: str = "") -> Figure:
    """Values by layer, a line for each name."""
    figure, ax = plt.subplots(figsize=(7, 3.8), layout="constrained")
    for number, (name, values) in enumerate(found.items()):
        ax.plot(values, label=name, **_line(number))
    ax.set(xlabel="layer", ylabel=what, title=title)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(fontsize=SMALL, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def spectra(found: Mapping[str, np.ndarray], title: str = "") -> Figure:
    """Singular values `[layer, rank]` of matrices: one picture each, one line a layer, from light (first) to dark."""
    across = min(len(found), 4)
    down = -(-len(found) // across)
    size = (3.2 * across + 0.8, 3.0 * down + 0.4)
    figure, axes = plt.subplots(down, across, figsize=size, layout="constrained", squeeze=False, sharey=True)
    for ax, (name, layers) in zip(axes.flat, found.items(), strict=False):
        for number, values in enumerate(layers):
            shade = plt.get_cmap("viridis_r")(0.1 + 0.9 * number / max(len(layers) - 1, 1))
            ax.plot(np.arange(1, len(values) + 1), values, color=shade, label=f"layer {number}")
        ax.set(title=name, xlabel="rank", yscale="log")
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
    for ax in axes.flat[len(found) :]:
        ax.set_axis_off()
    for ax in axes[:, 0]:
        ax.set_ylabel("singular value")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    ends = [0, -1] if len(handles) > 4 else range(len(handles))
    axes.flat[len(found) - 1].legend([handles[n] for n in ends], [labels[n] for n in ends], fontsize=SMALL)
    figure.suptitle(title)
    return figure


def curves(runs: Sequence[Run], objective: Mapping[str, str] | None = None) -> Figure:
    """Training (thin) and held-out loss (marked) of several runs over training FLOPs; `objective` names which loss of
    which run, else all."""
    figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
    number = 0
    for run in runs:
        for name in [objective[run.name]] if objective else [each.name for each in run.experiment.objectives]:
            line = _line(number)
            for kind, style in (("train", {"marker": "", "linewidth": 1, "alpha": 0.7}), ("held_out", {})):
                points = [
                    (record["step"] * run.flops_per_step, record["losses"][name])
                    for record in run.of_kind(kind)
                    if name in record["losses"]
                ]
                label = f"{run.name}, {name}" if run.name != name else name
                ax.plot(*np.array(points).reshape(-1, 2).T, **line | style, label=label if kind == "held_out" else None)
            number += 1
    ax.set(xlabel="training FLOPs", ylabel="loss, nats per target", title="loss while training")
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.legend(title="held-out (marked), training (thin)", fontsize=SMALL)
    return figure


def shown(token: str) -> str:
    """A token in a picture: its spaces and line ends can be seen, and dollars are no mathematics."""
    return token.replace("\n", "⏎").replace(" ", "␣").replace("$", r"\$")


def _line(number: int) -> dict[str, Any]:
    look = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
    return look | {"linestyle": LINES[number % len(LINES)], "markersize": 5}


def _figure(ax: Axes) -> Figure:
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure
