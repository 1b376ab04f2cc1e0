"""A full or read-only disk, on small file systems of their own: one line, an exit code of its own, and the same command
resumes once there is room."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from research import config, data
from research.runs import loading
from research.runs.records import FILE, read
from research.runs.trainer import train
from research.runtime import files
from research.training import checkpoint
from tests.faults.shared import STEPS, experiment, measures, quiet


@pytest.fixture
def disk(tmp_path):
    """Makes and resizes a file system of some kilobytes."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def size(kilobytes: int) -> Path:
        option = "remount," if os.path.ismount(folder) else ""
        command = ["mount", "-t", "tmpfs", "-o", f"{option}size={kilobytes}k", "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("mounting a file system needs a privileged user")
        return folder

    yield size
    subprocess.run(["umount", str(folder)], capture_output=True)


@pytest.fixture
def small(tmp_path):
    return experiment(tmp_path)


def full(error: BaseException) -> bool:
    return "No space left on device" in (files.storage_error(error) or "")


def test_while_starting_it_is_one_line_and_its_own_exit_code(small, disk, tmp_path):
    folder = disk(64)
    (folder / "ballast").write_bytes(bytes(64 << 10))
    config.save(small, tmp_path / "experiment.json")
    command = [sys.executable, "-P", "-m", "research", "train", str(tmp_path / "experiment.json")]
    ended = subprocess.run([*command, "--workdir", str(folder / "run")], capture_output=True, text=True)
    assert ended.returncode == files.STORAGE
    assert ended.stderr.startswith("error: No space left on device") and ended.stderr.count("\n") == 1


def test_while_preparing_nothing_is_left_half_made(small, disk, tmp_path):
    folder = disk(8)
    cached = replace(small, data=replace(small.data, cache=str(folder / "cache")))
    with pytest.raises(OSError) as error:
        train(cached, tmp_path / "run", quiet())
    assert full(error.value)
    assert not list((folder / "cache").glob("store-*")) and not list((folder / "cache").glob(".unfinished-*"))
    disk(4096)
    assert data.open_corpus(cached).training.plans[0].rows > 0


def test_while_saving_and_recording_the_run_ends_and_goes_on_when_there_is_room(small, disk, tmp_path):
    """There is room for a checkpoint or two, and TensorBoard writes too; what was saved before is whole."""
    logged = replace(small, logging=config.Logging(every=5, tensorboard=True))
    train(logged, tmp_path / "whole", quiet())
    size = sum(path.stat().st_size for path in (tmp_path / "whole" / "checkpoints" / "4").rglob("*") if path.is_file())
    folder = disk(size // 1024 * 2)
    with pytest.raises(Exception) as error:
        train(logged, folder / "run", quiet())
    assert full(error.value)
    saved = checkpoint.steps(folder / "run")
    assert saved in ([], [4]) and not list((folder / "run").glob(".unfinished-*"))
    disk(65536)
    train(logged, folder / "run", quiet())
    assert checkpoint.steps(folder / "run")[-1] == STEPS
    assert measures(folder / "run") == measures(tmp_path / "whole")
    assert [record["step"] for record in read(folder / "run" / FILE) if record["kind"] == "train"] == [5, 10, 12]


def test_a_read_only_disk_is_one_line_for_a_run_and_nothing_for_a_reader(small, disk, tmp_path):
    folder = disk(65536)
    train(replace(small, schedule=replace(small.schedule, steps=4)), folder / "run", quiet())
    config.save(small, tmp_path / "given.json")
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    try:
        assert loading.load(str(folder / "run")).params
        for run in ("run", "another"):
            command = [sys.executable, "-P", "-m", "research", "train", str(tmp_path / "given.json")]
            ended = subprocess.run([*command, "--workdir", str(folder / run)], capture_output=True, text=True)
            assert ended.returncode == files.STORAGE, ended.stderr
            assert ended.stderr.startswith("error: Read-only file system") and ended.stderr.count("\n") == 1
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
    train(small, folder / "run", quiet(), resume_schedule=True)
    assert checkpoint.steps(folder / "run")[-1] == STEPS
