"""A run folder is claimed for one experiment, where checkpoints can be saved."""

import errno
from pathlib import Path

import pytest

from research.data import tokenizers
from research.errors import InputError
from research.runs import run_folder
from tests.analysis import runs


def test_claiming_leaves_only_what_belongs_to_the_run(tmp_path):
    for _ in range(2):
        run_folder.claim(tmp_path / "run", runs.experiment(), tokenizers.load("bytes"))
        assert {path.name for path in (tmp_path / "run").iterdir()} == {"experiment.json", "tokenizer"}
    with pytest.raises(InputError, match="seed: 0 there, 1 here"):
        run_folder.claim(tmp_path / "run", runs.experiment(seed=1), tokenizers.load("bytes"))


def test_a_bucket_whose_folders_cannot_be_renamed_is_refused_before_anything_is_computed(tmp_path, monkeypatch):
    def refused(self, target):
        raise OSError(errno.EMFILE, "Too many open files")  # as Cloud Storage FUSE says for a bucket that is flat

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(InputError, match=r"Too many open files.* hierarchical namespace"):
        run_folder.claim(tmp_path / "run", runs.experiment(), tokenizers.load("bytes"))
    assert list((tmp_path / "run").iterdir()) == []
