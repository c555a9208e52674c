"""Views, captions and batches are what they should be, and what is kept loads."""

import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib import checkpoints, training
from lib.data.movi import COLORS, MATERIALS, SHAPES, SIZES, MoviDataset
from lib.models import backbones, small_vit
from lib.models.backbones import IMAGENET, Backbone
from lib.studies.backbones import pretraining
from lib.studies.backbones.objectives import Contrast, Distillation
from lib.training import Recipe, State, fit


@pytest.fixture(scope="module")
def scenes():
    return MoviDataset(split="train")[:8]


@given(st.integers(1, 9), st.integers(2, 16), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_half_of_the_images_have_one_rectangle_hidden(images, side, seed):
    torch.manual_seed(seed)
    masked = pretraining.blocks(images, side)
    assert masked.any((1, 2)).sum() == (images + 1) // 2
    for one in masked[masked.any((1, 2))]:
        rows, columns = one.any(1), one.any(0)
        assert torch.equal(one, rows[:, None] & columns[None, :])
        assert all(int(x.diff().ne(0).sum()) <= 2 for x in (rows.int(), columns.int())), "in one piece"
        assert 0.1 * side**2 - side <= one.sum() <= 0.5 * side**2 + side, "half a row of rounding on either side"


def test_a_caption_names_exactly_the_visible_objects():
    scene = SimpleNamespace(
        visibility=np.array([[5, 0], [1, 7], [0, 0], [9, 9]]),
        size=np.array([0, 1, 0, 1]),
        color=np.array([6, 0, 3, 0]),
        material=np.array([0, 1, 0, 1]),
        shape=np.array([0, 2, 1, 2]),
    )
    torch.manual_seed(0)
    drawn = {pretraining.caption(scene, 0) for _ in range(20)}
    assert {tuple(sorted(text.split(", "))) for text in drawn} == {
        ("a large blue rubber sphere", "a large blue rubber sphere", "a small red metal cube")
    }
    assert len(drawn) > 1, "in random order"
    assert pretraining.caption(scene, 1) == "a large blue rubber sphere, a large blue rubber sphere"


def test_captions_of_the_stand_in_agree_with_its_masks(scenes):
    for scene in scenes[:3]:
        for frame in (0, 12):
            ids = np.unique(scene.masks[frame])
            kinds = ((SIZES, scene.size), (COLORS, scene.color), (MATERIALS, scene.material), (SHAPES, scene.shape))
            wanted = [" ".join(["a", *(names[v[i - 1]] for names, v in kinds)]) for i in ids[ids > 0]]
            text = pretraining.caption(scene, frame)
            assert sorted(text.split(", ")) == sorted(wanted)
            row = pretraining.word_ids([text, ""])
            words = [pretraining.WORDS[i] for i in row[0] if i]
            assert " ".join(words).replace(" ,", ",") == text and row.shape == (2, pretraining.LENGTH)
            assert row[1].count_nonzero() == 1, "an empty caption still has a word"


def test_a_batch_has_no_two_frames_of_one_scene():
    recipe = Recipe(steps=3, batch=30, seed=4)
    draws = [pretraining.draw(31, 24, recipe, step) for step in range(40)]
    assert all(len(set(chosen)) == 30 for chosen, _ in draws)
    assert {t for _, frames in draws for t in frames} == set(range(24))
    assert draws[3] == pretraining.draw(31, 24, recipe, 3) != draws[4]
    with pytest.raises(ValueError, match="wants as many scenes, there are 12; lower batch"):
        pretraining.draw(12, 24, recipe, 0)


def test_views_are_crops_of_their_own_in_the_backbones_normalisation():
    images = torch.rand(6, 3, 1, 1).expand(-1, -1, 64, 64).contiguous()
    torch.manual_seed(0)
    found = pretraining.views(images, 32, (0.2, 0.5))
    assert found.shape == (6, 3, 32, 32)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in backbones.IMAGENET)
    seen = found * std + mean
    assert seen.min() >= -1e-6 and seen.max() <= 1 + 1e-6
    assert seen.std((2, 3)).max() < 1e-5, "a picture of one colour stays one"
    ramp = torch.linspace(0.2, 0.6, 64).expand(6, 3, 64, 64).contiguous()
    crops = pretraining.views(ramp, 32, (0.2, 0.5))
    slopes = (crops[..., -1] - crops[..., 0]).mean((1, 2))
    assert len({round(float(s), 4) for s in slopes}) == 6 and (slopes > 0).any() and (slopes < 0).any(), "flips"


@pytest.mark.parametrize("objective", pretraining.OBJECTIVES)
def test_killed_and_resumed_is_uninterrupted(scenes, tmp_path, monkeypatch, objective):
    """Teacher, centres and optimiser go on where they were: the process may end between any two steps."""
    recipe = Recipe(steps=4, batch=4, lr=1e-2, warmup=1)

    monkeypatch.setattr(training, "SAVE_EVERY", 0)
    monkeypatch.setattr(training, "LOG_EVERY", 1)

    class Killed(Exception):
        pass

    def run(state, last=None):
        torch.manual_seed(0)
        vit = small_vit.build()
        if objective == "clip":
            model, loss = Contrast(vit, len(pretraining.WORDS), pretraining.LENGTH), pretraining._contrast
        else:
            model, loss = Distillation(vit, objective == "ibot", 16), pretraining._distil

        def step_of(net, step):
            if step == last:
                raise Killed
            return loss(scenes, recipe, net, step)

        found = fit(model, step_of, recipe, state=State(state), device="cpu")
        return model.state_dict(), found.history

    with pytest.raises(Killed):
        run(tmp_path / "a.safetensors", last=2)
    (resumed, again), (straight, once) = run(tmp_path / "a.safetensors"), run(tmp_path / "b.safetensors")
    assert again == once and all(torch.equal(v, resumed[k]) for k, v in straight.items())
    assert all(math.isfinite(v) for row in once for v in row.values())
    if objective != "clip":
        moved = [k for k in straight if k.startswith("student.vit") and k.endswith("weight")]
        assert all(not torch.equal(straight[k], straight[k.replace("student", "teacher")]) for k in moved)


def test_what_is_trained_is_kept_and_loads_as_a_backbone(tmp_path, monkeypatch):
    monkeypatch.setenv("SLOTS_OUT", str(tmp_path))
    small = {"steps": 2, "batch": 2}
    trained = pretraining.train("ibot", **small, device="cpu").model
    (path,) = (tmp_path / "checkpoints").glob("vit8_ibot-??????.safetensors")
    tensors, header = checkpoints.load(path)
    assert (
        not [k for k in tensors if re.search("head|mask|centre", k)]
        and tensors["model.norm.weight"].dtype == torch.half
    )
    assert header["config"]["objective"] == "ibot" and header["config"]["recipe"]["steps"] == 2
    assert header["data"] == MoviDataset(split="train").fingerprint
    picture = torch.rand(1, 3, 128, 128)

    def of(vit):
        return Backbone("vit8_ibot", vit, IMAGENET, (small_vit.PATCH,), "test")(picture).tokens

    torch.testing.assert_close(backbones.load("vit8_ibot", path)(picture).tokens, of(trained))
    changed = path.stat().st_mtime_ns
    again = pretraining.train("ibot", **small, device="cpu")
    assert path.stat().st_mtime_ns == changed and again.history == header["history"], "loaded, not trained"
    torch.manual_seed(0)
    begun = of(small_vit.build())  # what all three objectives begin with
    torch.testing.assert_close(begun, backbones.load("vit8_random")(picture).tokens)
    with pytest.raises(ValueError, match="choose one of dino, ibot, clip"):
        pretraining.train("mae")
