"""The token store: a source that was tokenised once (`tokenising.py`), as memory-mapped files.

A store is a folder of `tokens.bin` (all documents one after the other, in the smallest unsigned dtype that holds the
vocabulary), `offsets.npy` (int64 `[documents * parts + 1]`: part p of document d begins at `offsets[d * parts + p]`),
`checksums.npy` (uint64: xxHash3 of each VERIFIED bytes of `tokens.bin`) and `meta.json`. What is read is verified when
it is read for the first time, so a changed byte is never trained on. The tokens of an index (`shards.py`) are in the
files that its `meta.json` lists as `pieces`, instead.
"""

import json
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from research.data.token_files import TokenFile, blocks, check_size, checksum, open_tokens
from research.errors import InputError

FORMAT = 4  # of a token store


@dataclass(frozen=True)
class Store:
    """Documents as tokens. Every property raises InputError where the store is damaged."""

    folder: Path

    @cached_property
    def meta(self) -> dict[str, Any]:
        """source, parts, documents, tokens, dtype, skipped, the checksum of the offsets; of an index its pieces, and
        the folder or address that they are below."""
        try:
            meta: dict[str, Any] = json.loads((self.folder / "meta.json").read_text(encoding="utf-8"))
            sizes = [meta["parts"], meta["documents"], meta["tokens"], meta["offsets"]]
            right = all(isinstance(size, int) and size >= 0 for size in sizes) and meta["parts"] in (1, 2)
            right &= meta["dtype"] in ("uint8", "uint16", "uint32")
            right &= isinstance(meta["source"], str) and isinstance(meta["skipped"], str)
            if "pieces" in meta:
                pieces = [(path, count) for path, count in meta["pieces"] if count >= 0 and isinstance(path, str)]
                right &= isinstance(meta.get("base", ""), str)
                right &= len(pieces) == len(meta["pieces"]) and sum(n for _, n in pieces) == meta["tokens"]
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise self._damaged(f"meta.json: {error}") from error
        if not right:
            raise self._damaged("meta.json has values that none is written with")
        return meta

    @cached_property
    def _pieces(self) -> list[tuple[str, int]]:
        """The files of tokens in their order, with the number of tokens of each."""
        if "pieces" not in self.meta:
            return [(str(self.folder / "tokens.bin"), self.meta["tokens"])]
        base = self.meta.get("base") or str(self.folder.parent)
        return [(f"{base}/{path}", count) for path, count in self.meta["pieces"]]

    @cached_property
    def _starts(self) -> list[int]:
        """The first token of each file among all, and the end."""
        return [0, *accumulate(count for _, count in self._pieces)]

    @cached_property
    def _files(self) -> dict[int, TokenFile]:
        """Those that were opened."""
        return {}

    def _file(self, number: int) -> TokenFile:
        if number not in self._files:
            (path, count), dtype = self._pieces[number], self.meta["dtype"]
            size = np.dtype(dtype).itemsize
            first = sum(blocks(each, size) for _, each in self._pieces[:number])
            checksums = self.checksums[first : first + blocks(count, size)]
            self._files[number] = open_tokens(path, dtype, count, checksums, self._damaged)
        return self._files[number]

    @cached_property
    def offsets(self) -> np.ndarray:
        """Where each part of each document begins, and the end."""
        try:
            offsets = np.load(self.folder / "offsets.npy", mmap_mode="r").view(np.ndarray)
        except Exception as error:  # the header of an .npy is a Python literal, and its parser raises what it meets
            raise self._damaged(f"offsets.npy: {error}") from error
        shape = (self.documents * self.parts + 1,)
        if offsets.shape != shape or offsets.dtype != np.int64 or checksum(offsets) != self.meta["offsets"]:
            raise self._damaged("offsets.npy is not as it was written")
        return offsets

    @cached_property
    def checksums(self) -> np.ndarray:
        """uint64: of each block of VERIFIED bytes of each file of tokens."""
        if "pieces" not in self.meta:  # a file that is cut short is found before anything is read
            check_size(str(self.folder / "tokens.bin"), self.meta["tokens"], self.meta["dtype"], self._damaged)
        try:
            checksums = np.load(self.folder / "checksums.npy")
        except Exception as error:
            raise self._damaged(f"checksums.npy: {error}") from error
        size = np.dtype(self.meta["dtype"]).itemsize
        if checksums.shape != (sum(blocks(n, size) for _, n in self._pieces),) or checksums.dtype != np.uint64:
            raise self._damaged("checksums.npy is not as it was written")
        return checksums

    def read(self, first: int, last: int) -> np.ndarray:
        """int32: the tokens `first` to `last - 1` of all, verified."""
        number = min(bisect_right(self._starts, first), len(self._pieces)) - 1
        if last <= self._starts[number + 1]:
            return self._file(number).read(first - self._starts[number], last - self._starts[number])
        parts = []
        while first < last:
            end = min(last, self._starts[number + 1])
            parts.append(self._file(number).read(first - self._starts[number], end - self._starts[number]))
            first, number = end, number + 1
        return np.concatenate(parts)

    @cached_property
    def digest(self) -> str:
        """Of the content, wherever and whenever it was made."""
        facts = json.dumps([self.meta[name] for name in ("parts", "documents", "tokens", "dtype", "offsets")])
        return f"{xxhash.xxh3_64_intdigest(facts.encode() + self.checksums.tobytes()):016x}"

    def _damaged(self, what: str) -> InputError:
        return InputError(f"the token store {self.folder} is damaged ({what}); delete the folder, and it is made again")

    @cached_property
    def bounds(self) -> memoryview:
        """The offsets again, of which single ones are read faster here."""
        return self.offsets.data

    @cached_property
    def parts(self) -> int:
        """1: documents, 2: pairs."""
        return int(self.meta["parts"])

    @cached_property
    def documents(self) -> int:
        """How many."""
        return int(self.meta["documents"])

    def part(self, document: int, part: int = 0, begin: int = 0, end: int | None = None) -> np.ndarray:
        """int32: tokens `begin` to `end` of one part of a document."""
        place = document * self.parts + part
        first, last = self.bounds[place], self.bounds[place + 1]
        stop = last if end is None else min(first + end, last)
        return self.read(first + begin, max(stop, first + begin))

    @property
    def skipped(self) -> str:
        """What could not be used, in words; empty if there was nothing."""
        return str(self.meta["skipped"])

    def __reduce__(self) -> Any:  # mapped files must not travel to worker processes
        return Store, (self.folder,)
