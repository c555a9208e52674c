"""What the tests of data share."""

import signal
import sys

import pytest

from lib import ROOT

sys.path.insert(0, str(ROOT / "data" / "make"))


@pytest.fixture
def in_time():
    """A test that hangs fails after 20 s instead."""

    def late(*_):
        pytest.fail("this took more than 20 s")  # no Exception, which the code under test might take for its own

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
