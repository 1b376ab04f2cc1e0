"""A run without options that name the network connects to nothing outside its machine."""

import os
import subprocess
import sys

from research import config
from research.runs import run_folder
from tests.faults.shared import experiment

# Python's own connections raise; so does looking up a name
GUARDED = """
import socket, sys

def guard(event, arguments):
    if event == "socket.getaddrinfo" and arguments[0] not in ("localhost", "127.0.0.1", "::1", None):
        raise SystemExit(f"looked up {arguments[0]}")
    if event in ("socket.connect", "socket.sendto") and arguments[0].family in (socket.AF_INET, socket.AF_INET6):
        if arguments[1][0] not in ("127.0.0.1", "::1"):
            raise SystemExit(f"connected to {arguments[1]}")

sys.addaudithook(guard)
if "attempt" in sys.argv:
    socket.create_connection(("192.0.2.1", 9), timeout=1)
from research.__main__ import main
main()
"""


def run(tmp_path, *arguments, prefix=()):
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    command = [*prefix, sys.executable, "-c", GUARDED, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_a_run_connects_to_nothing(tmp_path):
    """Where an unprivileged network namespace can be made, the run has no network at all, so that connections of
    libraries that are not Python's fail too."""
    assert "192.0.2.1" in run(tmp_path, "attempt").stderr
    config.save(experiment(tmp_path), tmp_path / "given.json")
    alone = ["unshare", "--net"]
    try:
        possible = subprocess.run([*alone, "true"], capture_output=True).returncode == 0
    except OSError:
        possible = False
    prefix = alone if possible else ()
    ended = run(tmp_path, "train", str(tmp_path / "given.json"), "--workdir", str(tmp_path / "run"), prefix=prefix)
    assert ended.returncode == 0, ended.stderr
    assert run_folder.read_result(tmp_path / "run") is not None
