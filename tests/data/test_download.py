import base64
import errno
import gzip
import hashlib
import io
import json
import os
import random
import re
import shutil
import tarfile
import threading
import time
import tomllib
import zlib
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tfrecords import write_records

from lib.data import DataError, download, fetch
from lib.data.download import download_movi, download_streethazards, main, verify
from lib.data.fetch import File, check_space, fetch_all, unpack
from lib.data.shards import CHECKSUMS
from lib.data.tfrecord import scan_shard

PREFIX = "tfds/movi_a/128x128/1.0.0/"
SHARDS = [f"movi_a-validation.tfrecord-{i:05d}-of-00004" for i in range(4)]


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
        self.tag = None  # which headers tell one version of a file from another: ETag, Last-Modified, weak or both
        self.if_range = True  # whether If-Range is honoured
        self.next = {}  # name: what the file is from the second request on
        self.moved = {}  # name: the address it is redirected to
        self.requests = []  # (name, Range or None)

    def versions(self, data):
        etag, date = f'"{md5(data)}"', f"Mon, 01 Jan {2000 + zlib.crc32(data) % 999} 00:00:00 GMT"
        tags = {"ETag": {"ETag": etag}, "Last-Modified": {"Last-Modified": date}, "weak": {"ETag": f"W/{etag}"}}
        return {**tags["ETag"], **tags["Last-Modified"]} if self.tag == "both" else tags.get(self.tag, {})

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
        data, code, whole = bucket.files[name], 200, self.headers["If-Range"]
        bucket.files[name] = bucket.next.pop(name, data)
        headers = bucket.versions(data) | bucket.headers.get(name, {})
        current = whole is None or not bucket.if_range or whole in headers.values()  # weak ones are never sent
        start = int(re.match(r"bytes=(\d+)-", self.headers["Range"] or "bytes=0-")[1])
        if bucket.ranges and self.headers["Range"] and current:
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


@pytest.fixture
def bucket(monkeypatch):
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


@pytest.fixture
def movi(bucket, tmp_path):
    """A bucket with four shards of three records each and their dataset_info.json."""
    for i, shard in enumerate(SHARDS):
        path = tmp_path / "shard"
        write_records(path, [bytes([i, k]) * 40_000 for k in range(3)])
        bucket.files[PREFIX + shard] = path.read_bytes()
    info = {"splits": [{"name": "validation", "shardLengths": ["3"] * 4}]}
    bucket.files[PREFIX + "dataset_info.json"] = json.dumps(info).encode()
    bucket.files[PREFIX + "features.json"] = b"{}"
    return bucket


@pytest.fixture
def get_movi(movi, tmp_path):
    def call(**options):
        return download_movi(**{"split": "validation", "dest": tmp_path / "real", "server": movi.url, **options})

    return call


def holds(folder, bucket, names):
    return all((folder / name).read_bytes() == bucket.files[PREFIX + name] for name in names)


def sent(bucket, name):
    return [asked for got, asked in bucket.requests if got == PREFIX + name]


@contextmanager
def refused(match):
    """A DataError of one line of moderate length, without the address of an object."""
    with pytest.raises(DataError, match=match) as error:
        yield error
    assert not re.search(r"\n|0x[0-9a-f]{6}", str(error.value)) and len(str(error.value)) < 1000


# ------------------------------------------------------------------------------------------- MOVi-A


def test_a_split_arrives_whole_in_the_layout_of_tensorflow_datasets(get_movi, movi, tmp_path):
    movi.page = 2  # so that the listing has three pages
    movi.files[PREFIX + "movi_a-train.tfrecord-00000-of-00001"] = b"another split"
    folder = get_movi()
    assert folder == tmp_path / "real" / "movi_a" / "128x128" / "1.0.0"
    assert holds(folder, movi, [*SHARDS, "dataset_info.json", "features.json"])
    assert {path.name for path in folder.iterdir()} == {*SHARDS, "dataset_info.json", "features.json", CHECKSUMS}
    record = json.loads((folder / CHECKSUMS).read_text())
    for name, data in movi.files.items():
        if "train" not in name:
            assert record.pop(name.removeprefix(PREFIX)) == {"size": len(data), "md5": md5(data)}
    assert record == {}
    assert verify(tmp_path / "real") == []


def test_only_as_many_shards_as_hold_the_scenes(get_movi, movi, capsys):
    folder = get_movi(scenes=4)
    assert "2 of 4 shards, 6 of 12 scenes" in capsys.readouterr().out
    assert sorted(path.name for path in folder.glob("*.tfrecord-*")) == SHARDS[:2]
    assert sorted(name for name in json.loads((folder / CHECKSUMS).read_text()) if "tfrecord" in name) == SHARDS[:2]
    assert sorted(path.name for path in get_movi(scenes=7).glob("*.tfrecord-*")) == SHARDS[:3]
    assert len(sent(movi, SHARDS[0])) == 1
    assert len(list(get_movi(scenes=300).glob("*.tfrecord-*"))) == 4  # more than there are is all of them


def test_scenes_that_cannot_be_counted(get_movi, movi):
    with pytest.raises(DataError, match="--scenes is 0"):
        get_movi(scenes=0)
    del movi.files[PREFIX + "dataset_info.json"]
    with pytest.raises(DataError, match=r"does not say how many scenes .* leave out --scenes"):
        get_movi(scenes=3)
    assert len(list(get_movi().glob("*.tfrecord-*"))) == 4


@pytest.mark.parametrize("workers", [1, 3])
def test_several_at_a_time_but_no_more(get_movi, monkeypatch, workers):
    busy, most, change, copy = 0, 0, threading.Condition(), fetch.copy

    def counting(response, *arguments):
        nonlocal busy, most
        if "tfrecord" not in response.url:
            return copy(response, *arguments)
        with change:
            busy += 1
            most = max(most, busy)
            change.notify_all()
            change.wait_for(lambda: most >= workers, timeout=20)
        time.sleep(0.05)  # for one too many to come in
        with change:
            busy -= 1
        return copy(response, *arguments)

    monkeypatch.setattr(fetch, "copy", counting)
    get_movi(workers=workers)
    assert most == workers


def test_a_second_call_checks_and_repairs(get_movi, movi, tmp_path):
    folder = get_movi()
    before = len(movi.requests)
    get_movi()
    assert [name for name, _ in movi.requests[before:]] == ["listing"]
    damaged = bytearray((folder / SHARDS[1]).read_bytes())
    damaged[500] ^= 1
    (folder / SHARDS[1]).write_bytes(damaged)
    (folder / SHARDS[2]).write_bytes(damaged[:-1])
    (folder / SHARDS[3]).unlink()
    faults = verify(tmp_path / "real")
    assert [re.search(r"tfrecord-0000(\d)", line)[1] for line in faults] == ["1", "2", "3"]
    assert "has md5" in faults[0] and "bytes, " in faults[1] and "is missing" in faults[2]
    get_movi()
    assert holds(folder, movi, SHARDS)
    assert verify(tmp_path / "real") == []


def test_a_connection_that_breaks_is_taken_up_where_it_broke(get_movi, movi):
    movi.cuts = {PREFIX + SHARDS[0]: [70_000, 100_000], PREFIX + SHARDS[3]: [0, 10]}
    folder = get_movi()
    assert holds(folder, movi, SHARDS)
    asked = sent(movi, SHARDS[0])
    assert len(asked) == 3 and asked[0] is None
    assert 0 < int(asked[1][6:-1]) <= 70_000 < int(asked[2][6:-1])
    assert not list(folder.glob("*.part"))


def test_a_download_that_was_given_up_goes_on(get_movi, movi, tmp_path):
    movi.cuts = {PREFIX + SHARDS[0]: [150_000] + [0] * 50}
    with pytest.raises(DataError, match=r"at byte \d+, 5 times in a row; what has arrived is kept: the same command"):
        get_movi(workers=1)
    folder = tmp_path / "real" / PREFIX.removeprefix("tfds/")
    part = folder / f"{SHARDS[0]}.part"
    have = part.stat().st_size
    assert 0 < have <= 150_000 and not (folder / SHARDS[0]).exists()
    movi.cuts, before = {}, len(movi.requests)
    get_movi(workers=1)
    assert (PREFIX + SHARDS[0], f"bytes={have}-") in movi.requests[before:]
    assert holds(folder, movi, SHARDS) and not part.exists()


def test_a_server_that_ignores_ranges_starts_over(get_movi, movi):
    movi.ranges = False
    movi.cuts = {PREFIX + SHARDS[0]: [100_000, 130_000]}
    assert holds(get_movi(), movi, SHARDS)


def test_a_server_that_never_gets_further_is_given_up(get_movi, movi):
    movi.ranges = False
    movi.cuts = {PREFIX + SHARDS[0]: [100_000] * 50}
    with pytest.raises(DataError, match="5 times in a row"):
        get_movi()
    assert len(sent(movi, SHARDS[0])) == 1 + 5


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("left", ["wrong bytes", "too long", "complete but wrong", "complete"])
def test_what_an_earlier_run_left_is_used_only_if_it_is_right(get_movi, movi, tmp_path, left, ranges):
    movi.ranges = ranges
    data = movi.files[PREFIX + SHARDS[0]]
    content = {
        "wrong bytes": b"x" * 1000,
        "too long": data + b"x",
        "complete but wrong": b"x" * len(data),
        "complete": data,
    }
    part = tmp_path / "real" / PREFIX.removeprefix("tfds/") / f"{SHARDS[0]}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(content[left])
    assert holds(get_movi(), movi, SHARDS)
    assert (left == "complete") == (not sent(movi, SHARDS[0]))


def test_a_listing_that_lies_about_a_size(get_movi, movi):
    name = PREFIX + SHARDS[1]
    true = len(movi.files[name])
    for lie in (true - 1, true + 1):
        movi.listed = {name: {"size": str(lie)}}
        with pytest.raises(DataError, match=rf"{SHARDS[1]}: the server announces {true} bytes, {lie} are due"):
            get_movi()


def test_a_server_that_sends_more_or_less_than_it_announces(get_movi, movi):
    name = PREFIX + SHARDS[1]
    true = len(movi.files[name])
    movi.files[name] += b"and more"
    movi.listed = {name: {"size": str(true), "md5Hash": base64.b64encode(hashlib.md5(b"?").digest()).decode()}}
    movi.announce = {name: true}
    with pytest.raises(DataError, match="what arrived has md5"):
        get_movi()
    movi.files[name] = movi.files[name][: true - 5]
    movi.ranges = False
    with pytest.raises(DataError, match=rf"at byte {true - 5}, 5 times in a row"):
        get_movi()


def test_a_server_that_announces_nothing(get_movi, movi):
    movi.ranges = False
    movi.announce = dict.fromkeys(movi.files)
    assert holds(get_movi(), movi, SHARDS)
    name = PREFIX + SHARDS[1]
    true = len(movi.files[name])
    for lie, match in (
        (true - 1, f"sends more than the {true - 1} bytes"),
        (true + 1, "connection closed early at byte"),
    ):
        movi.listed = {name: {"size": str(lie)}}
        (get_movi(scenes=1) / SHARDS[1]).unlink(missing_ok=True)
        with pytest.raises(DataError, match=f"{SHARDS[1]}: the .*{match}"):
            get_movi()


def test_a_file_that_is_not_what_its_md5_says(get_movi, movi, tmp_path):
    name = PREFIX + SHARDS[1]
    movi.listed = {name: {"md5Hash": base64.b64encode(hashlib.md5(b"other").digest()).decode()}}
    with pytest.raises(DataError, match=rf"{SHARDS[1]}: what arrived has md5 .*, {md5(b'other')} is due"):
        get_movi()
    assert not list((tmp_path / "real").rglob(f"{SHARDS[1]}*"))


def test_without_md5_in_the_listing_that_of_the_first_download_counts(get_movi, movi, tmp_path):
    movi.listed = {name: {"md5Hash": None} for name in movi.files}
    folder = get_movi()
    record = json.loads((folder / CHECKSUMS).read_text())
    assert record[SHARDS[0]]["md5"] == md5(movi.files[PREFIX + SHARDS[0]])
    changed = b"\xff" + movi.files[PREFIX + SHARDS[0]][1:]
    (folder / SHARDS[0]).write_bytes(changed)
    assert len(verify(tmp_path / "real")) == 1
    get_movi()
    assert holds(folder, movi, SHARDS)


def test_a_file_that_changed_at_the_source(get_movi, movi):
    get_movi()
    movi.files[PREFIX + SHARDS[2]] = b"another"
    with pytest.raises(DataError, match=f"{SHARDS[2]} is not the file of the first download any more; delete"):
        get_movi()


def test_an_overloaded_server_is_asked_again(get_movi, movi):
    movi.status = {"listing": [503, 429], PREFIX + SHARDS[0]: [500, 503]}
    assert holds(get_movi(), movi, SHARDS)


@pytest.mark.parametrize(
    ("code", "match"),
    [
        (401, "HTTP 401, .* refuses access"),
        (403, "refuses access"),
        (404, "does not have it"),
        (503, "HTTP 503, .* now"),
    ],
)
@pytest.mark.parametrize("where", ["listing", PREFIX + SHARDS[2]])
def test_refusals_say_what_they_mean(get_movi, movi, where, code, match):
    movi.status = {where: [code] * 99}
    with pytest.raises(DataError, match=match) as error:
        get_movi()
    assert ("kubric-public/o" if where == "listing" else SHARDS[2]) in str(error.value)
    assert Counter(name for name, _ in movi.requests)[where] == (5 if code == 503 else 1)


def test_offline(get_movi, movi, monkeypatch, tmp_path, capsys):
    with pytest.raises(DataError, match="cannot reach 127.0.0.1:9 for http.* is this machine offline"):
        get_movi(server="http://127.0.0.1:9")
    assert main(["movi_a", "--dest", str(tmp_path), "--server", "http://127.0.0.1:9"]) == 1
    assert "error: cannot reach" in capsys.readouterr().err


@pytest.mark.parametrize(
    "body",
    [
        "<html>",
        "[]",
        '{"items": [{"name": "x"}]}',
        '{"items": [{"name": "x", "size": "y"}]}',
        '{"items": 3}',
        '{"items": [{"name": "x", "size": "1", "md5Hash": "ä"}]}',
        pytest.param("[" * 100_000, id="deep"),
        pytest.param('{"items": [{"name": "x", "size": "%s"}]}' % ("9" * 5000), id="5000 digits"),
        '{"items": [{"name": "x", "size": 1e999}]}',
        '{"items": [{"name": "x", "size": "-5"}]}',
        '{"items": [{"name": "x", "size": "99999999999999999999"}]}',
    ],
)
def test_a_listing_that_is_none(get_movi, movi, body):
    movi.body = body.encode()
    with refused("not a listing of a bucket"):
        get_movi()


def test_a_listing_without_end(get_movi, movi, monkeypatch):
    movi.body = b'{"nextPageToken": "again"}'
    with refused("does not get beyond page 'again'"):
        get_movi()
    movi.body = lambda request: json.dumps({"nextPageToken": f"{request}" + "x" * 999}).encode()
    with refused(r"does not get beyond page '\d+x"):
        get_movi()
    assert len(movi.requests) < 110
    movi.body = b" " * (1 << 24)
    with refused("sends more than the 1048576 bytes"):
        get_movi()
    monkeypatch.setattr(fetch, "PATIENCE", 0.1)
    movi.body, movi.pause = b" " * (1 << 19), 0.05
    with refused("not a listing of a bucket .'stopped'"):
        get_movi()


def test_a_listing_that_lacks_what_was_asked_for(get_movi, movi):
    with pytest.raises(DataError, match="no split 'test' of movi_a/128x128/1.0.0; there is validation"):
        get_movi(split="test")
    with pytest.raises(DataError, match="there is nothing"):
        get_movi(resolution=256)
    del movi.files[PREFIX + SHARDS[1]]
    with pytest.raises(DataError, match="has 3 shards of 00004"):
        get_movi()


def test_names_in_the_listing_cannot_lead_out_of_the_folder(get_movi, movi, tmp_path):
    for name in ("../evil.json", "/etc/evil.json", "sub/evil.json", "..", "evil.sh", ".evil.json", CHECKSUMS):
        movi.files[PREFIX + name] = b"evil"
    movi.files[PREFIX + "../../../../evil-validation.tfrecord-00000-of-00001"] = b"evil"
    get_movi()
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.read_bytes() == b"evil"]


@pytest.mark.parametrize("name", ["listing", PREFIX + SHARDS[0]])
@pytest.mark.parametrize(
    ("headers", "match"),
    [
        ({"Content-Encoding": "gzip"}, r"sends it compressed .gzip., which was not asked for"),
        ({"Content-Type": "text/html; charset=utf-8"}, "sends a web page instead; is there a login"),
    ],
)
def test_what_is_not_the_file_is_not_taken_for_it(get_movi, movi, tmp_path, name, headers, match):
    """A few compressed bytes may stand for any number; the page of an error or a login is no archive."""
    movi.headers = {name: headers}
    movi.cuts = {PREFIX + SHARDS[0]: [100_000]}
    movi.body = gzip.compress(bytes(50_000_000)) if name == "listing" else None
    part = tmp_path / "real" / PREFIX.removeprefix("tfds/") / f"{SHARDS[0]}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(movi.files[PREFIX + SHARDS[0]][:500])
    with refused(match):
        get_movi()
    assert part.read_bytes() == movi.files[PREFIX + SHARDS[0]][:500]


@pytest.mark.parametrize("code", [204, 205, 304])
def test_an_answer_without_a_body_is_no_file(get_movi, movi, code):
    movi.status = {PREFIX + SHARDS[0]: [code] * 9}
    with refused(f"HTTP {code}"):
        get_movi()


@pytest.mark.parametrize(
    ("to", "match"), [("http://127.0.0.1:1/x", "redirects to http://127.0.0.1:.*not encrypted"), ("file:///x", "file:")]
)
def test_a_redirection_to_another_scheme(bucket, monkeypatch, tmp_path, to, match):
    """The server stands for one reached by https."""

    class Plain(fetch.HTTPAdapter):
        def send(self, request, **options):
            request.url, url = request.url.replace("https:", "http:"), request.url
            response = super().send(request, **options)
            request.url = response.url = url
            return response

    session = fetch.open_session()
    session.mount("https://", Plain())
    monkeypatch.setattr(fetch, "open_session", lambda _: session)
    bucket.files = {"f": b"x", "g": b"y"}
    bucket.moved = {"f": to.replace("127.0.0.1:1/x", bucket.url.partition("//")[2] + "/g")}
    with refused(match):
        fetch_all([File(bucket.url.replace("http:", "https:") + "/f", tmp_path / "f")])
    bucket.moved = {"f": bucket.url.replace("http:", "https:") + "/g"}
    fetch_all([File(bucket.url + "/f", tmp_path / "f")])
    assert (tmp_path / "f").read_bytes() == b"y"


@pytest.mark.parametrize("url", ["", "nowhere", "http://[::1", "file:///etc/passwd", "http://a b/"])
def test_addresses_that_are_none(get_movi, url):
    with refused("cannot reach"):
        get_movi(server=url)


@pytest.mark.parametrize("tag", ["ETag", "Last-Modified", "both", "weak", None])
@pytest.mark.parametrize("if_range", [True, False])
@pytest.mark.parametrize("again", [False, True], ids=["one call", "two calls"])
@pytest.mark.parametrize("known", ["size", "nothing"])
def test_a_file_that_changes_while_it_is_fetched_is_not_mixed(bucket, tmp_path, tag, if_range, again, known):
    """Only the beginning of the same file is kept; unchanged and with a strong ETag or a date, it is."""
    old, path = random.Random(0).randbytes(200_000), tmp_path / "f"
    for new in (old, old[::-1] + b"x" * (known == "nothing"), None):
        bucket.tag, bucket.if_range = tag, if_range
        bucket.files, bucket.next = {"f": old}, {"f": new or old}
        bucket.cuts, bucket.requests[:] = {"f": [100_000] + [0] * 5 * again}, []
        if new is None:  # everything had arrived; only the server knows
            bucket.cuts, bucket.files = {}, {"f": old[::-1]}
            path.with_name("f.part").write_bytes(old)
            new = old[::-1]
        file = File(f"{bucket.url}/f", path, len(old) if known == "size" else None)
        path.unlink(missing_ok=True)
        if again and bucket.cuts:
            with refused("5 times in a row"):
                fetch_all([file])
        fetch_all([file])
        assert path.read_bytes() == new
        assert [p.name for p in tmp_path.iterdir()] == ["f"]
        if new == old:
            assert bool(bucket.requests[1][1]) == (tag not in (None, "weak"))


def test_the_end_of_a_file_that_a_server_does_not_confirm(bucket, tmp_path):
    """Some answer 416 without the size."""
    bucket.files, bucket.headers = {"f": b"abc"}, {"f": {"Content-Range": "bytes */*"}}
    (tmp_path / "f.part").write_bytes(b"abc")
    fetch_all([File(f"{bucket.url}/f", tmp_path / "f", md5=md5(b"abc"))])
    assert (tmp_path / "f").read_bytes() == b"abc" and len(bucket.requests) == 1


@pytest.mark.parametrize("announced", [True, False])
def test_more_than_a_file_of_unknown_size_can_have(bucket, tmp_path, announced):
    bucket.files = {"f": bytes(100_000)}
    bucket.announce = {} if announced else {"f": None}
    with refused("announces 100000 bytes, 5000 are due" if announced else "more than the 5000 bytes"):
        fetch_all([File(f"{bucket.url}/f", tmp_path / "f", most=5000)])


def test_a_wrong_file_stays_until_the_right_one_is_there(bucket, tmp_path):
    bucket.files, bucket.status = {"f": b"right"}, {"f": [404]}
    (tmp_path / "f").write_bytes(b"wrong")
    with refused("does not have it"):
        fetch_all([file := File(f"{bucket.url}/f", tmp_path / "f", md5=md5(b"right"))])
    assert (tmp_path / "f").read_bytes() == b"wrong"
    fetch_all([file])
    assert (tmp_path / "f").read_bytes() == b"right"


def test_two_downloads_at_once(get_movi, movi, tmp_path):
    """The second is refused, and the first comes to its end."""
    movi.pause = 0.05
    first = threading.Thread(target=get_movi)
    first.start()
    while not any(sent(movi, shard) for shard in SHARDS):
        time.sleep(0.01)
    with refused("1.0.0: another download is at work here"):
        get_movi()
    first.join()
    assert verify(tmp_path / "real") == []
    get_movi()


def test_a_full_disk_names_the_file(get_movi, movi, tmp_path):
    folder = tmp_path / "real" / PREFIX.removeprefix("tfds/")
    folder.mkdir(parents=True)
    for name in (f"{SHARDS[0]}.part", f".{CHECKSUMS}.{os.getpid()}-{threading.get_ident()}.tmp"):
        (folder / name).symlink_to("/dev/full")
        with refused(
            rf"{SHARDS[0] if 'part' in name else CHECKSUMS}.*No space left on device.*; what has arrived is k"
        ):
            get_movi()
        (folder / name).unlink(missing_ok=True)
    assert holds(get_movi(), movi, SHARDS)


def test_room_is_made_sure_of_first(get_movi, movi, monkeypatch, tmp_path):
    free = sum(len(movi.files[PREFIX + name]) for name in SHARDS)
    disk = type("Usage", (), {})()
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda path: disk)
    disk.free = free - 1
    with pytest.raises(DataError, match=r"0\.00 GB needed, 0\.00 GB free; make room or choose --dest"):
        get_movi()
    assert not any(sent(movi, name) for name in SHARDS)
    part = tmp_path / "real" / PREFIX.removeprefix("tfds/") / f"{SHARDS[0]}.part"
    part.write_bytes(movi.files[PREFIX + SHARDS[0]][:1])
    get_movi()  # the byte that is there already needs no room
    disk.free = 0
    get_movi()


def test_room_on_a_disk_whose_folder_is_not_there_yet(tmp_path):
    check_space(tmp_path / "not" / "yet", 1)
    with pytest.raises(DataError, match="1000000000000.00 GB needed"):
        check_space(tmp_path / "not" / "yet", 1e21)


def test_a_larger_request_that_was_given_up_is_forgotten(get_movi, movi, tmp_path):
    movi.status = {PREFIX + SHARDS[3]: [404]}
    with pytest.raises(DataError):
        get_movi(workers=1)
    folder = get_movi(scenes=3)
    record = json.loads((folder / CHECKSUMS).read_text())
    assert SHARDS[3] not in record
    assert all((folder / name).exists() for name in record)
    assert all(scan_shard(folder / name)[1] is None for name in record if "tfrecord" in name)


def test_the_first_error_stops_the_others(bucket, tmp_path):
    bucket.files = {f"{i}": bytes(4_000_000) for i in range(3)}
    bucket.pause = 0.1  # 6 s a file
    bucket.status = {"0": [404]}
    start = time.monotonic()
    with pytest.raises(DataError, match="does not have it"):
        fetch_all([File(f"{bucket.url}/kubric-public/{i}", tmp_path / str(i)) for i in range(3)])
    assert time.monotonic() - start < 4
    assert {path.suffix for path in tmp_path.iterdir()} <= {".part"}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_happens_the_file_is_right_or_there_is_none(bucket, tmp_path_factory, data):
    body = data.draw(st.binary(max_size=200))
    bucket.files = {"f": body}
    bucket.ranges = data.draw(st.booleans())
    bucket.cuts = {"f": data.draw(st.lists(st.integers(0, 200), max_size=8))}
    bucket.status = {"f": data.draw(st.lists(st.sampled_from([500, 503, 404]), max_size=2))}
    path = tmp_path_factory.mktemp("f") / "f"
    if data.draw(st.booleans()):
        path.with_name("f.part").write_bytes(data.draw(st.binary(max_size=210)))
    size = data.draw(st.sampled_from([None, len(body)]))
    try:
        fetch_all([File(f"{bucket.url}/kubric-public/f", path, size, md5(body))])
        assert path.read_bytes() == body and not path.with_name("f.part").exists()
    except DataError:
        assert not path.exists()


# ------------------------------------------------------------------------------------------- StreetHazards


def tar(members, top="train/"):
    """A tar of (name, bytes) or TarInfo members, with the two folders of an archive of StreetHazards."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in [(f"{top}images/a.png", b"image"), (f"{top}annotations/a.png", b"label"), *members]:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def street(bucket, monkeypatch):
    for part in ("train", "test"):
        bucket.files[f"streethazards_{part}.tar"] = tar([(f"{part}/{part}.odgt", b"[]")], f"{part}/")
    parts = {part: (md5(bucket.files[f"streethazards_{part}.tar"]), 10_000) for part in ("train", "test")}
    monkeypatch.setattr(download, "STREET_PARTS", parts)
    return bucket


def test_the_published_sums_of_streethazards():
    assert {part: sums[0] for part, sums in download.STREET_PARTS.items()} == {
        "train": "cd2d1a8649848afb85b5059d227d2090",
        "test": "8c547c1346b00c21b2483887110bfea7",
    }


def test_both_parts_arrive_and_are_unpacked(street, tmp_path, capsys):
    arguments = ["streethazards", "--dest", str(tmp_path), "--server", street.url]
    assert main(arguments) == 0
    folder = tmp_path / "streethazards"
    assert f"python -m lib.data.streethazards {folder}" in capsys.readouterr().out
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    expected = {f"{part}/{name}" for part in ("train", "test") for name in ("images/a.png", "annotations/a.png")}
    assert files == expected | {"train/train.odgt", "test/test.odgt"}
    before = len(street.requests)
    assert main(arguments) == 0  # there already: nothing is asked for
    assert len(street.requests) == before


def test_one_part_and_its_archive_kept(street, tmp_path):
    arguments = ["streethazards", "--part", "test", "--keep-archive", "--dest", str(tmp_path), "--server", street.url]
    assert main(arguments) == 0
    assert {path.name for path in (tmp_path / "streethazards").iterdir()} == {"test", "streethazards_test.tar"}


def test_an_archive_is_resumed_and_its_md5_checked(street, tmp_path):
    name = "streethazards_test.tar"
    street.cuts = {name: [3000] + [0] * 20}
    with pytest.raises(DataError, match="times in a row"):
        download_streethazards(["test"], tmp_path, server=street.url)
    street.cuts = {}
    download_streethazards(["test"], tmp_path, server=street.url)
    assert street.requests[-1] == (name, "bytes=3000-")
    street.files["streethazards_train.tar"] += b"x"
    with pytest.raises(DataError, match="what arrived has md5"):
        download_streethazards(["train"], tmp_path, server=street.url)
    assert {path.name for path in (tmp_path / "streethazards").iterdir()} == {"test"}


def test_a_complete_part_whose_size_is_not_known_is_taken(street, tmp_path):
    part = tmp_path / "streethazards" / "streethazards_test.tar.part"
    part.parent.mkdir()
    part.write_bytes(street.files["streethazards_test.tar"])
    download_streethazards(["test"], tmp_path, server=street.url)
    assert len(street.requests) == 1  # answered 416: there is nothing behind the last byte
    assert (tmp_path / "streethazards" / "test" / "images" / "a.png").read_bytes() == b"image"


def test_a_part_is_there_only_with_files_in_it(street, tmp_path):
    target = tmp_path / "streethazards" / "test"
    target.mkdir(parents=True)
    download_streethazards(["test"], tmp_path, server=street.url)
    assert (target / "images" / "a.png").read_bytes() == b"image"
    (target / "images" / "a.png").unlink()
    (target / "images" / "t5").mkdir()
    with refused("test: no images in it; move it away and start again"):
        download_streethazards(["test"], tmp_path, server=street.url)
    assert (target / "annotations" / "a.png").exists() and len(street.requests) == 1


def test_room_for_the_archive_and_what_is_in_it(street, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 19_999}))
    with pytest.raises(DataError, match="GB needed"):
        download_streethazards(["test"], tmp_path, server=street.url)
    assert street.requests == []


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def pax(name, **headers):
    info = tarfile.TarInfo(name)
    info.pax_headers = {key.replace("_", "."): value for key, value in headers.items()}
    return info, b"1\n0\n512\n".ljust(512, b"\0") + bytes(512)


EVIL = {
    "sparse": special("train/images/b.png", tarfile.GNUTYPE_SPARSE),
    "sparse, 5 TB": pax("train/images/b.png", GNU_sparse_map="0,1", GNU_sparse_size=f"{5 << 40}"),
    "sparse, 5 TB, 1.0": pax(
        "train/images/b.png", GNU_sparse_major="1", GNU_sparse_minor="0", GNU_sparse_realsize=f"{5 << 40}"
    ),
    "deep": ("train/images/" + "a/" * 900 + "b.png", b"evil"),
    "long name": ("train/images/" + "a" * 5000, b"evil"),
    "name with NUL": pax("train/images/b.png", path="train/images/b\0.png"),
    "parent": ("../evil", b"evil"),
    "deep parent": ("train/images/../../../evil", b"evil"),
    "absolute": ("/tmp/evil-of-the-download-test", b"evil"),
    "symbolic link": special("train/out", tarfile.SYMTYPE, "../../.."),
    "absolute link": special("train/out", tarfile.SYMTYPE, "/"),
    "link inside": special("train/in", tarfile.SYMTYPE, "images"),
    "hard link": special("train/out", tarfile.LNKTYPE, "../evil"),
    "fifo": special("train/fifo", tarfile.FIFOTYPE),
    "device": special("train/device", tarfile.CHRTYPE),
}


@pytest.mark.parametrize("evil", EVIL)
def test_no_member_of_an_archive_gets_out_of_its_folder(tmp_path, evil):
    folder = tmp_path / "in" / "here"
    folder.mkdir(parents=True)
    (folder / "a.tar").write_bytes(tar([EVIL[evil], ("train/out/evil", b"evil")]))
    (folder / ".train.unpacking").mkdir()  # of a process that was killed
    if evil == "absolute":  # loses its slash and lands inside, next to train/, which alone is kept
        unpack(folder / "a.tar", folder / "train")
        assert not any("of-the-download-test" in path.name for path in tmp_path.rglob("*"))
    else:
        with refused("a.tar: .*nothing was unpacked; "):
            unpack(folder / "a.tar", folder / "train")
        assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")} == {
            "in",
            "in/here",
            "in/here/a.tar",
        }


def test_archives_that_are_none(tmp_path):
    archive = tmp_path / "a.tar"
    good = tar([("train/images/b.png", b"x" * 5000)])
    for content, match in [
        (b"", "nothing was unpacked"),
        (b"garbage" * 1000, "nothing was unpacked"),
        (good[:3000], "unexpected end of data"),
        (tar([], "elsewhere/"), "no images and no annotations in it"),
    ]:
        archive.write_bytes(content)
        with pytest.raises(DataError, match=match):
            unpack(archive, tmp_path / "train")
        assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def spoilt(content, at, value, key=slice(0, 8)):
    """A tar with one field of a header replaced, and the sum of that header mended."""
    header = bytearray(content[at : at + 512])
    header[key] = value.ljust(key.stop - key.start, b"\0")
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    return content[:at] + bytes(header) + content[at + 512 :]


MANY = tar([(f"train/images/{i}.png", bytes([65 + i]) * 700) for i in range(50)])
THIRD, SIZE = 2 * 1024, slice(124, 136)  # where the header of its third member starts; where a header has the size
BROKEN = {
    "garbage in a header": MANY[:THIRD] + b"garbage" * 73 + b"!" + MANY[THIRD + 512 :],
    "zeros for a header": MANY[:THIRD] + bytes(512) + MANY[THIRD + 512 :],
    "cut before a header": MANY[: THIRD + 1536],
    "cut in a header": MANY[: THIRD + 1536 + 300],
    "shorter": spoilt(MANY, THIRD, b"00000000001\0", SIZE),
    "longer": spoilt(MANY, THIRD, b"00000004000\0", SIZE),
    "points back": spoilt(MANY, THIRD, b"\xff" * 10 + b"\xfa\0", SIZE),
    "points to itself": spoilt(MANY, THIRD, b"\xff" * 10 + b"\xfe\0", SIZE),
    "5 TB": spoilt(MANY, THIRD, b"\x80" + (5 << 40).to_bytes(11, "big"), SIZE),
    "a header of 1 GB": spoilt(spoilt(MANY, THIRD, b"10000000000\0", SIZE), THIRD, b"x", slice(156, 157)),
    "names without end": MANY[:THIRD] + spoilt(MANY[THIRD : THIRD + 512], 0, b"L", slice(156, 157)) * 3000,
}


@pytest.mark.parametrize("broken", BROKEN)
def test_an_archive_that_breaks_off_is_not_taken_for_whole(tmp_path, broken):
    """Python's tarfile takes a spoilt header for the end of the archive."""
    (tmp_path / "a.tar").write_bytes(BROKEN[broken])
    with refused("a.tar: .*; nothing was unpacked; delete it"):
        unpack(tmp_path / "a.tar", tmp_path / "train")
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 8), st.integers(0, 511), st.binary(min_size=1, max_size=12))
def test_any_header_is_unpacked_or_refused(tmp_path, member, place, value):
    place = min(place, 512 - len(value))
    at = member * 1024 if member < 2 else THIRD + (member - 2) * 1536
    few = MANY[: THIRD + 7 * 1536] + bytes(1024)
    (tmp_path / "a.tar").write_bytes(spoilt(few, at, value, slice(place, place + len(value))))
    try:
        unpack(tmp_path / "a.tar", tmp_path / "train")
    except DataError:
        assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]
    else:
        shutil.rmtree(tmp_path / "train")


def test_a_disk_that_is_full_while_an_archive_is_unpacked(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "a.tar").write_bytes(MANY)
    monkeypatch.setattr(tarfile, "copyfileobj", full)
    with refused("a.tar: .*No space left on device; nothing was unpacked; start again"):
        unpack(tmp_path / "a.tar", tmp_path / "train")
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def test_an_archive_without_a_folder_on_top(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar([], ""))
    unpack(tmp_path / "a.tar", tmp_path / "train")
    assert (tmp_path / "train" / "images" / "a.png").read_bytes() == b"image"
    assert (tmp_path / "train").stat().st_mode & 0o777 == 0o755


# ------------------------------------------------------------------------------------------- command line


def test_the_command_line_of_movi(movi, tmp_path, capsys):
    arguments = ["movi_a", "--dest", str(tmp_path), "--server", movi.url]
    assert main([*arguments, "--split", "validation", "--resolution", "128", "--scenes", "5"]) == 0
    folder = tmp_path / "movi_a" / "128x128" / "1.0.0"
    assert capsys.readouterr().out.splitlines()[-1] == f"MoviDataset({str(folder)!r}, 'validation')"
    assert main([*arguments, "--verify"]) == 0
    assert "every file is as it was downloaded" in capsys.readouterr().out
    (folder / SHARDS[0]).unlink()
    assert main([*arguments, "--verify"]) == 1
    assert f"{SHARDS[0]} is missing" in capsys.readouterr().out
    assert main(["movi_a", "--verify", "--dest", str(tmp_path / "none")]) == 1
    assert "nothing was downloaded here" in capsys.readouterr().err


def test_a_python_whose_archives_have_no_filters_is_refused():
    root = download.ROOT
    assert tomllib.loads((root / "pyproject.toml").read_text())["project"]["requires-python"] == ">=3.11.4"
    assert "sys.version_info < (3, 11, 4)" in (root / "Makefile").read_text()
    assert "python>=3.11.4" in (root / "environment.yml").read_text()


@pytest.mark.parametrize("arguments", [[], ["movi_b"], ["movi_a", "--split", "test"], ["movi_a", "--resolution", "64"]])
def test_what_the_command_line_does_not_know(arguments):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)


def test_interrupted(monkeypatch, capsys):
    def interrupt(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr(download, "download_movi", interrupt)
    assert main(["movi_a"]) == 130
    assert "the same command goes on" in capsys.readouterr().err
