"""Every file of a run folder, with a bit flipped, cut short or gone: a resume refuses it in one line, says what it sets
aside, or gives what an undamaged folder gives; so do readers of the model."""

import functools
import shutil

import jax
import numpy as np
import pytest

from research import config
from research.errors import InputError
from research.runs import loading, prepared, records
from research.runs.trainer import train
from research.training import checkpoint
from research.training.compiled_steps import compiled_steps
from tests.faults.shared import STEPS, experiment, measures, quiet, said

DAMAGES = ("flipped", "cut", "gone")
# other things than the state of the run, which a resume writes anew or does without
HISTORY = (records.FILE,)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was stopped in the middle of its folder's life: it has steps to take when it is resumed."""
    folder = tmp_path_factory.mktemp("runs")
    small = experiment(folder)
    train(small, folder / "whole", quiet())
    shutil.copytree(folder / "whole", folder / "half")
    shutil.rmtree(folder / "half" / "checkpoints" / str(STEPS))
    return small, folder / "half", folder / "whole"


def damage(path, how, place):
    content = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
    elif how == "cut":
        path.write_bytes(content[: int(len(content) * place)])
    else:
        content[int(len(content) * place)] ^= 1 << int(place * 997) % 8
        path.write_bytes(content)


def files_of(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


def state(folder):
    like = prepared.compiled_steps(config.load(folder / "experiment.json")).state
    restored = checkpoint.restore(folder, like, STEPS)
    return jax.device_get((restored.params, restored.optimizer_state))


def outcome(small, copy, whole, expected):
    """In one word, what a resume does; "silent" must not be."""
    console = quiet()
    try:
        train(small, copy, console)
    except InputError as error:
        assert str(error)
        return "refused"
    same = jax.tree.map(np.array_equal, state(copy), expected)
    if not all(jax.tree.leaves(same)):
        return "silent"
    if measures(copy) == measures(whole):
        return "same"
    return "named" if "damaged" in said(console) else "history"


@pytest.mark.slow
def test_a_damaged_file_is_never_taken_for_a_good_one(whole, tmp_path, monkeypatch):
    small, half, finished = whole
    monkeypatch.setattr(prepared, "compiled_steps", functools.cache(compiled_steps))  # a second for each case
    expected, counts, wrong = state(finished), {}, []
    for path in files_of(half):
        for how in DAMAGES:
            copy = tmp_path / "copy"
            shutil.copytree(half, copy)
            damage(copy / path, how, 0.6)
            try:
                ended = outcome(small, copy, finished, expected)
            except Exception as error:
                ended = f"{type(error).__name__}: {error}"
            counts[ended] = counts.get(ended, 0) + 1
            print(f"{path} {how}: {ended}"[:300], flush=True)
            accepted = ("refused", "same", "named", *(("history",) if path.name in HISTORY else ()))
            if ended not in accepted:
                wrong.append(f"{path} {how}: {ended}")
            shutil.rmtree(copy)
    print(counts)
    assert len(files_of(half)) >= 28 and not wrong, wrong


@pytest.mark.slow
def test_a_reader_never_takes_a_damaged_model_for_a_good_one(whole, tmp_path):
    _, half, _ = whole
    good = loading.load(str(half))
    wrong = []
    for path in files_of(half):
        for how in DAMAGES:
            copy = tmp_path / "copy"
            shutil.copytree(half, copy)
            damage(copy / path, how, 0.6)
            try:
                there = loading.load(str(copy))
                same = jax.tree.map(np.array_equal, jax.device_get(there.params), jax.device_get(good.params))
                if not all(jax.tree.leaves(same)) or there.tokenizer.digest != good.tokenizer.digest:
                    wrong.append(f"{path} {how}: silent")
            except InputError:
                pass
            except Exception as error:
                wrong.append(f"{path} {how}: {type(error).__name__}: {error}"[:300])
            shutil.rmtree(copy)
    assert not wrong, wrong
