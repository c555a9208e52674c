"""Training on clips and measuring whole videos, on a split small enough to know the answer."""

import ast
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch.nn.functional import normalize

from lib import ROOT, results
from lib.metrics import objects
from lib.models.dinosaur import Dinosaur
from lib.models.video import VideoModel
from lib.studies.objects import experiment, tracking
from lib.studies.objects.tracking import ClipConfig, max_activation, slot_similarity
from lib.training import Recipe

RECIPE = Recipe(3, batch=2, lr=1e-3, warmup=1)


@pytest.fixture
def scenes(split):
    return split(frames=6, step=2)


def model(**video):
    torch.manual_seed(0)
    return VideoModel(Dinosaur(4, num_slots=3, slot_dim=8, hidden_dim=16), **video).eval()


SMALL = {"num_slots": 3, "slot_dim": 8, "hidden_dim": 16}


def test_a_trained_model_is_loaded_and_another_is_trained(scenes, tmp_path, monkeypatch):
    monkeypatch.setenv("SLOTS_OUT", str(tmp_path))
    first = tracking.train("v", scenes, ClipConfig(model=SMALL, contrast=0.1), RECIPE, device="cpu")
    again = tracking.train("v", scenes, ClipConfig(model=SMALL, contrast=0.1), RECIPE, device="cpu")
    assert first.header["seconds"] == again.header["seconds"]  # read from the checkpoint
    assert len(list((results.out() / "checkpoints").glob("v-??????.safetensors"))) == 1
    assert first.history[-1].keys() >= {"error", "contrast", "mask_certainty"}
    torch.testing.assert_close(again.model.image_model.mean, scenes.features.mean, atol=1e-2, rtol=1e-2)
    other = tracking.train("v", scenes, ClipConfig(model=SMALL, contrast=0.2), RECIPE, device="cpu")
    assert other.header["config"]["rules"]["contrast"] == 0.2


def test_training_begins_from_the_image_model_that_is_handed_over(scenes, tmp_path, monkeypatch):
    monkeypatch.setenv("SLOTS_OUT", str(tmp_path))
    torch.manual_seed(3)
    image = Dinosaur(4, **SMALL)
    start = SimpleNamespace(model=image, header={"config": {"seed": 3}})
    still = Recipe(1, batch=2, lr=0.0, warmup=1)
    run = tracking.train("s", scenes, ClipConfig(model=SMALL), still, start=start, device="cpu")
    kept = run.model.image_model.decoder.slot.weight
    start.model.decoder.slot.weight.data += 1
    other = tracking.train("s", scenes, ClipConfig(model=SMALL), still, start=start, device="cpu")
    assert run.header["config"]["start"]["weights"] != other.header["config"]["start"]["weights"]
    start.model.decoder.slot.weight.data -= 1
    torch.testing.assert_close(kept, image.decoder.slot.weight, atol=1e-3, rtol=1e-2)


def test_videos_shorter_than_a_clip_are_refused(scenes, tmp_path, monkeypatch):
    monkeypatch.setenv("SLOTS_OUT", str(tmp_path))
    with pytest.raises(ValueError, match="long: videos have 6 frames, clips 7"):
        tracking.train("long", scenes, ClipConfig(model=SMALL, clip=7), RECIPE, device="cpu")


def test_clips_stay_within_their_video(scenes):
    """The last clip that can begin is the one that ends with the video."""
    tokens = scenes.features.tokens
    starts = tokens.shape[1] - 4 + 1
    first, scene = np.divmod(np.arange(len(tokens) * starts), len(tokens))
    assert first.max() + 4 == tokens.shape[1] and set(scene) == {0, 1}


def test_a_random_half_of_the_positions_is_an_unbiased_loss(scenes):
    net = model(predictor="none")
    clips = scenes.features.clips(slice(None))[:, :3]

    def loss(sample, seed):
        torch.manual_seed(seed)
        slots = net.image_model.attention.initial_slots
        net.image_model.attention.initial_slots = lambda batch: torch.ones(batch, 3, 8) * torch.arange(3)[:, None]
        try:
            return experiment.objective(net, clips, ClipConfig(sample=sample, area=0.0))[1]["error"].item()
        finally:
            net.image_model.attention.initial_slots = slots

    with torch.no_grad():
        some = [loss(32, seed) for seed in range(60)]
        assert np.mean(some) == pytest.approx(loss(0, 0), rel=0.05) and np.std(some) > 0


def test_measures_of_a_video_do_not_depend_on_its_neighbours(scenes):
    torch.manual_seed(0)  # learned starts differ by far more than rounding, so no pixel is decided by that
    net = VideoModel(Dinosaur(4, **SMALL, init="learned"), predictor="none").eval()
    both, frames = tracking.measure(tracking.track(net, scenes, [0, 1]), scenes, [0, 1])
    one, _ = tracking.measure(tracking.track(net, scenes, [1]), scenes, [1])
    assert both["video_mbo"] == pytest.approx(one["video_mbo"]) and len(frames["max_activation"]) == 6
    assert set(both) >= {"video_fg_ari", "video_mbo", "fg_ari", "mbo", "identity_switches", "keep_length"}


def test_refined_masks_are_measured_along_the_edges_of_the_image(scenes):
    """Masks of the token grid, shifted by a pixel, find their object's edge again; merging changes no single slot."""
    shifted = torch.nn.functional.one_hot(torch.as_tensor(scenes.truth[:1]).long().roll(1, -1), 2).movedim(-1, 2)
    masks = torch.nn.functional.adaptive_avg_pool2d(shifted[0].float(), 8).flatten(2)[None]
    found = (masks, torch.eye(2, 8).expand(1, 6, 2, 8), None)
    raw, refined = (tracking.measure(found, scenes, [0], refined=r)[0] for r in (0, 12))
    assert refined["video_mbo"] > raw["video_mbo"] and refined["mask_similarity"] == raw["mask_similarity"]


def test_a_report_of_videos_takes_its_threshold_from_validation(scenes, monkeypatch):
    seen, real = [], tracking.measure
    monkeypatch.setattr(
        tracking, "measure", lambda found, data, *a, **k: seen.append((data.name, k)) or real(found, data, *a, **k)
    )
    validation, test = (SimpleNamespace(**vars(scenes), name=name) for name in ("validation", "test"))
    found = tracking.report(model(predictor="none"), validation, test, radius=5)
    assert [k["threshold"] for name, k in seen if name == "validation"] == list(tracking.THRESHOLDS)
    assert [k for name, k in seen if name == "test"] == [
        {}, {"threshold": found["threshold"]}, {"threshold": found["threshold"], "refined": 5}
    ]  # fmt: skip
    assert {"raw", "merged", "refined"} < found.keys() and len(found["frames"]["fg_ari"]) == 6


def test_the_way_back_begins_where_the_way_there_ends_and_comes_in_the_order_of_time(scenes):
    net = model(predictor="none")
    there, back = (tracking.track(net, scenes, [0, 1], cyclic=cyclic)[0] for cyclic in (False, True))
    tokens = scenes.features.clips(np.array([0, 1]))
    torch.manual_seed(0)
    with torch.no_grad():
        whole = net(torch.cat([tokens, tokens.flip(1)], 1)).attention
    assert torch.allclose(back[:, 0], whole[:, -1], atol=1e-5) and torch.allclose(back[:, -1], whole[:, 6], atol=1e-5)
    assert back.shape == there.shape and not torch.allclose(back, there, atol=1e-3)
    found = tracking.report(net, scenes, scenes, cyclic=True)
    on_the_way_back, _ = tracking.measure(tracking.track(net, scenes, [0, 1], cyclic=True), scenes, [0, 1])
    assert found["raw"] == on_the_way_back != tracking.report(net, scenes, scenes)["raw"]


def test_static_controls_are_measured_as_models_are(scenes):
    blocks, colours = (tracking.static(scenes, [0, 1], name) for name in ("blocks", "kmeans_rgb"))
    assert blocks["active_slots"] == 9 and colours["active_slots"] == 2, "of nine clusters two colours fill two"
    assert colours["video_fg_ari"] == colours["keep_length"] == 1 and colours["identity_switches"] == 0
    # A square of 4 px that moves 10 px to the right crosses three columns of blocks in six frames, with ties.
    assert blocks["identity_switches"] == pytest.approx(2 / 5) and blocks["keep_length"] == 1 / 2
    masks = torch.nn.functional.one_hot(torch.arange(256) % 3, 3).mT.float().expand(1, 6, 3, 256)
    both, _ = tracking.measure((masks, torch.rand(1, 6, 3, 8), None), scenes, [1])
    row, _ = tracking.of_winners(masks[0].argmax(1).view(6, 16, 16).numpy(), scenes.truth[1])
    assert {k: both[k] for k in row} == row


def test_an_oracle_that_renames_slots_undoes_swaps_and_mends_nothing_else():
    truth = np.zeros((2, 4, 6), int)
    truth[:, 1:3, :2], truth[:, 1:3, 4:] = 1, 2
    swapped = np.zeros_like(truth)
    swapped[0], swapped[1] = np.choose(truth[0], [0, 1, 2]), np.choose(truth[1], [0, 2, 1])
    assert objects.fg_ari(truth, swapped) < 0.1
    assert objects.fg_ari(truth, tracking.renamed(truth, swapped)) == 1
    one = (truth > 0).astype(int)  # a slot for both objects: no name parts them
    assert objects.fg_ari(truth, tracking.renamed(truth, one)) == objects.fg_ari(truth, one) == 0
    row, _ = tracking.of_winners(swapped, truth)
    assert row["video_fg_ari_renamed"] == 1 and row["video_fg_ari"] < 0.1


@given(st.integers(0, 1000), st.integers(2, 5))
@settings(max_examples=30, deadline=None)
def test_max_activation_lies_between_uniform_and_certain(seed, num_slots):
    logits = torch.randn(3, num_slots, 4, 4, generator=torch.Generator().manual_seed(seed))
    masks = logits.softmax(1)
    seen = max_activation(masks)
    assert seen.shape == (3,) and (seen >= 1 / num_slots).all() and (seen <= 1).all()
    expected = [np.mean([float(mask.max()) for mask in frame]) for frame in masks]
    np.testing.assert_allclose(seen, expected, rtol=1e-6)
    np.testing.assert_allclose(max_activation(masks[:, torch.randperm(num_slots)]), seen)
    np.testing.assert_allclose(max_activation(torch.full((3, num_slots, 9), 1 / num_slots)), 1 / num_slots)


def test_slot_similarity_of_each_frame():
    eye = torch.eye(3)
    simplex = eye - eye.mean(0)
    seen = slot_similarity(torch.stack([eye, torch.ones(3, 3), simplex]))
    np.testing.assert_allclose(seen, [0, 1, -1 / 2], atol=1e-12)
    assert math.isnan(slot_similarity(eye[None, :1])[0]), "one slot has no other"


def test_the_linker_of_the_notebook_gives_slots_their_names_back():
    cells = json.loads((ROOT / "notebooks" / "ex_dino3.ipynb").read_text())["cells"]
    code = next(text for text in ("".join(c["source"]) for c in cells) if "def linked(" in text)
    (function,) = (node for node in ast.parse(code).body if getattr(node, "name", "") == "linked")
    names = {"torch": torch, "normalize": normalize, "linear_sum_assignment": linear_sum_assignment}
    exec(compile(ast.Module([function], []), "linked", "exec"), names)
    torch.manual_seed(0)
    slots = torch.randn(2, 1, 4, 8).expand(-1, 5, -1, -1) + 0.01 * torch.randn(2, 5, 4, 8)
    masks, places = torch.rand(2, 5, 4, 9), torch.rand(2, 1, 4, 3).expand(-1, 5, -1, -1)
    whole = [part.clone() for part in (masks, slots, places)]
    mixed = [part.clone() for part in whole]
    for s in range(2):
        for t in range(1, 5):
            order = torch.randperm(4)
            for part in mixed:
                part[s, t] = part[s, t, order]
    assert all(torch.equal(a, b) for a, b in zip(names["linked"](*mixed), whole, strict=True))
