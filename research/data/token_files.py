"""The tokens of one `tokens.bin`, mapped where it is a local file, or read by ranges where it is at an address (gs://…).

A block of VERIFIED bytes is compared with its checksum when it is read first; one from an address each time it comes
from there. Such blocks are kept on this machine's disk in one file per process, which has a bounded size, is named
nowhere and is gone with the process.
"""

import functools
import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

import fsspec
import numpy as np
import xxhash

from research.errors import InputError

VERIFIED = 1 << 16  # bytes of a checksum
CACHED = "RESEARCH_BLOCK_CACHE_GIB"  # in the environment: how much of the disk blocks from addresses may take
GIB = 1 << 30
Damaged = Callable[[str], InputError]  # of what is said


class TokenFile(Protocol):
    """What both kinds can do."""

    def read(self, first: int, last: int) -> np.ndarray:
        """int32: the tokens `first` to `last - 1`, verified. Raises InputError if they are damaged."""


def open_tokens(address: str, dtype: str, tokens: int, checksums: np.ndarray, damaged: Damaged) -> TokenFile:
    """A file of so many tokens. `checksums`: of its blocks, in order."""
    kind = Distant if "://" in address else Mapped
    return kind(address, np.dtype(dtype), tokens, checksums, damaged)


def checksum(array: np.ndarray) -> int:
    """xxHash3 of the array's bytes."""
    return xxhash.xxh3_64_intdigest(array.data)


def blocks(tokens: int, itemsize: int) -> int:
    """How many checksums a file of so many tokens has."""
    return -(-tokens * itemsize // VERIFIED)


def check_size(path: str, tokens: int, dtype: np.dtype | str, damaged: Damaged) -> None:
    """Raises InputError if a local file is not as long as so many tokens."""
    try:
        found, size = os.stat(path).st_size, tokens * np.dtype(dtype).itemsize
    except OSError as error:
        raise damaged(str(error)) from error
    if found != size:
        raise damaged(f"{os.path.basename(path)} has {found:,} bytes instead of {size:,}")


class Mapped:
    """A local file, or one of a mounted bucket: the operating system keeps in memory what fits."""

    def __init__(self, path: str, dtype: np.dtype, tokens: int, checksums: np.ndarray, damaged: Damaged) -> None:
        check_size(path, tokens, dtype, damaged)
        try:
            self.tokens = np.memmap(path, dtype, "r").view(np.ndarray)
        except OSError as error:
            raise damaged(str(error)) from error
        self.checksums, self.damaged, self.step = checksums, damaged, VERIFIED // dtype.itemsize
        self.verified = bytearray(len(checksums))

    def read(self, first: int, last: int) -> np.ndarray:
        for block in range(first // self.step, -(-last // self.step) if last > first else 0):
            if not self.verified[block]:
                stored = self.tokens[block * self.step : (block + 1) * self.step]
                _verify(stored, block, self.checksums, self.damaged)
                self.verified[block] = 1
        return self.tokens[first:last].astype(np.int32)


class Distant:
    """A file at an address of fsspec."""

    def __init__(self, address: str, dtype: np.dtype, tokens: int, checksums: np.ndarray, damaged: Damaged) -> None:
        self.system, self.path = fsspec.core.url_to_fs(address)
        self.address, self.dtype, self.tokens = address, dtype, tokens
        self.checksums, self.damaged, self.step = checksums, damaged, VERIFIED // dtype.itemsize

    def read(self, first: int, last: int) -> np.ndarray:
        if last <= first:
            return np.zeros(0, np.int32)
        needed = range(first // self.step, -(-last // self.step))
        cache = _cache()
        found = {block: cache.get((self.address, block)) for block in needed}
        if missing := [block for block, data in found.items() if data is None]:
            found |= self._fetched(missing[0], missing[-1] + 1, cache)
        whole = np.concatenate([np.frombuffer(data, self.dtype) for block, data in sorted(found.items()) if data])
        begin = needed[0] * self.step
        return whole[first - begin : last - begin].astype(np.int32)

    def _fetched(self, first: int, last: int, cache: "BlockCache") -> dict[int, bytes]:
        """Blocks in one request."""
        end = min(last * VERIFIED, self.tokens * self.dtype.itemsize)
        try:
            data: bytes = self.system.cat_file(self.path, first * VERIFIED, end)
        except (OSError, ValueError) as error:
            raise InputError(f"{self.address} cannot be read: {error}") from error
        parts = {first + n: data[n * VERIFIED : (n + 1) * VERIFIED] for n in range(last - first)}
        for block, part in parts.items():
            _verify(np.frombuffer(part, np.uint8), block, self.checksums, self.damaged)
            cache.put((self.address, block), part)
        return parts


class BlockCache:
    """Blocks on the disk, of which those that were not asked for the longest give way."""

    def __init__(self, size: int) -> None:
        """`size`: bytes, in which at least one block is kept."""
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 as long as the process
        self.slots = max(1, size // VERIFIED)
        self.places: OrderedDict[Any, tuple[int, int]] = OrderedDict()  # key -> slot, bytes
        self.lock = threading.Lock()

    def get(self, key: Any) -> bytes | None:
        """A block; None: it is not here."""
        with self.lock:
            if key not in self.places:
                return None
            self.places.move_to_end(key)
            slot, size = self.places[key]
            return os.pread(self.file.fileno(), size, slot * VERIFIED)

    def put(self, key: Any, data: bytes) -> None:
        """Keeps a block."""
        with self.lock:
            if key in self.places:
                return
            full = len(self.places) == self.slots
            slot = self.places.popitem(last=False)[1][0] if full else len(self.places)
            os.pwrite(self.file.fileno(), data, slot * VERIFIED)
            self.places[key] = slot, len(data)


@functools.cache
def _cache() -> BlockCache:
    given = os.environ.get(CACHED, "16")
    if not given.isdecimal():
        raise InputError(f"{CACHED} is {given!r}, not a number of GiB such as 16")
    return BlockCache(int(given) * GIB)


def _verify(stored: np.ndarray, block: int, checksums: np.ndarray, damaged: Damaged) -> None:
    if checksum(stored) != int(checksums[block]):
        raise damaged(f"tokens.bin is not as it was written at byte {block * VERIFIED:,} or after")
