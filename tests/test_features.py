"""Tokens are computed once, survive a kill, and are never taken for other tokens."""

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from lib import ROOT, features, files
from lib.features import FeatureError, compute, describe, tokens_of
from lib.models import backbones


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "FOLDER", tmp_path)


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
    found = compute(backbone, scenes, 32, 4)
    assert found.tokens.shape == (3, 4, 16, 5) and found.tokens.dtype == np.float16 and found.grid == (4, 4)
    images = torch.from_numpy(scenes[1].video).permute(0, 3, 1, 2).float() / 255
    torch.testing.assert_close(found.batch(slice(4, 8)), tokens_of(backbone, images, 32, 4), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found.clips([1])[0, 1:3], found.batch(torch.tensor([5, 6])))
    everything = torch.from_numpy(found.tokens.astype(np.float32)).flatten(0, 2)
    torch.testing.assert_close(found.mean, everything.mean(0), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.std, everything.std(0, correction=0), atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="read-only"):
        found.tokens[0] = 0


def test_tokens_do_not_depend_on_how_many_frames_a_backbone_sees_at_once(monkeypatch):
    network, seen = backbones.load("efficientnet_lite0", strides=(2, 4)), []
    network.register_forward_pre_hook(lambda _, images: seen.append(len(images[0])))
    video = np.random.default_rng(0).integers(0, 256, (7, 64, 64, 3), dtype=np.uint8)
    found = [features._half(network, video, 64, 16)]
    for few in (1, 24):
        monkeypatch.setattr(features, "FEW", few)
        found.append(features._half(network, video, 64, 16))
    assert seen == [6, 1, *[1] * 7, 7]
    for other in found[1:]:
        torch.testing.assert_close(found[0], other, atol=1e-3, rtol=1e-3)


def test_a_second_call_computes_nothing(tmp_path):
    backbone = Patches()
    compute(backbone, Scenes(), 32, 4)
    calls = backbone.calls
    compute(backbone, Scenes(), 32, 4)
    assert backbone.calls == calls


@pytest.mark.parametrize(
    "other",
    [{"scenes": Scenes("other")}, {"backbone": Patches(2.0)}, {"size": 64}, {"grid": 2}],
    ids=lambda o: next(iter(o)),
)
def test_another_setting_has_other_tokens(tmp_path, other):
    given = {"backbone": Patches(), "scenes": Scenes(), "size": 32, "grid": 4}
    compute(*given.values())
    changed = given | other
    compute(*changed.values())
    assert changed["backbone"].calls > 0 and len(list(tmp_path.glob("*.npy"))) == 2


def test_grids_finer_and_coarser_than_the_backbones():
    backbone = Patches()
    images = torch.rand(2, 3, 32, 32)
    native = tokens_of(backbone, images, 32, 4)
    coarse = tokens_of(backbone, images, 32, 2)
    torch.testing.assert_close(coarse.view(2, 2, 2, 5), native.view(2, 2, 2, 2, 2, 5).mean((2, 4)))
    assert tokens_of(backbone, images, 32, 8).shape == (2, 64, 5)


@pytest.mark.parametrize("room", [10**9, 0], ids=["kept", "computed"])
def test_one_pass_serves_two_grids(tmp_path, monkeypatch, room):
    """Tokens on half the grid are means of those that are kept: no second file, and no second pass."""
    monkeypatch.setattr(features, "FROM", {2: 4})
    monkeypatch.setattr(features.shutil, "disk_usage", lambda _: SimpleNamespace(free=room))
    backbone, scenes = Patches(), Scenes()
    fine = compute(backbone, scenes, 32, 4)
    calls = backbone.calls
    coarse = compute(backbone, scenes, 32, 2)
    assert backbone.calls == calls + (room == 0), "one scene tells the tokens' shape where none are kept"
    assert len(list(tmp_path.glob("*.npy"))) == (room > 0)
    assert (coarse.grid, coarse.about["grid"]) == ((2, 2), 2) and fine.grid == (4, 4)
    wanted = fine.batch(slice(None)).view(12, 2, 2, 2, 2, 5).mean((2, 4)).view(12, 4, 5)
    torch.testing.assert_close(coarse.batch(slice(None)), wanted)
    torch.testing.assert_close(coarse.clips([2], 1, 2)[0], wanted[9:11])
    torch.testing.assert_close(coarse.mean, wanted.mean((0, 1)))
    torch.testing.assert_close(coarse.std, wanted.flatten(0, 1).std(0, correction=0))
    assert compute(backbone, scenes, 16, 2).pooled == 1, "the backbone's own grid is 2 x 2"


def test_damage_is_named_with_its_remedy(tmp_path):
    compute(Patches(), Scenes(), 32, 4)
    path = next(tmp_path.glob("*.npy"))
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(FeatureError, match=f"{path.name} is damaged.*delete it"):
        compute(Patches(), Scenes(), 32, 4)
    path.unlink()
    compute(Patches(), Scenes(), 32, 4)
    note = path.with_suffix(".json")
    note.write_text(json.dumps(json.loads(note.read_text()) | {"shape": [1, 2]}))
    with pytest.raises(FeatureError, match="is due"):
        compute(Patches(), Scenes(), 32, 4)


SPOILT = {
    "an empty array": (".npy", b""),
    "no description": (".json", b""),
    "a list": (".json", b"[]"),
    "null": (".json", b"null"),
    "no mean": (".json", b'{"shape": [3, 4, 16, 5]}'),
    "deep": (".json", b"[" * 100_000),
    "few channels": (".json", b'{"shape": [3, 4, 16, 5], "mean": [1, 2], "std": {"1": [1, 2]}}'),
    "not a number": (".json", b'{"shape": [3, 4, 16, 5], "mean": [NaN, 1, 1, 1, 1], "std": {"1": [1, 1, 1, 1, 1]}}'),
}


@pytest.mark.parametrize(("suffix", "content"), SPOILT.values(), ids=SPOILT)
def test_whatever_is_damaged_is_said_in_one_line(tmp_path, suffix, content):
    compute(Patches(), Scenes(), 32, 4)
    path = next(tmp_path.glob("*.npy"))
    path.with_suffix(suffix).write_bytes(content)
    with pytest.raises(FeatureError, match=f"{path.name} is damaged .*delete it") as said:
        compute(Patches(), Scenes(), 32, 4)
    assert "\n" not in str(said.value)


def test_scenes_of_other_lengths_leave_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match="scene 2 has 3 frames, the first has 4"):
        compute(Patches(), Scenes(lengths=(4, 4, 3)), 32, 4)
    assert [p.suffix for p in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize(("lengths", "side", "said"), [((0, 4), 32, "0 frames"), ((4,), 64, "4 frames of 32 x 64 px")])
def test_no_frames_and_rectangles_are_refused(tmp_path, lengths, side, said):
    scenes = Scenes(lengths=lengths)
    for scene in scenes.scenes:
        scene.video = np.repeat(scene.video, side // 32, axis=2)
    with pytest.raises(ValueError, match=said):
        compute(Patches(), scenes, 64, 4)
    with pytest.raises(ValueError, match="4 frames of 32 x 64 px"):
        tokens_of(Patches(), torch.zeros(4, 3, 32, 64), 64, 8)
    assert not list(tmp_path.glob("*.npy"))


def test_tokens_beyond_half_precision_are_not_kept(tmp_path):
    with pytest.raises(ValueError, match="scene 0 are not finite"):
        compute(Patches(1e6), Scenes(), 32, 4)
    assert not list(tmp_path.glob("*.npy"))


def test_what_surrounds_the_call_does_not_change_tokens():
    images = torch.rand(2, 3, 32, 32)
    wanted = tokens_of(Patches(), images, 32, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(tokens_of(Patches(), images, 32, 4), wanted)


class Twins(Patches):
    """Two layers of one shape, a head count and an activation, which the weights do not show."""

    def __init__(self, swap=False, act=nn.ReLU, heads=1):
        super().__init__()
        pair = [nn.Linear(5, 5), nn.Linear(5, 5)]
        self.first, self.act, self.second = pair[swap], act(), pair[1 - swap]
        self.act.num_heads = heads


def test_what_is_drawn_at_random_is_known_by_what_draws_it():
    """Its last digits are the processor's; weights that were read count by their values."""
    drawn = backbones.load("random_efficientnet_lite0")
    before = describe(drawn, 32, 4)
    next(drawn.parameters()).data.mul_(1 + 1e-6)
    assert describe(drawn, 32, 4) == before
    drawn.mean += 1
    assert describe(drawn, 32, 4) != before
    drawn.provenance, seen = "a file", []
    for _ in range(2):
        seen.append(describe(drawn, 32, 4))
        next(drawn.parameters()).data.mul_(1 + 1e-6)
    assert seen[0] != seen[1]


def test_the_hash_of_weights_knows_which_layer_is_which_and_the_pixel_normalisation():
    assert describe(Twins(), 32, 4) != describe(Twins(swap=True), 32, 4)
    assert describe(Twins(), 32, 4) == describe(Twins(), 32, 4) != describe(Twins().bfloat16(), 32, 4)
    pixels = backbones.load("pixels")
    before = describe(pixels, 32, 4)
    pixels.mean.zero_()
    assert describe(pixels, 32, 4) != before


def changed(scenes):
    """The same fingerprint, as of a transform whose code or library is another."""
    scenes.scenes[0].video = 255 - scenes.scenes[0].video
    return scenes


@pytest.mark.parametrize(
    ("backbone", "scenes", "library"),
    [
        (Twins(swap=True), Scenes(), None),
        (Twins(act=nn.GELU), Scenes(), None),
        (Twins(heads=2), Scenes(), None),
        (Twins(), changed(Scenes()), None),
        (Twins(), Scenes(), "timm"),
        (Twins(), Scenes(), "torch"),
    ],
    ids=["layers", "activation", "heads", "transform", "timm", "torch"],
)
def test_whatever_moves_tokens_is_in_the_key(tmp_path, monkeypatch, backbone, scenes, library):
    compute(Twins(), Scenes(), 32, 4)
    if library:
        monkeypatch.setattr(features, "version", lambda name: "0" if name == library else version(name))
    compute(backbone, scenes, 32, 4)
    assert len(list(tmp_path.glob("*.npy"))) == 2


def test_finished_tokens_are_read_from_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    compute(Patches(), Scenes(), 32, 4)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files, "FileLock", refuse)
    assert compute(Patches(), Scenes(), 32, 4).tokens.shape == (3, 4, 16, 5)
    with pytest.raises(FeatureError, match=f"{tmp_path.name}: tokens cannot be kept .*Permission denied.*make room"):
        compute(Patches(), Scenes(), 32, 2)


def test_without_room_on_the_disk_tokens_are_computed_when_they_are_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(features.shutil, "disk_usage", lambda _: SimpleNamespace(free=1919))
    backbone, index = Patches(), torch.tensor([7])
    streamed = compute(backbone, Scenes(), 32, 4)
    assert "0.00 GB are free; these tokens are computed whenever they are asked for" in capsys.readouterr().out
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".lock"]
    found = [streamed.batch(index), streamed.clips(np.array([2, 0]), np.array([1, 0]), 2), streamed.clips(slice(1, 2))]
    calls = backbone.calls
    again = compute(backbone, Scenes(), 32, 4)
    assert backbone.calls == calls + 1 and torch.equal(again.mean, streamed.mean), "the mean is known by now"
    monkeypatch.setattr(features.shutil, "disk_usage", lambda _: SimpleNamespace(free=1920))
    kept = compute(backbone, Scenes(), 32, 4)
    assert isinstance(kept.tokens, np.memmap) and kept.tokens.shape == streamed.tokens.shape
    assert torch.equal(kept.mean, streamed.mean) and torch.equal(kept.std, streamed.std)
    wanted = [kept.batch(index), kept.clips(np.array([2, 0]), np.array([1, 0]), 2), kept.clips(slice(1, 2))]
    assert all(map(torch.equal, found, wanted))


def test_computed_tokens_of_the_next_step_are_made_while_this_one_trains(monkeypatch):
    kept = compute(Patches(), Scenes(), 32, 4)
    assert features.ahead(kept.batch, kept) == kept.batch
    monkeypatch.setattr(features.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    streamed, asked, begun = compute(Patches(), Scenes("other"), 32, 4), [], threading.Event()

    def batch(step):
        asked.append((step, threading.current_thread() is threading.main_thread()))
        if step == 1:
            begun.set()
        return streamed.batch([step])

    tokens = features.ahead(batch, streamed)
    assert torch.equal(tokens(0), streamed.batch([0])) and begun.wait(10)
    assert torch.equal(tokens(1), streamed.batch([1])) and torch.equal(tokens(7), streamed.batch([7]))
    assert asked[:2] == [(0, True), (1, False)] and (7, True) in asked


def test_a_split_decodes_what_is_asked_for_and_keeps_some_of_it(monkeypatch):
    monkeypatch.setattr(features, "DECODED", 2)
    data, decoded = Scenes(), []
    for scene in data.scenes:
        scene.masks = scene.video[..., 0] % 5

    class Counted(Scenes):
        name = "noise"

        def __getitem__(self, i):
            decoded.append(i)
            return data.scenes[i]

    backbone = Patches()
    backbone.dim = 5
    split = features.Split(Counted(), backbone, 32, 4)
    assert (split.shape, split.count) == ((3, 4, 32, 32), 12)
    assert torch.equal(split.ids(torch.tensor([5]))[0], torch.from_numpy(data.scenes[1].masks[1]).long())
    picture = split.pictures(np.array([11, 4]))[0].movedim(0, 2).numpy()
    np.testing.assert_allclose(picture * 255, data.scenes[2].video[3], rtol=1e-6)
    assert decoded == [0, 1, 2] and set(split._decoded) == {1, 2}
    assert split.frames(slice(4, 6)).shape == (2, 3, 32, 32) and decoded == [0, 1, 2], "still decoded"


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
from lib import features
features.FOLDER = Path({folder!r})
features.compute(Slow(), t.Scenes(), 32, 4)
"""


def start(folder):
    code = SLOW.format(tests=str(Path(__file__).parent), folder=str(folder))
    (folder / "slow.py").write_text(code)
    without_home = {k: v for k, v in os.environ.items() if k != "HOME"}
    return subprocess.Popen(
        [sys.executable, str(folder / "slow.py")], cwd=ROOT, env=without_home | {"PYTHONPATH": str(ROOT)}
    )


def test_two_processes_compute_once_and_a_killed_one_leaves_nothing(tmp_path):
    """Without HOME, and in a folder whose name is no ASCII."""
    tmp_path = tmp_path / "výpočty Ω"
    tmp_path.mkdir()
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
    assert not list(tmp_path.glob(".*"))
