import base64
import gzip
import hashlib
import json
import os
import platform
import threading
import time
import tomllib
from collections import Counter
from http import HTTPStatus

import pytest
from server import md5, refused, tar
from tfrecords import write_records

from lib.data import DataError, download, fetch
from lib.data.download import download_movi, download_streethazards, main, verify
from lib.data.shards import CHECKSUMS
from lib.data.tfrecord import scan_shard

PREFIX = "tfds/movi_a/128x128/1.0.0/"
SHARDS = [f"movi_a-validation.tfrecord-{i:05d}-of-00004" for i in range(4)]


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
def get_movi(movi, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MOVI_SERVER", movi.url)

    def call(**options):
        return download_movi(**{"split": "validation", "dest": tmp_path / "real", **options})

    return call


def holds(folder, bucket, names):
    return all((folder / name).read_bytes() == bucket.files[PREFIX + name] for name in names)


def sent(bucket, name):
    return [asked for got, asked in bucket.requests if got == PREFIX + name]


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
            assert record.pop(name.removeprefix(PREFIX)) == md5(data)
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
    faults, before = verify(tmp_path / "real"), len(movi.requests)
    assert [line.partition("tfrecord-")[2][:5] for line in faults] == ["00001", "00002", "00003"]
    assert "has md5" in faults[0] and "has md5" in faults[1] and "is missing" in faults[2]
    assert holds(get_movi(), movi, SHARDS)
    assert [name[-14:-9] for name, _ in movi.requests[before:]] == ["", "00001", "00002", "00003"]
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
        get_movi()
    folder = tmp_path / "real" / PREFIX.removeprefix("tfds/")
    part = folder / f"{SHARDS[0]}.part"
    have = part.stat().st_size
    assert 0 < have <= 150_000 and not (folder / SHARDS[0]).exists()
    movi.cuts, before = {}, len(movi.requests)
    get_movi()
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
    if left == "complete" and ranges:  # the server says that nothing comes behind it
        assert sent(movi, SHARDS[0]) == [f"bytes={len(data)}-"]


def test_a_listing_that_lies_about_a_size(get_movi, movi):
    name = PREFIX + SHARDS[1]
    true = len(movi.files[name])
    movi.listed = {name: {"size": str(true - 1)}}
    with pytest.raises(DataError, match=rf"{SHARDS[1]}: the server announces {true} bytes, {true - 1} are due"):
        get_movi()
    movi.listed = {name: {"size": str(true + 1)}}  # the md5 is what counts
    assert holds(get_movi(), movi, SHARDS)


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
    folder = get_movi()
    assert holds(folder, movi, SHARDS)
    name = PREFIX + SHARDS[1]
    true = len(movi.files[name])
    (folder / SHARDS[1]).unlink()
    movi.listed = {name: {"size": str(true - 1)}}
    with refused(f"{SHARDS[1]}: the server sends more than the {true - 1} bytes"):
        get_movi()
    movi.listed, movi.cuts = {}, {name: [1000, 1000]}  # nothing tells that more was to come, but the md5
    (folder / f"{SHARDS[1]}.part").unlink()
    with refused(f"{SHARDS[1]}: what arrived has md5"):
        get_movi()
    assert not (folder / SHARDS[1]).exists()


def test_a_file_that_is_not_what_its_md5_says(get_movi, movi, tmp_path):
    name = PREFIX + SHARDS[1]
    movi.listed = {name: {"md5Hash": base64.b64encode(hashlib.md5(b"other").digest()).decode()}}
    with pytest.raises(DataError, match=rf"{SHARDS[1]}: what arrived has md5 .*, {md5(b'other')} is due"):
        get_movi()
    assert not list((tmp_path / "real").rglob(f"{SHARDS[1]}*"))


def test_a_listing_without_md5_is_refused(get_movi, movi):
    movi.listed = {PREFIX + SHARDS[2]: {"md5Hash": None}}
    with refused("no listing of files with size and md5 .*md5Hash"):
        get_movi()
    assert not any(sent(movi, shard) for shard in SHARDS)


def test_a_file_that_changed_at_the_source_is_fetched_anew(get_movi, movi):
    get_movi()
    movi.files[PREFIX + SHARDS[2]] = movi.files[PREFIX + SHARDS[1]]
    assert len(sent(movi, SHARDS[2])) == 1
    assert holds(get_movi(), movi, SHARDS)
    assert len(sent(movi, SHARDS[2])) == 2


def test_an_overloaded_server_is_asked_again(get_movi, movi):
    movi.status = {"listing": [503, 429], PREFIX + SHARDS[0]: [500, 503]}
    assert holds(get_movi(), movi, SHARDS)


@pytest.mark.parametrize("code", [401, 403, 404, 503])
@pytest.mark.parametrize("where", ["listing", PREFIX + SHARDS[2]])
def test_refusals_say_what_they_mean(get_movi, movi, where, code):
    movi.status = {where: [code] * 99}
    with refused(f"127.0.0.1:.* answers with HTTP {code} {HTTPStatus(code).phrase}; what has arrived is kept") as error:
        get_movi()
    assert ("kubric-public/o" if where == "listing" else SHARDS[2]) in str(error.value)
    assert Counter(name for name, _ in movi.requests)[where] == (5 if code == 503 else 1)


def test_offline(get_movi, movi, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(download, "MOVI_SERVER", "http://127.0.0.1:9")
    with pytest.raises(DataError, match="cannot reach 127.0.0.1:9 for http.* is this machine offline"):
        get_movi()
    assert main(["movi_a", "--dest", str(tmp_path)]) == 1
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
        '{"items": [{"name": "x", "size": "1"}]}',
        '{"items": [{"name": "x", "size": "1", "md5Hash": 3}]}',
    ],
)
def test_a_listing_that_is_none(get_movi, movi, body):
    movi.body = body.encode()
    with refused("no listing of files with size and md5"):
        get_movi()


@pytest.mark.parametrize(("size", "match"), [(10**19, "10000000000.00 GB needed"), (-5, "-5 are due")])
def test_a_listing_of_impossible_sizes(get_movi, movi, size, match):
    movi.listed = {PREFIX + SHARDS[1]: {"size": str(size)}}
    with refused(match):
        get_movi()


def test_a_listing_without_end(get_movi, movi, monkeypatch):
    movi.body = b'{"nextPageToken": "again"}'
    with refused("the listing does not end within 100 pages"):
        get_movi()
    movi.body = lambda request: json.dumps({"nextPageToken": f"{request}" + "x" * 999}).encode()
    with refused("the listing does not end within 100 pages"):
        get_movi()
    assert len(movi.requests) == 200
    movi.body = b" " * (1 << 24)
    with refused("sends more than the 1048576 bytes"):
        get_movi()
    monkeypatch.setattr(download, "PATIENCE", 0.1)
    movi.body, movi.pause = b" " * (1 << 19), 0.05
    with refused("no listing of files .* .'not there after 0.1 s'"):
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


@pytest.mark.parametrize("url", ["", "nowhere", "http://[::1", "file:///etc/passwd", "http://a b/"])
def test_addresses_that_are_none(get_movi, monkeypatch, url):
    monkeypatch.setattr(download, "MOVI_SERVER", url)
    with refused("cannot reach"):
        get_movi()


def test_two_downloads_at_once(get_movi, movi):
    """The second is refused, and the first comes to its end."""
    movi.pause = 0.05
    first = threading.Thread(target=get_movi)
    first.start()
    while not any(sent(movi, shard) for shard in SHARDS):
        time.sleep(0.01)
    with refused("1.0.0: another download is at work here"):
        get_movi()
    first.join()
    before = len(movi.requests)
    assert holds(get_movi(), movi, SHARDS) and len(movi.requests) == before + 1


def test_a_full_disk_names_the_file(get_movi, movi, tmp_path):
    folder = tmp_path / "real" / PREFIX.removeprefix("tfds/")
    folder.mkdir(parents=True)
    for name in (f"{SHARDS[0]}.part", f".{CHECKSUMS}.{platform.node()}-{os.getpid()}-{threading.get_ident()}.tmp"):
        (folder / name).symlink_to("/dev/full")
        match = f"{SHARDS[0]}.part: No space left on device; what has arrived is k" if "part" in name else CHECKSUMS
        with pytest.raises((DataError, OSError), match=f"{match}.*"):
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


def test_a_larger_request_that_was_given_up_is_forgotten(get_movi, movi, tmp_path):
    movi.status = {PREFIX + SHARDS[3]: [404]}
    with pytest.raises(DataError):
        get_movi()
    folder = get_movi(scenes=3)
    record = json.loads((folder / CHECKSUMS).read_text())
    assert SHARDS[3] not in record
    assert all((folder / name).exists() for name in record)
    assert all(scan_shard(folder / name)[1] is None for name in record if "tfrecord" in name)


# ------------------------------------------------------------------------------------------- StreetHazards


@pytest.fixture
def street(bucket, monkeypatch):
    for part in ("train", "test"):
        bucket.files[f"streethazards_{part}.tar"] = tar([(f"{part}/{part}.odgt", b"[]")], f"{part}/")
    parts = {part: (md5(bucket.files[f"streethazards_{part}.tar"]), 10_000) for part in ("train", "test")}
    monkeypatch.setattr(download, "STREET_PARTS", parts)
    monkeypatch.setattr(download, "STREET_SERVER", bucket.url)
    return bucket


def test_the_published_sums_of_streethazards():
    assert {part: sums[0] for part, sums in download.STREET_PARTS.items()} == {
        "train": "cd2d1a8649848afb85b5059d227d2090",
        "test": "8c547c1346b00c21b2483887110bfea7",
    }


def test_both_parts_arrive_and_are_unpacked(street, tmp_path, capsys):
    arguments = ["streethazards", "--dest", str(tmp_path)]
    assert main(arguments) == 0
    folder = tmp_path / "streethazards"
    assert f"python -m lib.data.streethazards {folder}" in capsys.readouterr().out
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    expected = {f"{part}/{name}" for part in ("train", "test") for name in ("images/a.png", "annotations/a.png")}
    assert files == expected | {"train/train.odgt", "test/test.odgt"}
    before = len(street.requests)
    assert main(arguments) == 0  # there already: nothing is asked for
    assert len(street.requests) == before


def test_one_part_alone(street, tmp_path):
    assert main(["streethazards", "--part", "test", "--dest", str(tmp_path)]) == 0
    assert [path.name for path in (tmp_path / "streethazards").iterdir()] == ["test"]


def test_an_archive_is_resumed_and_its_md5_checked(street, tmp_path):
    name = "streethazards_test.tar"
    street.cuts = {name: [3000] + [0] * 20}
    with pytest.raises(DataError, match="times in a row"):
        download_streethazards(["test"], tmp_path)
    street.cuts = {}
    download_streethazards(["test"], tmp_path)
    assert street.requests[-1] == (name, "bytes=3000-")
    street.files["streethazards_train.tar"] += b"x"
    with pytest.raises(DataError, match="what arrived has md5"):
        download_streethazards(["train"], tmp_path)
    assert {path.name for path in (tmp_path / "streethazards").iterdir()} == {"test"}


def test_a_complete_part_whose_size_is_not_known_is_taken(street, tmp_path):
    part = tmp_path / "streethazards" / "streethazards_test.tar.part"
    part.parent.mkdir()
    part.write_bytes(street.files["streethazards_test.tar"])
    download_streethazards(["test"], tmp_path)
    assert len(street.requests) == 1  # answered 416: there is nothing behind the last byte
    assert (tmp_path / "streethazards" / "test" / "images" / "a.png").read_bytes() == b"image"


def test_a_part_is_there_only_with_files_in_it(street, tmp_path):
    target = tmp_path / "streethazards" / "test"
    target.mkdir(parents=True)
    download_streethazards(["test"], tmp_path)
    assert (target / "images" / "a.png").read_bytes() == b"image"
    (target / "images" / "a.png").unlink()
    (target / "images" / "t5").mkdir()
    with refused("test: no images in it; move it away and start again"):
        download_streethazards(["test"], tmp_path)
    assert (target / "annotations" / "a.png").exists() and len(street.requests) == 1


def test_room_for_the_archive_and_what_is_in_it(street, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 19_999}))
    with pytest.raises(DataError, match="GB needed"):
        download_streethazards(["test"], tmp_path)
    assert street.requests == []


# ------------------------------------------------------------------------------------------- command line


def test_the_command_line_of_movi(get_movi, tmp_path, capsys):
    arguments = ["movi_a", "--dest", str(tmp_path)]
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
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(download, "download_movi", interrupt)
    assert main(["movi_a"]) == 130
    assert "the same command goes on" in capsys.readouterr().err
