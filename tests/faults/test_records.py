"""`metrics.jsonl` with any bit flipped or cut anywhere: what is read is what was written, and only a damaged line is
missing."""

import errno
import json

import pytest

from research.errors import InputError
from research.runs import records
from research.runs.records import RecordFile, encode, examine, read


def record(step):
    return {"kind": "held_out", "step": step, "losses": {"causal": 1 / step}}


RECORDS = [record(step) for step in range(1, 5)]


def written(path):
    path.write_text("".join(map(encode, [{"format": records.FORMAT}, *RECORDS])))
    return RECORDS


def test_every_flipped_bit_costs_its_own_line_alone(tmp_path):
    path = tmp_path / "metrics.jsonl"
    whole = written(path)
    data = path.read_bytes()
    for place in range(len(data)):
        for bit in range(0, 8, 3):
            flipped = data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]
            path.write_bytes(flipped)
            content = examine(path)
            assert all(each in whole for each in content.records), (place, bit)
            lost = len(whole) - len(content.records)
            newline = data[place : place + 1] == b"\n" or flipped[place : place + 1] == b"\n"
            assert lost <= (2 if newline else 1), (place, bit)


def test_a_cut_costs_the_last_line_alone(tmp_path):
    path = tmp_path / "metrics.jsonl"
    whole = written(path)
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place])
        content = examine(path)
        assert content.records == whole[: len(content.records)] and not content.damaged
        assert len(content.records) >= data[:place].count(b"\n") - 1


def test_a_damaged_line_is_named_and_set_aside(tmp_path):
    path, said = tmp_path / "metrics.jsonl", []
    whole = written(path)
    lines = path.read_text().splitlines(keepends=True)
    lines[2] = lines[2].replace("held_out", "hold_out")
    path.write_text("".join(lines))
    RecordFile(path, 3, said.append).close()
    assert said == [f"{path}: damaged lines are moved to {records.DAMAGED}: 3"]
    assert (tmp_path / records.DAMAGED).read_text() == lines[2]
    assert read(path) == [whole[0], whole[2]]  # of the fourth step there was none yet at the checkpoint


def test_records_without_checks_are_read_too(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(record(1)) + '\n{"kind": "held_out", "st')
    assert read(path) == [record(1)]


def test_what_cannot_be_written_waits(tmp_path, monkeypatch):
    path, said = tmp_path / "metrics.jsonl", []
    file = RecordFile(path, 0, said.append)
    file.write(record(1))
    real = type(path).open

    def half(self, mode="r", **settings):
        """Writes a part and fails, as a disk does that fills up."""
        opened = real(self, mode, **settings)
        opened.write('{"kind": "tr')
        opened.close()
        raise OSError(errno.ENOSPC, "No space left on device")

    file.store()
    monkeypatch.setattr(type(path), "open", half)
    for step in (2, 3):
        file.write(record(step))
    monkeypatch.undo()
    file.write(record(4))
    file.close()
    assert [each["step"] for each in read(path)] == [1, 2, 3, 4] and not examine(path).damaged
    assert len(said) == 2 and "kept in memory" in said[0] and "3 records that waited" in said[1]


def test_another_format_is_refused_with_both_numbers(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(encode({"format": 9}))
    with pytest.raises(InputError, match="has format 9; this version reads 2 and 1"):
        read(path)
