"""One of several processes is killed, stands still or fails, at any moment after all have joined: the others end within
a minute and name it, and the run is resumed by any number. The same where the network between two hosts is cut.

MOMENTS=3 SEED=1 python -m pytest -m slow tests/runtime/test_lost_processes.py    # three other ones of each kind
"""

import io
import os
import random
import shutil
import signal
import subprocess
import time
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from research import config
from research.runs.trainer import train
from research.runtime import processes
from research.training import checkpoint
from tests.runtime.several import (
    PATIENCE,
    endless,
    losses,
    name,
    start,
    until,
    wait_for,
    wait_for_a_checkpoint_after,
)

MOMENTS, SEED = int(os.environ.get("MOMENTS", "20")), os.environ.get("SEED", "")
LATEST = 6.0  # seconds after all have joined, or after a checkpoint in every second start
WITHIN = 60.0  # seconds
JOINED = "joined the others"
# a process that says when it has joined, and fails at SIGUSR1
PROGRAM = f"""
import signal
from research.__main__ import main
from research.runtime import peers
watch = peers.watch
def watching(end):
    watch(end)
    print({JOINED!r}, flush=True)
peers.watch = watching
def fail(*_):
    raise RuntimeError("injected")
signal.signal(signal.SIGUSR1, fail)
main()
"""
SIGNALS = {"killed": signal.SIGKILL, "stalled": signal.SIGSTOP, "failed": signal.SIGUSR1}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    made = endless(tmp_path_factory.mktemp("text"))
    return replace(
        made, data=replace(made.data, batch=24)
    )  # for two or three processes of two devices, and for eight devices


def wait_until_all_have_joined(launched, said):
    wait_for(lambda: all(JOINED in path.read_text() for path in said), launched)


def ended(launched, begin):
    """Exit codes, all of them within WITHIN seconds after the beginning."""
    return [process.wait(timeout=max(begin + WITHIN - time.monotonic(), 0.1)) for process in launched]


@pytest.mark.slow
@pytest.mark.parametrize("how", SIGNALS)
def test_the_process_that_is_gone_is_named_by_all_others(experiment, tmp_path, how):
    draw, folder, seconds = random.Random(how + SEED), tmp_path / "run", []
    for moment in range(MOMENTS):
        count = draw.choice((2, 2, 3))
        victim, after = draw.randrange(count), draw.uniform(0, LATEST)
        launched, said = start(experiment, folder, count, program=("-c", PROGRAM))
        wait_until_all_have_joined(launched, said)
        if moment % 2:
            wait_for_a_checkpoint_after(([0, *checkpoint.steps(folder)])[-1], folder, launched)
        time.sleep(after)
        begin = time.monotonic()
        launched[victim].send_signal(SIGNALS[how])
        if how == "failed":  # Python handles a signal when it is back from a compilation
            launched[victim].wait(PATIENCE)
            begin = time.monotonic()
        others = [process for index, process in enumerate(launched) if index != victim]
        codes = ended(others, begin)
        seconds.append(time.monotonic() - begin)
        launched[victim].kill()
        reason = " has ended: RuntimeError: injected" if how == "failed" else " gave no sign of life for 20 s"
        shown = [path.read_text() for index, path in enumerate(said) if index != victim]
        print(
            f"{how} {victim} of {count} after {after:.1f} s: {codes} after {seconds[-1]:.0f} s, "
            f"{checkpoint.steps(folder)[-1:]}",
            flush=True,
        )
        assert codes == [processes.LOST] * len(others), shown
        assert all(f"error: {name(victim, launched)}{reason}" in text for text in shown), shown
    last = ([0, *checkpoint.steps(folder)])[-1] + 2
    for place in (folder, tmp_path / "whole"):
        train(until(experiment, last), place, Console(file=io.StringIO()))
    ours, theirs = losses(folder), losses(tmp_path / "whole")
    assert list(ours) == list(theirs)
    np.testing.assert_allclose(
        [list(values.values()) for values in ours.values()],
        [list(values.values()) for values in theirs.values()],
        rtol=1e-3,
    )


HOSTS = {"first": "10.83.17.1", "second": "10.83.17.2"}


def ip(*words):
    return subprocess.run(["ip", *words], capture_output=True, text=True)


@pytest.fixture
def cable(tmp_path):
    """Two hosts of this machine with a cable between them: for each, the command that runs a program on it."""
    namespaces = [f"research-{os.getpid()}-{host}" for host in HOSTS]
    if not shutil.which("ip") or ip("netns", "add", namespaces[0]).returncode:
        pytest.skip("needs iproute2 and the right to make network namespaces")
    try:
        ip("netns", "add", namespaces[1])
        ends = ("cable", "netns", namespaces[0], "type", "veth", "peer", "name", "cable", "netns", namespaces[1])
        assert ip("link", "add", *ends).returncode == 0
        names = tmp_path / "hosts"
        names.write_text("127.0.0.1 localhost\n" + "".join(f"{address} {host}\n" for host, address in HOSTS.items()))
        prefix = []
        for namespace, (host, address) in zip(namespaces, HOSTS.items(), strict=True):
            ip("-n", namespace, "addr", "add", f"{address}/24", "dev", "cable")
            for device in ("lo", "cable"):
                assert ip("-n", namespace, "link", "set", device, "up").returncode == 0
            inside = f'hostname {host} && mount --bind {names} /etc/hosts && exec "$@"'
            alone = ("unshare", "--mount", "--uts", "sh", "-c", inside, "sh")
            prefix.append(("ip", "netns", "exec", namespace, *alone))
        yield namespaces, prefix
    finally:
        for namespace in namespaces:
            ip("netns", "del", namespace)


@pytest.mark.slow
def test_where_the_network_is_cut_each_side_ends_and_names_the_other(experiment, tmp_path, cable):
    """A cut of some seconds does nothing; the run then goes on where both sides are reached again."""
    (namespace, _), prefix = cable
    folder = tmp_path / "run"
    launched, said = start(experiment, folder, 2, program=("-c", PROGRAM), host=HOSTS["first"], prefix=prefix)
    wait_for_a_checkpoint_after(0, folder, launched)
    ip("-n", namespace, "link", "set", "cable", "down")
    time.sleep(4)
    ip("-n", namespace, "link", "set", "cable", "up")
    wait_for_a_checkpoint_after(checkpoint.steps(folder)[-1], folder, launched)
    begin = time.monotonic()
    ip("-n", namespace, "link", "set", "cable", "down")
    codes = ended(launched, begin)
    print(f"all ended after {time.monotonic() - begin:.0f} s")
    shown = [path.read_text() for path in said]
    assert codes == [processes.LOST] * 2, shown
    for index, (other, host) in enumerate(((1, "second"), (0, "first"))):
        assert f"error: {name(other, launched, host)} gave no sign of life" in shown[index], shown[index]
    last = checkpoint.steps(folder)[-1] + 2
    train(until(experiment, last), folder, Console(file=io.StringIO()))
    assert checkpoint.steps(folder)[-1] == last
    assert config.load(folder / "experiment.json").schedule.steps == last
