"""What the rehearsals share: real formats, made once."""

import hashlib
import multiprocessing
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lib import ROOT

sys.path[:0] = [str(ROOT / "tests" / "rehearsal")]


@pytest.fixture(scope="session")
def real(tmp_path_factory):
    """The folder of real.py; SLOTS_REHEARSAL names one that is there and is kept."""
    import real

    folder = Path(os.environ.get("SLOTS_REHEARSAL") or tmp_path_factory.mktemp("real"))
    for make, name in ((real.movi, "movi_a"), (real.streethazards, "streethazards"), (real.weights, "weights")):
        if not (folder / name).exists():
            make(folder)
    return folder


class Handler(BaseHTTPRequestHandler):
    """A server that resumes, and takes its time."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        data = (self.server.folder / self.path.lstrip("/")).read_bytes()
        start = int((self.headers["Range"] or "bytes=0-")[6:].split("-")[0])
        if start >= len(data):
            self.send_response(416)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("ETag", '"a"')
        self.end_headers()
        for at in range(start, len(data), 1 << 16):
            self.wfile.write(data[at : at + (1 << 16)])
            time.sleep(0.002)


@pytest.fixture
def server(tmp_path_factory, monkeypatch):
    """Its `content` by name, its `address`, and `md5(name)`; a process of its own, so that who forks has no threads."""
    folder = tmp_path_factory.mktemp("served")

    class Content(dict):
        def __setitem__(self, name, data):
            (folder / name).write_bytes(data)
            super().__setitem__(name, data)

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.folder, made.daemon_threads, made.handle_error = folder, True, lambda *_: None
    made.content, made.address = Content(), f"http://127.0.0.1:{made.server_address[1]}"
    made.md5 = lambda name: hashlib.md5(made.content[name]).hexdigest()
    process = multiprocessing.get_context("fork").Process(target=made.serve_forever, daemon=True)
    process.start()
    yield made
    process.kill()
    process.join()
    made.server_close()
