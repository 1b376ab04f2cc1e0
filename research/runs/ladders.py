"""Ladders of checkpoints: many that one pattern names, and what the training of published ones took."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from research.config import Data, Model
from research.data import hub
from research.errors import InputError
from research.runtime import files
from research.training import flops


@dataclass(frozen=True)
class Published:
    """How models of a ladder were trained, so that a revision's name tells how far."""

    name: str  # pattern of the last part of a checkpoint's name
    length: int  # tokens of a row
    tokens: int  # for each of what the revision counts
    revision: str  # pattern of a revision, or of the end of a name, whose group is the count
    source: str


PUBLISHED = (
    Published(
        r"pythia-\d+(\.\d+)?[mb](-deduped|-seed\d+)?",
        2048,
        2_097_152,
        r"step(\d+)",
        "EleutherAI/pythia: 299,892,736,000 tokens in 143,000 steps, in rows of 2,048; PolyPythias alike",
    ),
    Published(
        r"OLMo-2-\d+-\d+[BM]",
        4096,
        10**9,
        r"(?:stage1-step\d+-)tokens(\d+)B",
        "allenai/OLMo-2-1124-7B: rows of 4,096 tokens; a revision's name says its tokens, in 10^9",
    ),
    Published(
        r"multiberts-seed_\d+(-step_\d+k)?",
        512,
        256 * 512 * 1000,
        r".*-step_(\d+)k",
        "google/multiberts-seed_0: rows of 512 tokens; batches of 256, as BERT's (Devlin et al. 2019)",
    ),
)


@dataclass(frozen=True)
class Trained:
    """What the training of a published checkpoint took."""

    tokens: int
    flops: float  # forward and backward, with what causal attention computes, as `training.flops` counts
    source: str


def expand(names: Sequence[str]) -> list[str]:
    """Names in which each pattern with *, ? or [ has become the checkpoints that it matches, in the order of the
    numbers in their names: folders; for NAME@REVISION folders NAME/REVISION, and revisions in a cache of the hub; for
    the name of one repository with a pattern of revisions, those on the hub.

    Raises:
      InputError: if a pattern matches nothing.
    """
    found = []
    for name in names:
        matches = [name] if not _is_pattern(name) or files.expanded(name).exists() else _matching(name)
        if not matches:
            raise InputError(
                f"{name!r} matches no folder here, no repository in {hub.cached()}, and no revision on the hub"
            )
        found += matches
    return found


def trained(name: str, model: Model) -> Trained | None:
    """What the training of a checkpoint took, by its name; None if the table of published ones does not tell."""
    path, _, revision = name.partition("@")
    last = Path(path).name
    for each in PUBLISHED:
        count = re.fullmatch(each.revision, revision or last)
        if re.fullmatch(each.name, last) and count is not None:
            tokens = int(count[1]) * each.tokens
            causal = not model.norm.embedding
            of_row = flops.train_flops(model, Data(length=each.length), causal)
            return Trained(tokens, tokens / each.length * of_row, each.source)
    return None


def _is_pattern(name: str) -> bool:
    return any(letter in name for letter in "*?[")


def _matching(pattern: str) -> list[str]:
    name, _, revision = pattern.partition("@")
    root = files.expanded(name)
    whole = [str(path) for path in _glob(files.expanded(pattern)) if path.is_dir()]
    if not revision:
        return sorted(whole, key=_numbers)
    local = [str(path) for path in _glob(root)] if _is_pattern(name) else [str(root)] if root.is_dir() else []
    caches = [path for path in local if (Path(path) / "snapshots").is_dir()]
    found = whole + [f"{path}@{one}" for path in caches for one in _refs(Path(path)) if fnmatchcase(one, revision)]
    for path in (path for path in local if path not in caches):
        inside = [one.name for one in Path(path).glob(revision) if (one / "config.json").exists()]
        found += [f"{path}@{one}" for one in inside]
    if not found and name.count("/") == 1 and not name.startswith((".", "/", "~")):
        found = _of_hub(name, revision)
    return sorted(found, key=_numbers)


def _of_hub(name: str, revision: str) -> list[str]:
    """Of repositories in the cache of the hub; those of one that is named whole, from the hub itself."""
    cached = [path for path in hub.cached().glob("models--*--*") if path.is_dir()]
    repositories = {path.name.removeprefix("models--").replace("--", "/", 1): _refs(path) for path in cached}
    if not _is_pattern(name):
        repositories = {name: hub.revisions(name) or repositories.get(name, [])}
    matching = {one: refs for one, refs in repositories.items() if fnmatchcase(one, name)}
    return [f"{one}@{ref}" for one, refs in matching.items() for ref in refs if fnmatchcase(ref, revision)]


def _refs(cache: Path) -> list[str]:
    return [path.name for path in (cache / "refs").glob("*") if path.is_file()]


def _glob(pattern: Path) -> list[Path]:
    parts = pattern.parts
    first = next((number for number, part in enumerate(parts) if _is_pattern(part)), len(parts))
    if first == len(parts):
        return [pattern] if pattern.exists() else []
    return list(Path(*parts[:first]).glob(str(Path(*parts[first:]))))


def _numbers(name: str) -> list[tuple[int, int, str]]:
    """Orders names by the numbers in them: step1000 comes after step512."""
    return [(int(part.isdigit()), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", name)]
