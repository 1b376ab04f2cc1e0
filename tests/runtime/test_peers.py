"""Signs of life between processes, here threads that share a store."""

import time

import pytest

from research.runtime import peers


class Store:
    """The key-value store of JAX's coordination service, which can be cut off."""

    def __init__(self):
        self.content, self.cut = {}, False

    def key_value_set(self, key, value, allow_overwrite=False):
        if self.cut:
            raise RuntimeError("UNAVAILABLE")
        self.content[key] = value

    def blocking_key_value_get(self, key, milliseconds):
        return self.content[key]

    def key_value_dir_get(self, prefix):
        if self.cut:
            raise RuntimeError("UNAVAILABLE")
        return [(key, value) for key, value in self.content.copy().items() if key.startswith(prefix)]


@pytest.fixture
def ended(monkeypatch):
    """Codes with which a process would have ended."""
    codes = []
    monkeypatch.setattr(peers.os, "_exit", codes.append)
    monkeypatch.setattr(peers, "BEAT", 0.05)
    monkeypatch.setattr(peers, "SILENT", 0.5)
    return codes


@pytest.fixture
def watches(ended):
    store = Store()
    made = [peers.Watch(store, index, 3, end=75) for index in range(3)]
    yield store, made
    for watch in made:
        watch.leave()
    for thread in (thread for watch in made for thread in watch.threads):
        thread.join()  # or it would end the process of the tests, once that is possible again


def wait(ended):
    deadline = time.monotonic() + 10
    while not ended and time.monotonic() < deadline:
        time.sleep(0.02)


def test_while_all_give_signs_and_after_an_orderly_end_nobody_is_named(watches, ended):
    _, (first, second, third) = watches
    time.sleep(0.3)
    third.leave()
    time.sleep(1.5)
    assert not ended and first.culprit() is None and second.culprit() is None


def test_a_silent_process_is_named_with_its_host(watches, ended, capfd):
    _, (first, _, third) = watches
    first.meet()
    third.done.set()  # without a word
    wait(ended)
    assert set(ended) == {75}
    assert first.culprit(patience=10).startswith(f"process 2 on {peers.platform.node()}, process id ")
    assert "gave no sign of life" in capfd.readouterr().err


def test_an_error_is_known_to_the_others_at_once(watches, ended):
    _, (first, second, _) = watches
    second.leave("OSError: no space left")
    begin = time.monotonic()
    assert first.culprit(patience=5).endswith("has ended: OSError: no space left")
    assert time.monotonic() - begin < peers.SILENT + 1


def test_without_the_store_it_is_process_0_that_is_gone_which_is_known_by_its_host(watches, ended):
    """Even if it is gone before its first sign of life was read."""
    store, (_, second, third) = watches
    second.meet()
    third.meet()
    store.cut = True
    for watch in (second, third):
        assert watch.culprit(patience=10).startswith("process 0 on ")
