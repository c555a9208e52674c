"""A bucket and an archive on this machine, and the ways in which they misbehave."""

import base64
import hashlib
import io
import json
import re
import tarfile
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from lib.data import DataError


def md5(data):
    return hashlib.md5(data).hexdigest()


class Bucket:
    """A bucket on this machine: `files` by name, and the ways in which it misbehaves."""

    def __init__(self):
        self.files = {}
        self.page = 1000  # names a page of the listing
        self.listed = {}  # name: what the listing says instead
        self.cuts = {}  # name: bytes sent before the connection breaks, one entry a request
        self.status = {}  # name or "listing": codes answered first, one a request
        self.ranges = True  # whether a Range is honoured
        self.announce = {}  # name: Content-Length instead of the true one, or None for none
        self.body = None  # of the listing, instead of the true one
        self.pause = 0  # seconds between two pieces of a file
        self.headers = {}  # name or "listing": further headers
        self.next = {}  # name: what the file is from the second request on
        self.moved = {}  # name: the address it is redirected to
        self.requests = []  # (name, Range or None)

    def listing(self, query):
        names = sorted(name for name in self.files if name.startswith(query["prefix"][0]))
        first = int(query.get("pageToken", ["0"])[0])
        items = []
        for name in names[first : first + self.page]:
            data = self.files[name]
            item = {
                "name": name,
                "size": str(len(data)),
                "md5Hash": base64.b64encode(hashlib.md5(data).digest()).decode(),
            }
            item |= self.listed.get(name, {})
            items.append({key: value for key, value in item.items() if value is not None})
        page = {"items": items} if items else {}
        return page | ({"nextPageToken": str(first + self.page)} if first + self.page < len(names) else {})


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer takes 40 ms

    def log_message(self, *_):
        pass

    def do_GET(self):
        bucket, url = self.server.bucket, urlsplit(self.path)
        listing = url.path.startswith("/storage/v1/b/kubric-public/o")
        name = "listing" if listing else unquote(url.path).removeprefix("/kubric-public/").removeprefix("/")
        bucket.requests.append((name, self.headers["Range"]))
        if bucket.status.get(name):
            return self.answer(bucket.status[name].pop(0), b"no")
        if name in bucket.moved:
            return self.answer(302, b"", {"Location": bucket.moved[name]})
        if listing:
            body = bucket.body(len(bucket.requests)) if callable(bucket.body) else bucket.body
            body = body or json.dumps(bucket.listing(parse_qs(url.query))).encode()
            return self.answer(200, body, bucket.headers.get(name, {}))
        if name not in bucket.files:
            return self.answer(404, b"no")
        data, code, headers = bucket.files[name], 200, bucket.headers.get(name, {})
        bucket.files[name] = bucket.next.pop(name, data)
        start = int(re.match(r"bytes=(\d+)-", self.headers["Range"] or "bytes=0-")[1])
        if bucket.ranges and self.headers["Range"]:
            if start >= len(data):
                return self.answer(416, b"", {"Content-Range": f"bytes */{len(data)}", **headers})
            code, headers = 206, {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}", **headers}
            data = data[start:]
        cut = bucket.cuts[name].pop(0) if bucket.cuts.get(name) else None
        self.answer(code, data[:cut], {"Content-Length": bucket.announce.get(name, len(data)), **headers})
        if cut is not None or name in bucket.announce:
            self.close_connection = True

    def answer(self, code, data, headers=()):
        self.send_response(code)
        for key, value in {"Content-Length": len(data), **dict(headers)}.items():
            if value is not None:
                self.send_header(key, str(value))
        self.end_headers()
        for i in range(0, len(data), 1 << 16):
            self.wfile.write(data[i : i + (1 << 16)])
            time.sleep(self.server.bucket.pause)


@contextmanager
def refused(match):
    """A DataError of one line of moderate length, without the address of an object."""
    with pytest.raises(DataError, match=match) as error:
        yield error
    assert not re.search(r"\n|0x[0-9a-f]{6}", str(error.value)) and len(str(error.value)) < 1000


def tar(members, top="train/"):
    """A tar of (name, bytes) or TarInfo members, with the two folders of an archive of StreetHazards."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in [(f"{top}images/a.png", b"image"), (f"{top}annotations/a.png", b"label"), *members]:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()
