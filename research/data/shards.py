"""Prepared data: sources that were tokenised once, in parallel over their files, for any number of hosts to train on.

`prepare CONFIG --data.prepared FOLDER` fills a folder, which may be a mounted bucket:

  tokenizer/                   as all of it was tokenised
  NAME-KEY/manifest.json       of a source: its name, tokenizer and format, and its shards in order, with their digests
  NAME-KEY/shard-KEY/          one file of the source as a store of its own (`store.py`)
  NAME-KEY/index-KEY/          all shards as one store: offsets, checksums, and where the tokens are
  NAME-KEY/plan-KEY/           which documents stand in which row (`packing.py`), for the objectives that need it

Everything appears at once when it is whole. A file that was added to the source becomes another shard at the end; one
that was changed replaces its shard; one that is gone keeps it. Training reads a prepared folder where it is, or at an
address (`gs://…`): then the index is copied to the cache, and tokens are read by ranges (`token_files.py`).
"""

import functools
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import fsspec
import numpy as np

from research.data import cache, sources, store, tokenising, tokenizers
from research.data.records import DataSource, SourceFile
from research.data.store import Store
from research.data.tokenizers import Tokenizer
from research.errors import InputError
from research.runtime import files

FORMAT = 1  # of a prepared folder
MANIFEST = "manifest.json"
NOTED = 5  # shards whose skipped records the index names


@dataclass(frozen=True)
class Part:
    """The share of one machine: of `count` machines the one with this number, from 0."""

    number: int = 0
    count: int = 1


@dataclass(frozen=True)
class Shard:
    """One file of a source."""

    path: str  # of the file
    version: str  # its size, and what its file system says of its state
    folder: str  # its store, beside the manifest
    documents: int
    tokens: int
    digest: str  # of its content


def home(source: str, tokenizer: Tokenizer, prefix: str) -> str:
    """The name of a source's folder in a prepared folder."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", source).strip("-")[:60]
    return f"{readable}-{cache.key(FORMAT, store.FORMAT, source, tokenizer.digest, prefix)}"


def keep_tokenizer(below: Path, tokenizer: Tokenizer) -> None:
    """Saves the tokenizer of all that a prepared folder will hold. Raises InputError if it has another one."""
    folder = below / "tokenizer"
    if not folder.is_dir():
        with cache.building(folder) as unfinished:  # of several machines, the first one's stays
            tokenizer.save(unfinished)
    if tokenizers.load(str(folder)).digest != tokenizer.digest:
        raise InputError(f"{below} holds data of another tokenizer; choose another folder with --data.prepared")


def read_tokenizer(prepared: str, below: Path) -> Tokenizer | None:
    """That of a prepared folder; None: it has none yet. From an address it is copied below the cache `below`."""
    if "://" not in prepared:
        folder = Path(prepared) / "tokenizer"
        return tokenizers.load(str(folder)) if folder.is_dir() else None
    address = f"{prepared}/tokenizer"
    return tokenizers.load(str(_copied(address, below))) if _listed(prepared, "tokenizer") else None


def make(
    below: Path,
    source: DataSource,
    tokenizer: Tokenizer,
    prefix: str,
    part: Part,
    workers: int,
    say: Callable[[str], None],
) -> Store | None:
    """Makes the shards of this part's files that are not there yet, and, as soon as those of all parts are there, the
    index. Returns the store of all of it; None: other parts have files left.

    Args:
      below: the prepared folder, with its tokenizer.
      workers: processes that tokenise files at the same time.
      say: is told what is done.

    Raises:
      InputError: if a file cannot be read, or nothing in any of them can be used.
    """
    folder = below / home(source.name, tokenizer, prefix)
    mine = [file for file in source.files[part.number :: part.count] if not (folder / _shard(file)).is_dir()]
    for file in mine:  # nobody else makes these, so what lies here is of a process that was killed
        for left in folder.glob(f"{files.UNFINISHED}{_shard(file)}-*"):
            shutil.rmtree(left, ignore_errors=True)
    wanted = [(folder / _shard(file), file.path) for file in mine]
    ready = _all_made(source, wanted, below / "tokenizer", prefix, workers)
    for number, (path, tokens) in enumerate(ready, start=1):
        say(f"{source.name}: {number:,} of {len(mine):,} files, {path}: {tokens:,} tokens")
    known = {file.path: _shard(file) for file in source.files}
    known = {shard.path: shard.folder for shard in _shards(folder)} | known  # earlier ones stay where they were
    missing = [path for path, name in known.items() if not (folder / name).is_dir()]
    if missing:
        say(f"{source.name}: {len(missing):,} of {len(known):,} files are left to other parts")
        return None
    versions = {shard.path: shard.version for shard in _shards(folder)}
    versions |= {file.path: _version(file) for file in source.files}
    shards = [_described(folder / name, path, versions[path]) for path, name in known.items()]
    return _indexed(folder, source, tokenizer, prefix, shards)


def open_prepared(prepared: str, source: str, tokenizer: Tokenizer, prefix: str, below: Path) -> Store:
    """The store of a source in a prepared folder or at an address, of which the index is copied below the cache.

    Raises:
      InputError: if it is not there, naming what is.
    """
    base = f"{prepared}/{home(source, tokenizer, prefix)}"
    content = _manifest(base)
    if content is None:
        there = sorted(_sources(prepared))
        raise InputError(
            f"data.prepared: {prepared} has no {source!r} of this tokenizer{f' and prefix {prefix!r}' * bool(prefix)}; "
            f"it has {', '.join(there) or 'nothing that is complete'}. The command `prepare` makes it of this config"
        )
    if "://" not in base:
        return Store(Path(base) / content["index"])
    copied = _copied(f"{base}/{content['index']}", below)
    for plan in _listed(base, "plan-"):
        _copied(f"{base}/{plan}", below, copied.parent)
    return Store(copied)


def _all_made(
    source: DataSource, wanted: list[tuple[Path, str]], tokenizer: Path, prefix: str, workers: int
) -> Iterator[tuple[str, int]]:
    """Makes the shards of these files; gives each file's path and its tokens, in the order in which they are ready."""
    if min(workers, len(wanted)) <= 1:
        yield from (_made(source, *each, tokenizer, prefix) for each in wanted)
        return
    with ProcessPoolExecutor(min(workers, len(wanted)), get_context("spawn")) as pool:
        running = [pool.submit(_made_elsewhere, source.name, *each, tokenizer, prefix) for each in wanted]
        try:
            for done in as_completed(running):
                yield done.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _made(source: DataSource, shard: Path, path: str, tokenizer: Path, prefix: str) -> tuple[str, int]:
    alone = DataSource(path, source.parts, tuple(file for file in source.files if file.path == path))
    with cache.building(shard) as unfinished:
        tokenising.write(unfinished, alone, tokenizers.load(str(tokenizer)), prefix, may_be_empty=True)
        files.sync_folder(unfinished)
    return path, int(Store(shard).meta["tokens"])


def _made_elsewhere(source: str, *rest: Any) -> tuple[str, int]:
    """In a process of its own, which looks for the files once."""
    return _made(_opened(source), *rest)


_opened = functools.cache(sources.open_source)


def _indexed(folder: Path, source: DataSource, tokenizer: Tokenizer, prefix: str, shards: list[Shard]) -> Store:
    """Writes index and manifest. Parts that end at the same time write the same."""
    used = [shard for shard in shards if shard.documents]
    skipped = [said for shard in shards if (said := Store(folder / shard.folder).skipped)]
    said = "; ".join(skipped[:NOTED]) + f"; and more in {len(skipped) - NOTED:,} other files" * (len(skipped) > NOTED)
    if not used:
        raise tokenising.nothing_usable(source.name, said)
    index = folder / f"index-{cache.key(FORMAT, [shard.digest for shard in shards])}"
    if not index.is_dir():
        stores = [Store(folder / shard.folder) for shard in used]
        with cache.building(index) as unfinished:
            count = sum(one.documents for one in stores) * source.parts
            offsets = tokenising.write_offsets(unfinished, count, (np.diff(one.offsets) for one in stores))
            np.save(unfinished / "checksums.npy", np.concatenate([one.checksums for one in stores]))
            pieces = [(f"{shard.folder}/tokens.bin", shard.tokens) for shard in used]
            dtype = stores[0].meta["dtype"]
            tokenising.write_meta(unfinished, source.name, source.parts, dtype, said, offsets, pieces=pieces)
            files.sync_folder(unfinished)
    content = {
        "format": FORMAT,
        "source": source.name,
        "tokenizer": tokenizer.digest,
        "prefix": prefix,
        "index": index.name,
        "documents": sum(shard.documents for shard in shards),
        "tokens": sum(shard.tokens for shard in shards),
        "shards": [asdict(shard) for shard in shards],
    }
    files.write_atomically(folder / MANIFEST, json.dumps(content, indent=1) + "\n")
    return Store(index)


def _described(folder: Path, path: str, version: str) -> Shard:
    one = Store(folder)
    return Shard(path, version, folder.name, one.documents, int(one.meta["tokens"]), one.digest)


def _shard(file: SourceFile) -> str:
    return f"shard-{cache.key(FORMAT, file.path, _version(file))}"


def _version(file: SourceFile) -> str:
    return f"{file.size} {file.version}"


def _shards(folder: Path) -> list[Shard]:
    """Those of the manifest, if there is one."""
    content = _manifest(str(folder))
    return [Shard(**each) for each in content["shards"]] if content else []


def _manifest(base: str) -> dict[str, Any] | None:
    """Of a source's folder or address; None: it is not complete."""
    data = _read(f"{base}/{MANIFEST}")
    if data is None:
        return None
    try:
        content: dict[str, Any] = json.loads(data)
        if content["format"] != FORMAT:
            raise InputError(f"{base} has format {content['format']}; this version reads {FORMAT}")
        if not isinstance(content["index"], str) or not isinstance(content["source"], str):
            raise TypeError("it is not as it was written")
    except (ValueError, LookupError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{base}/{MANIFEST} is damaged: {error}; run `prepare` again") from error
    return content


def _read(address: str) -> bytes | None:
    """A small file; None: there is none."""
    try:
        system, path = fsspec.core.url_to_fs(address)
        return bytes(system.cat_file(path))
    except FileNotFoundError:
        return None
    except (ImportError, ValueError, OSError) as error:
        raise InputError(f"{address} cannot be read: {error}") from error


def _listed(base: str, prefix: str) -> list[str]:
    """The names of the folders at an address that begin like this."""
    try:
        system, path = fsspec.core.url_to_fs(base)
        found = system.ls(path, detail=False)
    except FileNotFoundError:
        return []
    except (ImportError, ValueError, OSError) as error:
        raise InputError(f"{base} cannot be read: {error}") from error
    return [name for each in found if (name := each.rstrip("/").rpartition("/")[2]).startswith(prefix)]


def _sources(prepared: str) -> set[str]:
    """The sources that are complete in a prepared folder."""
    contents = (_manifest(f"{prepared}/{name}") for name in _listed(prepared, ""))
    return {content["source"] for content in contents if content}


def _copied(address: str, below: Path, parent: Path | None = None) -> Path:
    """A folder at an address, copied below the cache once; what its tokens are below is noted in an index."""
    base = address.rpartition("/")[0]
    parent = parent or below / f"prepared-{hashlib.sha256(base.encode()).hexdigest()[:24]}"

    def copy(unfinished: Path) -> None:
        system, path = fsspec.core.url_to_fs(address)
        with ThreadPoolExecutor(8) as pool:
            names = [name for name in system.find(path) if "/." not in name.removeprefix(path)]
            into = [unfinished / name.removeprefix(path).lstrip("/") for name in names]
            for one in into:
                one.parent.mkdir(parents=True, exist_ok=True)
            list(pool.map(system.get_file, names, map(str, into)))
        meta = unfinished / "meta.json"
        if meta.exists():
            content = json.loads(meta.read_text(encoding="utf-8"))
            meta.write_text(json.dumps({**content, "base": base}, indent=1) + "\n", encoding="utf-8")

    return cache.made(parent / address.rpartition("/")[2], copy)
