"""Several processes resume from what each has saved on its own disk, where all of them have it; else from the run
folder."""

import io
import shutil
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from research.config import Checkpoint
from research.runs.trainer import train
from research.runtime import processes
from research.training import checkpoint
from tests.runtime.several import end, endless, losses, start, until, wait_for

pytestmark = pytest.mark.slow  # four starts of two processes
FIRST = 4  # steps after which the run folder has its only checkpoint


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    rare = Checkpoint(every=10**6, minutes=10**4)
    return replace(endless(tmp_path_factory.mktemp("text")), checkpoint=rare)


@pytest.fixture(scope="module")
def killed(experiment, tmp_path_factory):
    """A run of two processes that is saved in its folder at step 4, and then on the disks after every step, until one
    is killed."""
    folder, disks = tmp_path_factory.mktemp("killed") / "run", tmp_path_factory.mktemp("disks")
    codes, texts = end(*start(until(experiment, FIRST), folder, 2))
    assert codes == [0, 0], texts
    launched, said = start(
        experiment, folder, 2, "--checkpoint.local", str(disks), "--checkpoint.local-minutes", "1e-9"
    )

    def saved() -> bool:
        each = [[int(path.name) for path in disks.glob(f"*/process-{n}/[0-9]*")] for n in (0, 1)]
        return all(steps and max(steps) > FIRST + 5 for steps in each)

    wait_for(saved, launched)
    launched[1].kill()
    codes, texts = end(launched, said)
    assert codes[0] == processes.LOST, texts
    assert checkpoint.steps(folder) == [FIRST]
    return folder, disks


@pytest.fixture
def copied(killed, tmp_path):
    """Of the run and of the disks."""
    return [shutil.copytree(path, tmp_path / name) for path, name in zip(killed, ("run", "disks"), strict=True)]


def test_a_lost_process_costs_the_steps_since_the_last_save_on_the_disks(experiment, copied, tmp_path):
    """And the run is, from there on, what it would have been."""
    folder, disks = copied
    last = max(int(path.name) for path in disks.glob("*/process-0/[0-9]*")) + 3
    codes, texts = end(*start(until(experiment, last), folder, 2, "--checkpoint.local", str(disks)))
    assert codes == [0, 0], texts
    assert "on this host's disk" in texts[0] and f"from step {FIRST}," not in texts[0]
    train(until(experiment, last), tmp_path / "alone", Console(file=io.StringIO()))
    ours, theirs = losses(folder), losses(tmp_path / "alone")
    assert list(ours) == list(theirs)
    for step, values in ours.items():
        np.testing.assert_allclose(list(values.values()), list(theirs[step].values()), rtol=1e-3, err_msg=str(step))


def test_where_one_disk_is_lost_all_resume_from_the_run_folder(experiment, copied):
    folder, disks = copied
    (gone,) = disks.glob("*/process-1")
    shutil.rmtree(gone)
    codes, texts = end(*start(until(experiment, FIRST + 4), folder, 2, "--checkpoint.local", str(disks)))
    assert codes == [0, 0], texts
    assert f"from step {FIRST}, saved" in texts[0] and "host's disk" not in texts[0]
