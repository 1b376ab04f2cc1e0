"""`metrics.jsonl`: one record a line, each with a checksum, after a line with the number of the format.

A record is a dictionary with a "kind" ("train", "held_out", "tasks", "samples" or "probes") and a "step".
"""

import json
import logging
import os
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from research.errors import InputError
from research.runs import forms
from research.runtime import files

FILE, DAMAGED = "metrics.jsonl", "metrics.damaged.jsonl"
FORMAT = 2  # 1: without this number and without checksums
MARK = ', "crc": "'  # ends the content of a line; eight hexadecimal digits of CRC-32 and "} follow
STORED = 60.0  # seconds after which a file is closed, since a mounted bucket has what is in closed files
log = logging.getLogger(__name__)


class Content(NamedTuple):
    """What a file has."""

    records: list[dict[str, Any]]
    damaged: list[tuple[int, bytes]]  # lines that are not as they were written, with their numbers from 1
    cut: bool  # the last line is not whole, as a killed process leaves it


def encode(record: dict[str, Any]) -> str:
    """A line, with its end."""
    body = json.dumps(record)[:-1]
    return f'{body}{MARK}{zlib.crc32(body.encode()):08x}"}}\n'


def read(path: Path) -> list[dict[str, Any]]:
    """All records that are as they were written. A damaged line is named and left out.

    Raises:
      InputError: if the file has another format.
    """
    content = examine(path)
    for number, _ in content.damaged:
        log.warning("%s: line %d is damaged and left out", path, number)
    return content.records


def examine(path: Path) -> Content:
    """Reads a file that may be damaged, or not exist. Raises InputError if it has another format."""
    try:
        data = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    lines = data.split(b"\n")
    last, checked = lines.pop(), MARK.encode() in data
    records, damaged = [], []
    for number, line in enumerate(lines, start=1):
        record = _decode(line, checked)
        if record is None:
            damaged.append((number, line))
        elif "format" not in record:
            records.append(record)
        elif record["format"] != FORMAT:
            raise InputError(f"{path} has format {record['format']}; this version reads {FORMAT} and 1")
    return Content(records, damaged, bool(last))


def _decode(line: bytes, checked: bool) -> dict[str, Any] | None:
    """The record of a line; None: it is damaged, or is not of the form that its kind has."""
    try:
        record = json.loads(line)
        body, mark, crc = line.decode().rpartition(MARK)
        if not isinstance(record, dict) or (mark and crc != f'{zlib.crc32(body.encode()):08x}"}}'):
            return None
    except (ValueError, RecursionError):
        return None
    record.pop("crc", None)
    whole = bool(mark) or not checked
    return record if whole and ("format" in record or not forms.wrong_record(record)) else None


class RecordFile:
    """Appends records. What cannot be written now is kept in memory and written with a later record."""

    def __init__(self, path: Path, start: int, say: Callable[[str], None]) -> None:
        """On resuming at step `start`, records that will be made again are dropped: of later steps, and of the
        evaluation after the last one. Damaged lines are moved to `metrics.damaged.jsonl`."""
        self.path, self.say, self.failed = path, say, False
        content = examine(path)
        kept = [record for record in content.records if record["step"] <= start and not record.get("final")]
        text = "".join(map(encode, [{"format": FORMAT}, *kept]))
        if content.damaged:
            numbers = ", ".join(str(number) for number, _ in content.damaged)
            say(f"{path}: damaged lines are moved to {DAMAGED}: {numbers}")
            aside = path.with_name(DAMAGED)
            earlier = aside.read_bytes() if aside.exists() else b""
            files.write_atomically(aside, earlier + b"".join(line + b"\n" for _, line in content.damaged))
        if not path.exists() or path.read_bytes() != text.encode():
            files.write_atomically(path, text)
        self.size = len(text)  # bytes, for JSON is ASCII
        self.pending: list[str] = []
        self.file: TextIO | None = None
        self.opened = 0.0

    def write(self, record: dict[str, Any]) -> None:
        """Appends a record, with those that wait."""
        self.pending.append(encode(record))
        self.flush()
        if self.file is not None and time.monotonic() - self.opened > STORED:
            self.store()

    def flush(self) -> None:
        """Writes what waits, if that is possible now; says once that it is not, and once that it is again."""
        text = "".join(self.pending)
        try:
            if self.file is None:
                if self.path.stat().st_size > self.size:
                    os.truncate(self.path, self.size)  # half a line of an earlier try
                self.file, self.opened = self.path.open("a", encoding="utf-8"), time.monotonic()
            self.file.write(text)
            self.file.flush()
        except OSError as error:
            self._close()
            if not self.failed:
                self.say(f"{self.path} cannot be written now ({error.strerror}); records are kept in memory")
            self.failed = True
            return
        if self.failed:
            self.say(f"{self.path} is written again, with the {len(self.pending):,} records that waited")
            self.failed = False
        self.size += len(text)
        self.pending.clear()

    def store(self) -> None:
        """What was recorded lasts, as it must when a checkpoint is saved: a mounted bucket may lose what was written to
        a file that is not yet closed."""
        self.flush()
        if self.file is not None:
            with suppress(OSError, ValueError):
                os.fsync(self.file.fileno())
        self._close()

    def close(self) -> None:
        """Says what was not written, if anything was not."""
        if self.pending:
            self.flush()
        if self.pending:
            self.say(f"{self.path}: the last {len(self.pending):,} records could not be written")
        self._close()

    def _close(self) -> None:
        if self.file is not None:
            with suppress(OSError):
                self.file.close()
        self.file = None
