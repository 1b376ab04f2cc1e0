"""Rendering of chat templates, in a program of its own and with a limit in time: see `chat_template_worker.py`."""

import functools
import json
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from research.errors import InputError

SECONDS = 10  # within which a template has to render a conversation; usual ones need milliseconds
LONGEST = 1 << 20  # characters of a template
_lock = threading.Lock()


class Rendered(NamedTuple):
    """A conversation as text, and where `{% generation %}` says that the assistant speaks (begin, end, characters)."""

    text: str
    spans: list[tuple[int, int]]


def render(template: str, variables: list[dict[str, Any]]) -> list[Rendered]:
    """Renders a template with several sets of variables.

    Raises:
      InputError: if the template is not sound, raises an error, or exceeds its limits.
    """
    if len(template) > LONGEST:
        raise InputError(f"the tokenizer's chat template has {len(template)} characters; at most {LONGEST} are read")
    request = json.dumps({"template": template, "variables": variables}) + "\n"
    with _lock:
        worker = _worker(os.getpid())
        try:
            reply = _asked(worker, request.encode())
        except (OSError, ValueError):
            _end(worker)
            raise InputError(
                f"the tokenizer's chat template was ended: it took more than {SECONDS} s, or more memory than it may"
            ) from None
    if "error" in reply:
        raise InputError(f"the tokenizer's chat template fails: {reply['error']}")
    return [Rendered(text, [(start, stop) for start, stop in spans]) for text, spans in reply["rendered"]]


@functools.cache
def _worker(process: int) -> "subprocess.Popen[bytes]":
    """The program of this process; one that was forked off starts its own. It ends when its input does."""
    path = Path(__file__).with_name("chat_template_worker.py")
    worker = subprocess.Popen(
        [sys.executable, "-I", "-X", "utf8", str(path), str(SECONDS + 1)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    return worker


def _asked(worker: "subprocess.Popen[bytes]", request: bytes) -> dict[str, Any]:
    """The answer to a request. Raises OSError or ValueError if there is none within the time."""
    assert worker.stdin is not None and worker.stdout is not None
    deadline = time.monotonic() + SECONDS
    worker.stdin.write(request)
    worker.stdin.flush()
    parts: list[bytes] = []
    while not (parts and parts[-1].endswith(b"\n")):
        ready, _, _ = select.select([worker.stdout], [], [], max(deadline - time.monotonic(), 0))
        part = os.read(worker.stdout.fileno(), 1 << 16) if ready else b""
        if not part:
            raise TimeoutError
        parts.append(part)
    answer: dict[str, Any] = json.loads(b"".join(parts))
    return answer


def _end(worker: "subprocess.Popen[bytes]") -> None:
    worker.kill()
    worker.wait()
    for pipe in (worker.stdin, worker.stdout):
        assert pipe is not None
        try:
            pipe.close()
        except OSError:  # what could not be written any more
            continue
    _worker.cache_clear()
