"""A store that was damaged is named, and only what is read is verified."""

import json

import pytest

from research.data import sources, store, token_files, tokenising, tokenizers
from research.errors import InputError

BYTES = tokenizers.load("bytes")


def lines(folder, *texts):
    """A source of one document a line."""
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return sources.open_source(f"jsonl:{folder / 'texts.jsonl'}#text")


def damage(path, change):
    content = bytearray(path.read_bytes())
    path.write_bytes(change(content))


def flipped(place):
    def change(content):
        content[place] ^= 1
        return content

    return change


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("tokens.bin", flipped(-1)),
        ("tokens.bin", flipped(70_000)),
        ("tokens.bin", lambda content: content[:-2]),
        ("tokens.bin", lambda content: content + b"ab"),
        ("offsets.npy", flipped(-3)),
        ("offsets.npy", flipped(10)),
        ("offsets.npy", lambda content: content[:-8]),
        ("checksums.npy", flipped(-1)),
        ("checksums.npy", lambda content: b""),
        ("meta.json", lambda content: content[:-9]),
        ("meta.json", lambda content: content.replace(b"uint16", b"object")),
        ("meta.json", lambda content: content.replace(b'"documents": 40', b'"documents": 99')),
    ],
)
def test_a_store_that_has_changed_is_named(tmp_path, file, change):
    prepared = tokenising.prepare(lines(tmp_path, *("x" * 2000 for _ in range(40))), BYTES, tmp_path)
    whole = prepared.read(0, prepared.meta["tokens"])
    assert len(whole) == prepared.meta["tokens"] == sum(len(prepared.part(n)) for n in range(prepared.documents))
    damage(prepared.folder / file, change)
    with pytest.raises(InputError, match=r"is damaged .*; delete the folder, and it is made again"):
        again = store.Store(prepared.folder)
        for document in range(again.documents):
            again.part(document)


def test_only_what_is_read_is_verified(tmp_path):
    prepared = tokenising.prepare(lines(tmp_path, *("x" * 2000 for _ in range(100))), BYTES, tmp_path)
    assert prepared.meta["tokens"] * 2 > 3 * token_files.VERIFIED
    damage(prepared.folder / "tokens.bin", flipped(-1))
    again = store.Store(prepared.folder)
    assert again.part(0).tolist() == prepared.part(0).tolist()
    with pytest.raises(InputError, match=r"tokens\.bin is not as it was written"):
        again.part(99)
