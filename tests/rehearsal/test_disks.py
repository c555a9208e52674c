"""A disk that fills, and one that nobody may write to: the error names the file, and what was there is as it was."""

import subprocess

import pytest
import torch
from test_kills import Patches, Scenes, measure

from lib import checkpoints, features, files, sweeps
from lib.data import DataError, fetch
from lib.features import FeatureError, Split

pytestmark = pytest.mark.slow


@pytest.fixture
def disk(tmp_path):
    """A disk of 256 KiB, on which 128 are taken; `disk("-o", "remount,ro")` and the like change it."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(*options):
        return subprocess.run(["mount", *options, str(folder)], capture_output=True, check=False).returncode

    if mount("-t", "tmpfs", "-o", "size=256k", "none"):
        pytest.skip("mounting is not permitted here")
    mount.folder = folder
    (folder / "taken").write_bytes(bytes(128 << 10))
    yield mount
    subprocess.run(["umount", str(folder)], check=True)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("what", ["text", "checkpoint"])
def test_a_file_that_does_not_fit(disk, what):
    """The old one stays, whole."""
    path = disk.folder / "x.safetensors"

    def write(size):
        if what == "text":
            files.write(path, "x" * 4 * size)
        else:
            checkpoints.save(path, {"x": torch.ones(size)}, {})

    write(1000)
    before = path.read_bytes()
    with pytest.raises(OSError, match=f"^{path} cannot be written .*No space left.*free some space"):
        write(100_000)
    assert path.read_bytes() == before and names(disk.folder) == ["taken", path.name]
    (disk.folder / "taken").unlink()
    write(20_000)
    assert path.stat().st_size >= 80_000


@pytest.mark.parametrize("how", ["full", "read-only"])
def test_tokens_that_cannot_be_kept(disk, monkeypatch, how):
    """And tokens that are there are read, whoever may write."""
    monkeypatch.setattr(features, "FOLDER", disk.folder / "cache")
    monkeypatch.setattr(
        features.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1 << 40})
    )  # taken meanwhile
    there = Split(Scenes(), Patches(), 16, 2).features
    if how == "full":
        (disk.folder / "more").write_bytes(bytes(100 << 10))
    else:
        disk("-o", "remount,ro")
    before = names(disk.folder / "cache")
    reason = "No space left" if how == "full" else "Read-only file system"
    with pytest.raises(FeatureError, match=f"{disk.folder}/cache: tokens cannot be kept .*{reason}.*make room"):
        Split(Scenes(), Patches(), 512, 64).features  # noqa: B018
    after = [n for n in names(disk.folder / "cache") if not n.endswith(".lock")]
    assert after == [n for n in before if not n.endswith(".lock")]
    assert (Split(Scenes(), Patches(), 16, 2).features.tokens == there.tokens).all()


def test_rows_that_cannot_be_kept(disk, monkeypatch):
    """What was measured before the disk was full stays, and nothing is measured twice when there is room."""
    monkeypatch.setenv("SLOTS_OUT", str(disk.folder))
    grid = sweeps.product({"a": list(range(60)), "seed": [1]})
    with pytest.raises(OSError, match=rf"{disk.folder}/sweeps/full/\w+.json cannot be written .*No space left"):
        sweeps.run(measure, grid, name="full", data="d")
    kept = {p: p.stat().st_mtime_ns for p in (disk.folder / "sweeps" / "full").glob("*.json")}
    assert kept and not [p for p in disk.folder.rglob("*.tmp")]
    disk("-o", "remount,size=4m")
    assert len(sweeps.run(measure, grid, name="full", data="d")) == 60
    assert all(p.stat().st_mtime_ns == when for p, when in kept.items())


def test_an_archive_that_does_not_fit(disk, tmp_path):
    import io
    import tarfile

    archive = tmp_path / "train.tar"
    with tarfile.open(archive, "w") as tar:
        for kind in ("images", "annotations"):
            info = tarfile.TarInfo(f"train/{kind}/0.png")
            info.size = 100 << 10
            tar.addfile(info, io.BytesIO(bytes(info.size)))
    with pytest.raises(DataError, match=f"{archive}: .*No space left.*nothing was unpacked; start again"):
        fetch.unpack(archive, disk.folder / "train")
    assert names(disk.folder) == ["taken"] and archive.exists()


def test_a_download_that_does_not_fit(disk, server):
    """What has arrived is kept, and it goes on from there when there is room."""
    server.content["x.bin"] = bytes(range(256)) * 1024
    file = fetch.File(f"{server.address}/x.bin", disk.folder / "x.bin", server.md5("x.bin"), 1 << 20)
    with pytest.raises(DataError, match=f"{disk.folder}/x.bin.part: No space left.*goes on from there"):
        fetch.fetch_all([file], "x")
    assert names(disk.folder) == ["taken", "x.bin.part"]
    (disk.folder / "taken").unlink()
    disk("-o", "remount,size=1m")
    fetch.fetch_all([file], "x")
    assert names(disk.folder) == ["x.bin"] and file.path.read_bytes() == server.content["x.bin"]
