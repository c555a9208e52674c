"""Files are whole or not there, locks exclude, and what is read from outside has a limit."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from lib import ROOT, checkpoints, files
from lib.files import DataError


@pytest.mark.parametrize(
    ("content", "found"), [("é", b"\xc3\xa9"), (b"\x00", b"\x00"), ({"a": [1]}, b'{\n "a": [\n  1\n ]\n}\n')]
)
def test_text_bytes_and_json_are_written_whole(tmp_path, content, found):
    path = tmp_path / "new" / "x"
    files.write(path, content)
    assert path.read_bytes() == found and list(path.parent.iterdir()) == [path]


def test_json_has_a_line_for_every_row_and_nothing_is_lost():
    for value in ({"rows": [{"a": [1, {"b": None}]}, {}], "none": {}, "é": "ü"}, [], {}, [[1], 2.5], "x"):
        assert json.loads(files.as_lines(value)) == value
    assert files.as_lines({"rows": [{"a": [1]}, {"a": 2}]}).split("\n") == [
        "{", ' "rows": [', '  {"a":[1]},', '  {"a":2}', " ]", "}"
    ]  # fmt: skip
    with pytest.raises(ValueError):
        files.as_lines({"rows": [{"a": float("nan")}]})


def test_what_fails_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "x"
    files.write(path, "old")
    with pytest.raises(ZeroDivisionError), files.written(path) as temporary:
        temporary.write_text("new")
        raise ZeroDivisionError
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write(path, [float("nan")])
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_lock_excludes_other_processes_and_ends_with_its_holder(tmp_path):
    path = tmp_path / "x.lock"
    hold = "import sys; from pathlib import Path; from lib import files\nwith files.lock(Path(sys.argv[1])) as mine:\n"
    hold += "    print(mine, flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    holder = subprocess.Popen([sys.executable, "-c", hold, path], cwd=ROOT, **pipes)
    assert holder.stdout.readline() == "True\n"
    with files.lock(path) as mine:
        assert not mine
    holder.kill()
    holder.wait()
    with files.lock(path, wait=True) as mine:
        assert mine


def test_what_is_no_file_or_too_large_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert files.read_file(tmp_path / "x", 3) == b"abc"
    os.mkfifo(tmp_path / "pipe")
    for name, most, said in (("x", 2, "more than 2 bytes"), ("pipe", 9, "pipe or a device"), ("y", 9, "No such file")):
        with pytest.raises(DataError, match=said):
            files.read_file(tmp_path / name, most)
    with pytest.raises(ValueError, match="nested too deeply"):
        files.parse_json(b"[" * 100_000)


def test_a_file_has_the_mode_that_umask_allows_whoever_wrote_it(tmp_path):
    before = os.umask(0o027)
    try:
        checkpoints.save(tmp_path / "x.safetensors", {"x": torch.zeros(2)}, {})
        files.write(tmp_path / "x.txt", "text")
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("x.safetensors", "x.txt")] == [0o640, 0o640]


def test_who_lives_is_not_swept_away(tmp_path):
    """Two writers at once: the leftovers of the dead go, the file of the living stays, also that of another machine."""
    child = subprocess.Popen(["true"])
    child.wait()
    path = tmp_path / "x.json"
    with files.written(tmp_path / "y.json") as living:
        host = living.name.removeprefix(".y.json.").rsplit("-", 2)[0]
        dead = [tmp_path / f".{n}.{host}-{child.pid}-1.tmp" for n in ("x.json", "z.npy")]
        elsewhere = tmp_path / f".x.json.another-{child.pid}-1.tmp"
        for left in (*dead, elsewhere):
            left.touch()
        files.write(path, {})
        assert living.exists() and elsewhere.exists() and not any(left.exists() for left in dead)
    assert (tmp_path / "y.json").exists()


def test_packed_shares_come_back():
    shares = np.array([0.0, 1.0, np.nan, 0.123456, 0.5])
    text = files.packed(shares)
    assert len(text) == 16 and np.allclose(files.unpacked(text), shares, atol=8e-6, equal_nan=True)
    assert files.unpacked(text)[:2].tolist() == [0, 1]
    for wrong in (1.0001, -0.1, np.inf):
        with pytest.raises(ValueError, match=r"shares lie in 0\.\.1"):
            files.packed([0.5, wrong])
    with pytest.raises(ValueError, match="Only base64 data"):
        files.unpacked("0.67799 0.66897 0.61234")
