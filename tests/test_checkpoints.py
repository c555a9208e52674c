"""Checkpoints are whole or absent, and carry their own story."""

import pytest
import torch

from lib import checkpoints
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

    monkeypatch.setattr(checkpoints.os, "fsync", full_disk)
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
    from safetensors.torch import save_file

    save_file({"a": torch.ones(1)}, tmp_path / "stranger.safetensors")
    with pytest.raises(CheckpointError, match="no checkpoint of this workbook"):
        checkpoints.load(tmp_path / "stranger.safetensors")
    with pytest.raises(CheckpointError, match="does not exist"):
        checkpoints.load(tmp_path / "absent.safetensors")


def test_half_precision_touches_only_floats():
    made = checkpoints.half({"w": torch.ones(2), "n": torch.tensor([1, 2])})
    assert made["w"].dtype == torch.float16 and made["n"].dtype == torch.int64
