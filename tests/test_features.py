"""Tokens are computed once, survive a kill, and are never taken for other tokens."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lib import ROOT
from lib.features import FeatureError, compute, tokens_of


class Patches(nn.Module):
    """A stand-in for a backbone: a fixed linear map of 8 px patches."""

    name, strides = "patches", (8,)

    def __init__(self, scale=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 5, 8, stride=8)
        self.layer.weight.data *= scale
        self.calls = 0

    def forward(self, images):
        self.calls += 1
        maps = self.layer(images)
        return maps.flatten(2).transpose(1, 2), tuple(maps.shape[-2:])


@dataclass
class Scene:
    video: np.ndarray


class Scenes:
    split, frames = "train", None

    def __init__(self, fingerprint="abc", lengths=(4, 4, 4)):
        generator = np.random.default_rng(0)
        self.fingerprint = fingerprint
        self.scenes = [Scene(generator.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)) for n in lengths]

    def __len__(self):
        return len(self.scenes)

    def __getitem__(self, i):
        return self.scenes[i]


def test_cached_tokens_are_the_computed_ones_in_half_precision(tmp_path):
    backbone, scenes = Patches(), Scenes()
    found = compute(backbone, scenes, 32, 4, folder=tmp_path, batch=3)
    assert found.tokens.shape == (3, 4, 16, 5) and found.tokens.dtype == np.float16 and found.grid == (4, 4)
    images = torch.from_numpy(scenes[1].video).permute(0, 3, 1, 2).float() / 255
    torch.testing.assert_close(found.batch(slice(4, 8)), tokens_of(backbone, images, 32, 4), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found.clips([1], slice(1, 3))[0], found.batch(torch.tensor([5, 6])))
    everything = torch.from_numpy(found.tokens.astype(np.float32)).flatten(0, 2)
    torch.testing.assert_close(found.mean, everything.mean(0), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.std, everything.std(0, correction=0), atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="read-only"):
        found.tokens[0] = 0


def test_a_second_call_computes_nothing(tmp_path):
    backbone = Patches()
    compute(backbone, Scenes(), 32, 4, folder=tmp_path)
    calls = backbone.calls
    compute(backbone, Scenes(), 32, 4, folder=tmp_path)
    assert backbone.calls == calls


@pytest.mark.parametrize(
    "other",
    [{"scenes": Scenes("other")}, {"backbone": Patches(2.0)}, {"size": 64}, {"grid": 2}],
    ids=lambda o: next(iter(o)),
)
def test_another_setting_has_other_tokens(tmp_path, other):
    given = {"backbone": Patches(), "scenes": Scenes(), "size": 32, "grid": 4}
    compute(*given.values(), folder=tmp_path)
    changed = given | other
    compute(*changed.values(), folder=tmp_path)
    assert changed["backbone"].calls > 0 and len(list(tmp_path.glob("*.npy"))) == 2


def test_grids_finer_and_coarser_than_the_backbones():
    backbone = Patches()
    images = torch.rand(2, 3, 32, 32)
    native = tokens_of(backbone, images, 32, 4)
    coarse = tokens_of(backbone, images, 32, 2)
    torch.testing.assert_close(coarse.view(2, 2, 2, 5), native.view(2, 2, 2, 2, 2, 5).mean((2, 4)))
    assert tokens_of(backbone, images, 32, 8).shape == (2, 64, 5)


def test_damage_is_named_with_its_remedy(tmp_path):
    compute(Patches(), Scenes(), 32, 4, folder=tmp_path)
    path = next(tmp_path.glob("*.npy"))
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(FeatureError, match=f"{path.name} is damaged.*delete it"):
        compute(Patches(), Scenes(), 32, 4, folder=tmp_path)
    path.unlink()
    compute(Patches(), Scenes(), 32, 4, folder=tmp_path)
    note = path.with_suffix(".json")
    note.write_text(json.dumps(json.loads(note.read_text()) | {"shape": [1, 2]}))
    with pytest.raises(FeatureError, match="is due"):
        compute(Patches(), Scenes(), 32, 4, folder=tmp_path)


def test_scenes_of_other_lengths_leave_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match="scene 2 has 3 frames, the first has 4"):
        compute(Patches(), Scenes(lengths=(4, 4, 3)), 32, 4, folder=tmp_path)
    assert not list(tmp_path.glob("*.npy")) and not list(tmp_path.glob(".*.npy"))


SLOW = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_features as t
class Slow(t.Patches):
    def forward(self, images):
        time.sleep(0.3)
        (Path({folder!r}) / "computed").open("a").write("x")
        return super().forward(images)
from lib.features import compute
compute(Slow(), t.Scenes(), 32, 4, folder=Path({folder!r}))
"""


def start(folder):
    code = SLOW.format(tests=str(Path(__file__).parent), folder=str(folder))
    (folder / "slow.py").write_text(code)
    return subprocess.Popen(
        [sys.executable, str(folder / "slow.py")], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )


def test_two_processes_compute_once_and_a_killed_one_leaves_the_lock(tmp_path):
    killed = start(tmp_path)
    while not (tmp_path / "computed").exists():
        time.sleep(0.02)
        assert killed.poll() is None
    killed.kill()
    killed.wait()
    assert not [p for p in tmp_path.glob("*.npy") if not p.name.startswith(".")]
    (tmp_path / "computed").unlink()
    both = [start(tmp_path), start(tmp_path)]
    assert [p.wait(60) for p in both] == [0, 0]
    assert (tmp_path / "computed").read_text() == "xxx"  # one call a scene, from one of them
