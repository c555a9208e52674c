"""What the tests of data share."""

import signal
import sys
import threading
from http.server import ThreadingHTTPServer

import pytest

from lib import ROOT
from lib.data import fetch

sys.path[:0] = [str(ROOT / "data" / "make"), str(ROOT / "tests" / "data")]


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


@pytest.fixture
def bucket(monkeypatch):
    """A bucket on this machine, asked without long waits: see server.py."""
    from server import Bucket, Handler

    monkeypatch.setattr(fetch, "WAIT", 0.001)
    monkeypatch.setattr(fetch, "TIMEOUT", (2, 2))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # a client that hangs up is part of the tests
    server.bucket = Bucket()
    server.bucket.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server.bucket
    server.shutdown()
    server.server_close()
