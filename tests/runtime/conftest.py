"""No process of a test outlives its module."""

import pytest

from tests.runtime.several import started


@pytest.fixture(scope="module", autouse=True)
def none_is_left():
    yield
    for process in started:
        process.kill()
