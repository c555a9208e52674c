"""Masks of your own images and videos are those of the tables, and what cannot be used is said in one line."""

import numpy as np
import pytest
import torch

import lib
from lib import ROOT, features, files
from lib.apply import scenes, zoo
from lib.data.movi import MoviDataset
from lib.masks import guided, merge
from lib.models import backbones
from lib.models.dinosaur import on_image
from lib.models.pixel_autoencoder import Autoencoder
from lib.models.video import VideoModel
from lib.training import Run


def test_masks_of_a_frame_are_those_of_the_tables():
    run = lib.load("ex_dino4", "cpu")
    frame = MoviDataset(ROOT / "data" / "movi_a", "test", ("video",), [0])[0].video[0]
    image = torch.from_numpy(frame).permute(2, 0, 1)[None] / 255
    tokens = run.header["config"]["tokens"]
    network = backbones.load(tokens["backbone"], strides=tuple(tokens["strides"]))
    torch.manual_seed(0)
    with torch.no_grad():
        found = run.model(features.tokens_of(network, image, tokens["size"], tokens["grid"]))
    usual = scenes.finish("ex_dino4-ours-0", run.header)
    merged = merge(found.attention, found.slots, found.frames, usual.threshold)
    assert usual.threshold > 0
    for refine, due in ((True, guided(merged, image, usual.radius)), (False, on_image(merged, (128, 128)))):
        masks = lib.masks_of(frame, "ex_dino4", refine=refine, device="cpu")
        assert masks.dtype == np.float32
        np.testing.assert_allclose(masks, due[0].numpy(), atol=1e-4)
        scenes.backbone.cache_clear()  # which is built anew, and draws as it is


@pytest.mark.parametrize("shape", [(40, 60), (64, 64), (300, 420)])
def test_masks_cover_the_image_as_it_is(small, shape):
    picture = np.random.default_rng(0).random((*shape, 3), dtype=np.float32)
    for options in ({}, {"refine": False}, {"kind": "decoder"}, {"threshold": 0.5}, {"temperature": 0.3}):
        masks = lib.masks_of(picture, small(), **options)
        assert masks.shape == (11, *shape), options
        np.testing.assert_allclose(masks.sum(0), 1, atol=1e-4)
    assert np.array_equal(masks, lib.masks_of(picture, small(), **options)), "the same call gives the same masks"


def test_what_is_asked_for_is_done(small, picture):
    plain = lib.masks_of(picture, small(), refine=False)
    assert lib.masks_of(picture, small(), slots=4).shape[0] == 4
    sharp = lib.masks_of(picture, small(), refine=False, temperature=0.1)
    assert sharp.max(0).mean() > plain.max(0).mean() + 0.05
    one = lib.masks_of(picture, small(frames=False), threshold=2.1)
    assert one[0].min() > 0.999 and one[1:].max() == 0, "all slots are alike enough"
    assert not np.allclose(plain, lib.masks_of(picture, small(), refine=False, seed=1))
    clip = lib.masks_of(np.stack([picture] * 3), small())
    assert clip.shape == (3, 11, 40, 60)


def test_a_video_is_followed(small):
    run, frames = small(), torch.rand(4, 3, 64, 64)
    torch.manual_seed(0)
    with torch.no_grad():
        followed = VideoModel(run.model, predictor="none", iterations=(3, 3))(scenes.tokens_of(run, frames)[None])
    found = scenes.see(run, frames, video=True)
    torch.testing.assert_close(found.masks, followed.attention[0])
    torch.testing.assert_close(found.frames, followed.places[0])


def test_models_of_pixels_take_any_number_of_slots():
    for slots in (None, 3, 8):
        masks = lib.masks_of("coffee", "ex_slot2-photos-0", slots=slots, device="cpu")
        assert masks.shape == (slots or 5, 400, 600)
        np.testing.assert_allclose(masks.sum(0), 1, atol=1e-4)


def test_a_layer_behind_slots_is_a_mask_and_merged_with_none():
    torch.manual_seed(0)
    run = Run(
        Autoencoder(32, num_slots=3, layer=True).eval(), {"config": {"size": 32, "rules": {"temperature": (1, 1)}}}, {}
    )
    seen = scenes.see(run, torch.rand(1, 3, 32, 32))
    seen = seen._replace(slots=torch.ones_like(seen.slots))  # all are one
    joint = scenes.joined(seen, 0.5)
    assert joint.shape == (1, 4, 1024) and (joint[0, :3].amax(1) > 0).sum() == 1
    torch.testing.assert_close(joint[:, 3], seen.masks[:, 3])
    torch.testing.assert_close(joint.sum(1), torch.ones(1, 1024))


def test_tokens_of_other_weights_are_refused(small, picture):
    run = small()
    run.header["config"]["tokens"]["weights"] = "0123"
    with pytest.raises(zoo.Wrong, match="weights of pixels are .*, the model learned from 0123; put those into"):
        lib.masks_of(picture, run)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "ex_dino44"}, "no model 'ex_dino44'; choose one of ex_dino4"),
        ({"model": "streethazards"}, "a Segmenter has no slots; use lib.anomaly_of"),
        ({"slots": 1}, "1 slots; this model takes from 2 to"),
        ({"kind": "soft"}, "kind 'soft', temperature 1.0; give attention or decoder"),
        ({"temperature": 0}, "temperature 0; give attention or decoder, and a positive temperature"),
    ],
)
def test_what_cannot_be_asked_is_said_in_one_line(options, message, picture):
    with pytest.raises(zoo.Wrong, match=message) as stopped:
        lib.masks_of(picture, **{"device": "cpu"} | options)
    assert len(stopped.value._render_traceback_()) == 1


def test_masks_that_would_fill_the_memory_are_not_made(monkeypatch, small, picture):
    monkeypatch.setattr(scenes, "MOST", 10_000)
    with pytest.raises(zoo.Wrong, match="1 x 11 masks of 60 x 40 px take over 1 GB; give smaller frames"):
        lib.masks_of(picture, small())


def test_a_row_says_how_masks_are_finished(tmp_path, monkeypatch):
    monkeypatch.setattr(scenes, "ROOT", tmp_path)
    header = {"seed": 0, "config": {"recipe": {"steps": 9}}}
    assert scenes.finish("ex_dino4-ours-0", header) == (0.0, 6), "without a row nothing is merged"
    rows = [
        {"params": {"config": "ours", "seed": 0, "steps": 9}, "metrics": {"threshold": 0.3, "radius": 6}},
        {"params": {"config": "ours", "seed": 0, "steps": 5}, "metrics": {"threshold": 0.4}},
        {"params": {"config": "ours", "seed": 1, "steps": 9}, "metrics": {"threshold": 0.5}},
        {"params": {"config": "pixels", "seed": 0, "steps": 9}, "metrics": {"threshold": 0.6}},
    ]
    files.write(tmp_path / "figures" / "results" / "sweep_ex_dino4_trained.json", {"rows": rows})
    assert scenes.finish("ex_dino4-ours-0", header) == (0.3, 6), "of its seed and steps"
    header["config"]["recipe"]["steps"] = 7
    assert scenes.finish("ex_dino4-ours-0", header) == (0.4, 6), "else the latest of its seed"
    assert scenes.finish("mine", header) == (0.0, 6)
