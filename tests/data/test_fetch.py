"""Files that arrive whole or not at all, whatever the server does; archives unpacked whole or refused."""

import errno
import random
import shutil
import tarfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from server import md5, refused, tar

from lib.data import DataError, fetch
from lib.data.fetch import File, check_space, fetch_all, unpack


def have(file):
    fetch_all([file], "")


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
    monkeypatch.setattr(fetch, "open_session", lambda: session)
    bucket.files = {"f": b"x", "g": b"y"}
    bucket.moved = {"f": to.replace("127.0.0.1:1/x", bucket.url.partition("//")[2] + "/g")}
    with refused(match):
        have(File(bucket.url.replace("http:", "https:") + "/f", tmp_path / "f", md5(b"y"), 9))
    bucket.moved = {"f": bucket.url.replace("http:", "https:") + "/g"}
    have(File(bucket.url + "/f", tmp_path / "f", md5(b"y"), 9))
    assert (tmp_path / "f").read_bytes() == b"y"


@pytest.mark.parametrize("again", [False, True], ids=["one call", "two calls"])
def test_a_file_that_changes_while_it_is_resumed_is_fetched_anew(bucket, tmp_path, again):
    old = random.Random(0).randbytes(200_000)
    file = File(f"{bucket.url}/f", tmp_path / "f", md5(old[::-1]), len(old))
    bucket.files, bucket.next = {"f": old}, {"f": old[::-1]}
    bucket.cuts = {"f": [100_000] + [0] * 5 * again}
    if again:
        with refused("5 times in a row"):
            have(file)
        assert file.part.read_bytes() == old[:100_000]
    have(file)
    assert file.path.read_bytes() == old[::-1]
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    assert [asked for _, asked in bucket.requests[-2:]] == ["bytes=100000-", None]


def test_a_file_that_is_wrong_for_good_is_fetched_twice_at_most(bucket, tmp_path):
    bucket.files = {"f": bytes(200_000)}
    for cuts, requests in ([], 1), ([1000] + [0] * 99, 6), ([100_000, None] * 9, 4):
        bucket.cuts, bucket.requests[:] = {"f": cuts}, []
        with refused("times in a row" if requests == 6 else "what arrived has md5"):
            have(File(f"{bucket.url}/f", tmp_path / "f", md5(b"?"), 200_000))
        assert len(bucket.requests) == requests
        for path in tmp_path.iterdir():
            path.unlink()


def test_the_end_of_a_file_that_a_server_does_not_confirm(bucket, tmp_path):
    """Some answer 416 without the size."""
    bucket.files, bucket.headers = {"f": b"abc"}, {"f": {"Content-Range": "bytes */*"}}
    (tmp_path / "f.part").write_bytes(b"abc")
    have(File(f"{bucket.url}/f", tmp_path / "f", md5(b"abc"), 9))
    assert (tmp_path / "f").read_bytes() == b"abc" and len(bucket.requests) == 1


def test_an_answer_that_nothing_can_be_done_with(bucket, tmp_path):
    bucket.status = {"f": [416] * 9}
    with refused("/f: what arrived is missing"):
        have(File(f"{bucket.url}/f", tmp_path / "f", md5(b"abc"), 9))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("announced", [True, False])
def test_more_than_a_file_of_unknown_size_can_have(bucket, tmp_path, announced):
    bucket.files = {"f": bytes(100_000)}
    bucket.announce = {} if announced else {"f": None}
    with refused("announces 100000 bytes, 5000 are due" if announced else "more than the 5000 bytes"):
        have(File(f"{bucket.url}/f", tmp_path / "f", md5(bytes(100_000)), 5000))


def test_a_wrong_file_stays_until_the_right_one_is_there(bucket, tmp_path):
    bucket.files, bucket.status = {"f": b"right"}, {"f": [404]}
    (tmp_path / "f").write_bytes(b"wrong")
    with refused("HTTP 404"):
        have(file := File(f"{bucket.url}/f", tmp_path / "f", md5(b"right"), 5))
    assert (tmp_path / "f").read_bytes() == b"wrong"
    have(file)
    assert (tmp_path / "f").read_bytes() == b"right"


def test_room_on_a_disk_whose_folder_is_not_there_yet(tmp_path):
    check_space(tmp_path / "not yet", 1)
    with pytest.raises(DataError, match="1000000000000.00 GB needed"):
        check_space(tmp_path / "not yet", 1e21)


def test_the_first_error_ends_it(bucket, tmp_path):
    bucket.files, bucket.status = {f"{i}": b"x" for i in range(3)}, {"1": [404]}
    with refused("/1: .*HTTP 404"):
        fetch_all([File(f"{bucket.url}/{i}", tmp_path / str(i), md5(b"x"), 1) for i in range(3)], "")
    assert [path.name for path in tmp_path.iterdir()] == ["0"]


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
    most = data.draw(st.sampled_from([1 << 50, len(body)]))
    try:
        have(File(f"{bucket.url}/kubric-public/f", path, md5(body), most))
        assert path.read_bytes() == body and not path.with_name("f.part").exists()
    except DataError:
        assert not path.exists()


# ------------------------------------------------------------------------------------------- archives


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
