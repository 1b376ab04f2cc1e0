"""CRC-32C (Castagnoli), the checksum of TFRecord files, and the form in which they store it.

The checksum of a byte string follows from those of its parts, so long strings are cut into pieces whose bytes NumPy
looks up together.
"""

from functools import cache
from typing import Any

import numpy as np

POLYNOMIAL = 0x82F63B78  # reversed
SHORT = 4096  # bytes below which a plain loop is faster
PIECE = 512  # bytes of a piece of a long string


def masked_crc32c(data: bytes) -> int:
    """The checksum as TFRecord stores it: rotated by 15 bits, plus a constant (tensorflow/core/lib/hash/crc32c.h)."""
    value = crc32c(data)
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """The checksum itself; that of b"123456789" is 0xE3069283 (RFC 3720, B.4)."""
    if len(data) < SHORT:
        table = _table_as_tuple()
        state = 0xFFFFFFFF
        for byte in data:
            state = table[(state ^ byte) & 0xFF] ^ (state >> 8)
        return state ^ 0xFFFFFFFF
    first = bytes(byte ^ 0xFF for byte in data[:4])  # as beginning with 0xFFFFFFFF, but from a state of 0
    whole = -(-len(data) // PIECE) * PIECE  # zeros before the data leave a state of 0 as it is
    pieces = np.frombuffer((first + data[4:]).rjust(whole, b"\0"), np.uint8).reshape(-1, PIECE)
    lookup, states = _table(), np.zeros(len(pieces), np.uint32)
    for column in np.ascontiguousarray(pieces.T):
        states = lookup[(states ^ column) & 0xFF] ^ (states >> 8)
    state = 0
    low, middle, high, top = _shift_by_a_piece()
    for piece in states.tolist():
        state = low[state & 0xFF] ^ middle[state >> 8 & 0xFF] ^ high[state >> 16 & 0xFF] ^ top[state >> 24] ^ piece
    return state ^ 0xFFFFFFFF


@cache
def _table() -> Any:
    """uint32 `[256]`: the state after one byte, from a state of 0."""
    states: Any = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        states = (states >> 1) ^ np.where(states & 1, np.uint32(POLYNOMIAL), np.uint32(0))
    return states


@cache
def _table_as_tuple() -> tuple[int, ...]:
    return tuple(_table().tolist())


@cache
def _shift_by_a_piece() -> tuple[tuple[int, ...], ...]:
    """`[4][256]`: what each byte of a state becomes after PIECE zero bytes."""
    table, tables = _table(), []
    for place in range(4):
        states: Any = np.arange(256, dtype=np.uint32) << np.uint32(8 * place)
        for _ in range(PIECE):
            states = table[states & 0xFF] ^ (states >> 8)
        tables.append(tuple(states.tolist()))
    return tuple(tables)
