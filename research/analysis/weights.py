"""Parameters: how many, how large, of which rank, and how they differ between checkpoints."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from research import models
from research.config import Data
from research.errors import InputError
from research.inference.language_model import LanguageModel
from research.inference.table import Table
from research.models import adapters
from research.training import flops

ByLayer = dict[str, Float[np.ndarray, " layers"]]


def plain(lm: LanguageModel) -> dict[str, np.ndarray]:
    """Every parameter by its path, with adapters merged and small integers scaled to what they stand for."""
    _, params = adapters.merge(lm.config, lm.params)
    return {path: np.asarray(leaf, np.float32) for path, leaf in models.flatten(params).items()}


def matrices(lm: LanguageModel) -> dict[str, Float[np.ndarray, "layers inputs outputs"]]:
    """Every parameter that is a matrix, heads side by side; what is not in a layer counts as one."""
    axes = models.flatten(models.axes(adapters.plain(lm.config)))
    found = {}
    for path, leaf in plain(lm).items():
        stacked = leaf if axes[path][0] == "layers" else leaf[None]
        sizes: list[int] = []
        for name, size in zip(axes[path][-stacked.ndim + 1 :], stacked.shape[1:], strict=True):
            if name == "head" and sizes:
                sizes[-1] *= size
            else:
                sizes.append(size)
        if len(sizes) == 2:
            found[path] = stacked.reshape(-1, *sizes)
    return found


def sizes(lm: LanguageModel, length: int) -> Table:
    """Parameters of each part of a model, and the FLOPs of its matrix products per token of a text of `length` on the
    way forward: two for each parameter of a matrix, and attention's own, which depend on the length."""
    parts: dict[str, list[int]] = {}
    multiplied = matrices(lm)
    for path, leaf in plain(lm).items():
        name = path.rpartition("/")[0] or path
        counts = parts.setdefault(name.replace("/layers/", "/"), [0, 0])
        counts[0] += leaf.size
        counts[1] += 2 * leaf.size * (path in multiplied and path.endswith(("kernel", "output")))
    if lm.config.head.tied:
        parts["output (the embedding again)"] = [0, 2 * lm.config.vocabulary * lm.config.width]
    total = flops.train_flops(lm.config, Data(length=length)) / 3 / length
    rest = total - sum(counted for _, counted in parts.values())
    parts[f"attention over {length} places"] = [0, round(rest)]
    return Table(
        {
            "part": [*parts, "all"],
            "parameters": [*(f"{size:,}" for size, _ in parts.values()), f"{models.size(lm.params):,}"],
            "MFLOPs per token": [*(counted / 1e6 for _, counted in parts.values()), total / 1e6],
        }
    )


def norms(lm: LanguageModel) -> ByLayer:
    """The root mean square of the values of every parameter, by layer."""
    axes = models.flatten(models.axes(adapters.plain(lm.config)))
    return {path: _rms(leaf if axes[path][0] == "layers" else leaf[None]) for path, leaf in plain(lm).items()}


def _rms(stacked: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(stacked).reshape(len(stacked), -1).mean(axis=1))


def spectra(lm: LanguageModel, ending: str = "") -> dict[str, Float[np.ndarray, "layers rank"]]:
    """The singular values of every matrix whose path ends so, descending."""
    return {path: singular_values(stack) for path, stack in matrices(lm).items() if path.endswith(ending)}


def singular_values(stack: Float[np.ndarray, "layers inputs outputs"]) -> Float[np.ndarray, "layers rank"]:
    """Descending. They are roots of eigenvalues of the smaller Gram matrix in float64, many times faster than a
    decomposition; those below 1e-7 of the largest are rounding."""
    wide = stack.astype(np.float64)
    wide = wide if wide.shape[1] <= wide.shape[2] else wide.transpose(0, 2, 1)
    eigenvalues = np.linalg.eigvalsh(wide @ wide.transpose(0, 2, 1))
    return np.sqrt(np.maximum(eigenvalues[:, ::-1], 0))


def difference(base: LanguageModel, other: LanguageModel) -> ByLayer:
    """How far each parameter has moved, by layer: the norm of the difference over the norm in `base`.

    Raises:
      InputError: if the models have not the same parameters.
    """
    ours, theirs = plain(base), plain(other)
    different = [path for path in ours.keys() | theirs.keys() if _shape(ours, path) != _shape(theirs, path)]
    if different:
        raise InputError(f"these are models of different shapes: {', '.join(sorted(different)[:5])}")
    axes = models.flatten(models.axes(adapters.plain(base.config)))
    moved = {}
    for path, leaf in ours.items():
        one, change = (x if axes[path][0] == "layers" else x[None] for x in (leaf, theirs[path] - leaf))
        moved[path] = _rms(change) / np.maximum(_rms(one), 1e-12)
    return moved


def _shape(leaves: Mapping[str, np.ndarray], path: str) -> tuple[int, ...] | None:
    return leaves[path].shape if path in leaves else None


def adapters_spectra(lm: LanguageModel) -> dict[str, Float[np.ndarray, "layers rank"]]:
    """Of what LoRA adds to each kernel, alpha / rank * A B, the singular values; there are as many as its rank.

    Raises:
      InputError: if the model has no adapters.
    """
    lora, leaves = lm.config.lora, models.flatten(lm.params)
    if lora is None:
        raise InputError("this model has no adapters")
    found = {}
    for path, b in leaves.items():
        if path.endswith("lora_b"):
            a = np.asarray(leaves[path.removesuffix("b") + "a"], np.float64)
            a = a.reshape(a.shape[0] if "/layers/" in path else 1, -1, lora.rank)
            b = np.asarray(b, np.float64).reshape(len(a), lora.rank, -1)
            small = np.linalg.qr(a).R @ np.linalg.qr(b.transpose(0, 2, 1)).R.transpose(0, 2, 1)
            values = np.linalg.svd(small, compute_uv=False)
            found[path.rpartition("/")[0]] = lora.alpha / lora.rank * values
    return found


def neighbours(lm: LanguageModel, token: str, count: int = 8) -> Table:
    """The tokens whose embeddings have the largest cosine with that of the text's first token."""
    table = np.asarray(lm.params["embedding"], np.float32)[: lm.tokenizer.size]
    unit = table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)
    own = lm.tokenizer.encode(token)[0]
    cosines = unit @ unit[own]
    best = np.argsort(-cosines)
    best = best[best != own][:count]
    return Table({"token": lm.tokenizer.pieces(best), "cosine": cosines[best].tolist()})
