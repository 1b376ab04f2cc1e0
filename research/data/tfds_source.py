"""Prepared TensorFlow Datasets, read without TensorFlow.

`NAME/CONFIG` is looked up below the environment's TFDS_DATA_DIR (the default of tfds is ~/tensorflow_datasets); it may
also be the path of a folder that holds a `dataset_info.json`. ArrayRecord files must be local or mounted, TFRecord
files may be in a bucket.
"""

import re
import struct
from collections.abc import Callable, Iterator
from typing import Any

import fsspec
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource
from etils import epath

from research.data.crc32c import masked_crc32c
from research.data.records import DataSource, Record, SkippedRecord, SourceFile, checked, version
from research.errors import InputError

SPEC = re.compile(r"(?P<name>.+):(?P<split>\w+(\[[^\]]*\])?(\+\w+(\[[^\]]*\])?)*)(#(?P<fields>[^#]+))?")
READ_AHEAD = 256  # records


def open_tfds(name: str) -> DataSource:
    """The source of a `tfds:` name.

    Raises:
      InputError: if the dataset is not prepared here, its format cannot be read, or it lacks the split or a field.
    """
    parsed = SPEC.fullmatch(name.removeprefix("tfds:"))
    if parsed is None:
        raise InputError(f"data source {name!r} is not of the form tfds:NAME/CONFIG:SPLIT[#FIELD[,FIELD2]]")
    info, reader, shards = _parts(name, parsed)
    if not isinstance(info.features, tfds.features.FeaturesDict):
        raise InputError(f"data source {name!r}: its examples have no named features, but are {info.features}")
    fields = tuple((parsed["fields"] or "text").split(","))
    if len(fields) > 2 or not set(fields) <= set(info.features):
        raise InputError(f"data source {name!r}: choose one or two fields among {sorted(info.features)}, as in #FIELD")

    def file(shard: Any) -> SourceFile:
        def records() -> Iterator[Record | SkippedRecord]:
            for number, raw in reader(shard):
                yield _record(f"{shard.filename}:{number}", raw, info.features, fields)

        system, path = fsspec.core.url_to_fs(str(shard.filename))
        try:
            found = system.info(path)
        except (OSError, ValueError) as error:  # a name may have characters that no file's has
            raise InputError(f"data source {name!r}: {shard.filename} cannot be read: {error}") from error
        return SourceFile(f"{shard.filename}[{shard.skip}:+{shard.take}]", found["size"], version(found), records)

    return DataSource(name, len(fields), tuple(map(file, shards)))


def tfds_examples(name: str) -> Iterator[dict[str, Any]]:
    """Every example of `NAME/CONFIG:SPLIT` with all its features, for tasks.

    Raises:
      InputError: as `open_tfds`, or if an example is damaged.
    """
    parsed = SPEC.fullmatch(name)
    if parsed is None:
        raise InputError(f"TFDS dataset {name!r} is not of the form NAME/CONFIG:SPLIT")
    info, reader, shards = _parts(name, parsed)
    for shard in shards:
        for number, raw in reader(shard):
            try:
                yield info.features.deserialize_example_np(raw)
            except Exception as error:
                raise InputError(f"{shard.filename} is damaged at record {number}") from error


def _parts(name: str, parsed: re.Match[str]) -> tuple[Any, Callable[[Any], Iterator[tuple[int, bytes]]], list[Any]]:
    """What is known of a dataset, how its files are read, and the parts of them that make the split."""
    info = _info(name, parsed["name"])
    readers = {tfds.core.FileFormat.ARRAY_RECORD: _array_record, tfds.core.FileFormat.TFRECORD: _tfrecord}
    if info.file_format not in readers:
        raise InputError(f"data source {name!r} is in the format {info.file_format}; prepare it as array_record")
    try:
        return info, readers[info.file_format], info.splits[parsed["split"]].file_instructions
    except Exception as error:  # no such split, no such slice, or numbers of shards that make no sense
        raise InputError(f"data source {name!r}: {_line(error)}; its splits are {sorted(info.splits)}") from error


def _info(name: str, dataset: str) -> Any:
    """What is known of a prepared dataset, without its code, which may need TensorFlow."""
    try:
        if dataset.startswith(("/", ".", "~")) or "://" in dataset:
            return tfds.builder_from_directory(epath.Path(dataset).expanduser()).info
        return tfds.core.read_only_builder.builder_from_files(dataset).info
    except Exception as error:  # not there, or what the parsers of a damaged description meet first
        raise InputError(
            f"data source {name!r}: no such prepared dataset; set TFDS_DATA_DIR to where it is, or prepare it with "
            f"`tfds build {dataset} --file_format=array_record` ({_line(error)})"
        ) from error


def _record(place: str, raw: bytes, features: Any, fields: tuple[str, ...]) -> Record | SkippedRecord:
    try:
        example = features.deserialize_example_np(raw)
    except Exception:  # whatever the parser of a damaged example meets first
        return SkippedRecord(place, "damaged example")
    return checked(place, (example[field] for field in fields), fields)


def _array_record(shard: Any) -> Iterator[tuple[int, bytes]]:
    """Pairs (number in the file, serialized example)."""
    start = shard.skip
    try:
        with ArrayRecordDataSource([str(shard.filename)]) as source:
            last = shard.skip + shard.take
            if last > len(source):
                raise InputError(f"{shard.filename} has {len(source)} records, not the {last} described")
            for start in range(shard.skip, last, READ_AHEAD):
                numbers = range(start, min(start + READ_AHEAD, last))
                yield from zip(numbers, source.__getitems__(list(numbers)), strict=True)
    except (RuntimeError, SystemError, ValueError, IndexError, OSError) as error:  # as its reader finds damage
        if isinstance(error, InputError):
            raise
        place = f"{shard.filename} is cut off or damaged at record {start} or after"
        raise InputError(f"{place}: {_line(error)}") from error


def _tfrecord(shard: Any) -> Iterator[tuple[int, bytes]]:
    """Pairs (number in the file, serialized example). A record is its length (uint64), a checksum of that (uint32), the
    data, and a checksum of it (uint32); checksums are those of `crc32c.py`, of all that is read."""
    system, path = fsspec.core.url_to_fs(str(shard.filename))
    try:
        left, opened = system.size(path), system.open(path, "rb")
    except OSError as error:
        raise InputError(f"{shard.filename} cannot be read: {error}") from error
    with opened as file:
        for number in range(shard.skip + shard.take):
            header = file.read(12)
            length, checksum = struct.unpack("<QI", header) if len(header) == 12 else (0, -1)
            left -= 16 + length
            if left < 0 or masked_crc32c(header[:8]) != checksum:  # before anything is allocated by that length
                raise InputError(f"{shard.filename} is cut off or damaged at record {number}")
            if number < shard.skip:
                file.seek(length + 4, 1)
                continue
            data = file.read(length)
            if file.read(4) != struct.pack("<I", masked_crc32c(data)):
                raise InputError(f"{shard.filename} is damaged at record {number}: its checksum differs")
            yield number, data


def _line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
