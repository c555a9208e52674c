"""Checkpoints are whole or absent, and carry their own story."""

import pytest
import torch
from safetensors.torch import save_file

from lib import checkpoints, files
from lib.checkpoints import CheckpointError


def test_round_trip_with_provenance(tmp_path):
    tensors = {"a": torch.randn(3, 4).T, "b": torch.tensor(7)}
    checkpoints.save(tmp_path / "x.safetensors", tensors, {"seed": 3, "config": {"lr": 1e-3}})
    loaded, header = checkpoints.load(tmp_path / "x.safetensors")
    assert all(torch.equal(loaded[k], v) for k, v in tensors.items())
    assert header["seed"] == 3 and header["config"] == {"lr": 1e-3} and header["revision"]


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    checkpoints.save(path, {"a": torch.ones(2)}, {"seed": 1})
    before = path.read_bytes()

    def full_disk(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(files.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        checkpoints.save(path, {"a": torch.zeros(2)}, {"seed": 2})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"\xff" * 8 + b[8:]])
def test_damage_is_named_with_its_remedy(tmp_path, damage):
    path = tmp_path / "x.safetensors"
    checkpoints.save(path, {"a": torch.ones(64)}, {})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"x.safetensors is damaged.*delete it"):
        checkpoints.load(path)


def test_strangers_and_absent_files(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "stranger.safetensors")
    with pytest.raises(CheckpointError, match="no checkpoint of this workbook"):
        checkpoints.load(tmp_path / "stranger.safetensors")
    with pytest.raises(CheckpointError, match="does not exist"):
        checkpoints.load(tmp_path / "absent.safetensors")


@pytest.mark.parametrize(
    ("provenance", "message"),
    [("[]", "no dict but"), ("null", "no dict but None"), ("[" * 100_000, "nested|recursion"),
     ('{"a":' * 40 + "1" + "}" * 40, "nested more than 30"), ('"' + "x" * 21_000_000 + '"', "21,000,002 bytes")],
)  # fmt: skip
def test_a_provenance_that_attacks_is_refused(tmp_path, provenance, message):
    save_file({"a": torch.ones(1)}, tmp_path / "x.safetensors", metadata={"provenance": provenance})
    with pytest.raises(CheckpointError, match=rf"x.safetensors is damaged.*({message})"):
        checkpoints.load(tmp_path / "x.safetensors")
    assert checkpoints.about(tmp_path / "x.safetensors") == {}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(tmp_path, value):
    checkpoints.save(tmp_path / "x.safetensors", {"a": torch.tensor([1.0, value])}, {})
    with pytest.raises(CheckpointError, match="x.safetensors.*a holds values that are not finite"):
        checkpoints.load(tmp_path / "x.safetensors")


def test_tied_weights_are_kept_apart(tmp_path):
    tied = torch.nn.Linear(3, 3)
    tied.other = tied.weight
    checkpoints.save(tmp_path / "x.safetensors", tied.state_dict() | {"part": tied.weight[:2]}, {})
    loaded, _ = checkpoints.load(tmp_path / "x.safetensors")
    assert torch.equal(loaded["weight"], loaded["other"]) and torch.equal(loaded["part"], tied.weight[:2])


def test_what_cannot_be_written_names_the_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file/x.safetensors cannot be written"):
        checkpoints.save(tmp_path / "file" / "x.safetensors", {"a": torch.ones(1)}, {})
    with (
        pytest.raises(OSError, match="y cannot be written .*No space"),
        files.written(tmp_path / "y") as temporary,
    ):
        temporary.unlink()
        temporary.symlink_to("/dev/full")  # a disk without room
        temporary.write_text("x" * 100_000)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
