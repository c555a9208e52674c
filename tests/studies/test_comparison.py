"""Versions of pictures, pixels in the place of tokens, and measures between versions, on cases with a known answer."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib import ROOT
from lib.features import Features
from lib.models.dinosaur import ORIGINAL
from lib.models.pixel_autoencoder import PATCH, SIZE
from lib.studies import comparison
from lib.studies.comparison import GRID, TRANSFORMS, ComparisonStudy, Config, Patches, Varied, boundary
from lib.studies.objects.experiment import ImageConfig

KINDS = tuple(TRANSFORMS)
OURS = ImageConfig({"num_slots": 5}, coarse=0.0)
THEIRS = ImageConfig(ORIGINAL | {"position": True, "mask_temperature": 1.0}, area=0.0, coarse=0.0, sample=0)
CONFIGS = {
    "pixels": Config(32, OURS),
    "features": Config(0, OURS),
    "pixels_original": Config(64, THEIRS, "decoder", cooled=True),
    "features_original": Config(0, THEIRS, "decoder"),
}


def partition(seed, versions=1, slots=3):
    """Hard masks `[1, V, K, N]`, the same in every version."""
    labels = torch.randint(slots, (GRID**2,), generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.one_hot(labels, slots).T.float().expand(1, versions, -1, -1).clone()


@pytest.fixture(scope="module")
def movi():
    return ROOT / "data" / "movi_a"


def test_versions_lie_side_by_side_and_flips_move_masks(movi):
    plain, varied = (Varied(movi, "validation", slice(0, 2), kinds)[0] for kinds in (("identity",), KINDS))
    v = len(KINDS)
    assert varied.video.shape == (2 * v, *plain.video.shape[1:]) and varied.masks.shape == (2 * v, 128, 128)
    flip = KINDS.index("flip")
    for frame in range(2):
        assert (varied.video[frame * v] == plain.video[frame]).all()
        assert (varied.video[frame * v + flip] == plain.video[frame][:, ::-1]).all()
        assert (varied.masks[frame * v + flip] == plain.masks[frame][:, ::-1]).all()
        assert (varied.masks[frame * v + KINDS.index("jitter")] == plain.masks[frame]).all()
    for kind in ("jitter", "contrast"):
        assert (varied.video[KINDS.index(kind)] != plain.video[0]).any()


def test_a_scene_is_jittered_alike_each_time_and_leaves_the_generator_alone(movi):
    data = Varied(movi, "validation", slice(0, 1), ("jitter",))
    torch.manual_seed(0)
    one, drawn = data[1].video, torch.rand(1)
    torch.manual_seed(5)
    assert (data[1].video == one).all()
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(1))
    assert data.fingerprint != Varied(movi, "validation", slice(0, 1), ("identity",)).fingerprint


def shown(video):
    """What `Patches` needs of a split."""
    frames = torch.from_numpy(video).flatten(0, 1).permute(0, 3, 1, 2)
    scenes = [SimpleNamespace(video=v) for v in video]
    return SimpleNamespace(
        shape=video.shape[:-1], count=len(frames), scene=scenes.__getitem__, frames=frames.__getitem__
    )


def test_patches_are_the_pictures_and_know_their_colours():
    video = np.zeros((1, 2, SIZE, SIZE, 3), np.uint8)
    video[..., 0], video[0, 1, ..., 2] = 51, 255  # red 0.2 everywhere, blue 0 and 1
    video[0, 0, 8:16, 16:24, 1] = 255  # one green patch: row 1, column 2
    patches = Patches(shown(video), torch.device("cpu"))
    found = patches.batch(torch.tensor([0]))
    assert found.shape == (1, GRID**2, 3 * PATCH**2)
    green = found[0, :, PATCH**2 : 2 * PATCH**2].mean(1)
    assert green[GRID + 2] == 1 and green.sum() == 1
    red, _, blue = patches.mean.view(3, -1)
    torch.testing.assert_close(red, torch.full_like(red, 0.2))
    torch.testing.assert_close(blue, torch.full_like(blue, 0.5))
    torch.testing.assert_close(patches.std.view(3, -1)[2].mean(), torch.tensor(0.5), atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match="frames of 32 x 64 px"):
        Patches(shown(np.zeros((1, 2, 32, 64, 3), np.uint8)), torch.device("cpu"))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_configuration_is_a_model_on_the_same_grid(config):
    torch.manual_seed(0)
    model = comparison.build(config, 4).eval()
    tokens = torch.rand(1, GRID**2, 192 if config.channels else 4)
    with torch.no_grad():
        found = model(tokens)
    assert found.masks.shape == found.attention.shape == (1, 5, GRID**2)
    assert found.reconstruction.shape == model.target(tokens).shape == tokens.shape
    torch.testing.assert_close(found.masks.sum(1), torch.ones(1, GRID**2))
    assert model.mask_temperature == pytest.approx(0.01 if config.cooled else 1.0)


def test_the_cnn_sees_pictures_the_right_way_round():
    """A change in the patch of row 20, column 5 moves the inputs there most, and none far away."""
    torch.manual_seed(0)
    model = comparison.build(CONFIGS["pixels"], 4)
    tokens = torch.rand(1, GRID**2, 192)
    changed = tokens.clone()
    changed[0, 20 * GRID + 5] = 1 - changed[0, 20 * GRID + 5]
    with torch.no_grad():
        moved = (model.projection(tokens) - model.projection(changed)).norm(dim=-1).view(GRID, GRID)
    row, column = divmod(int(moved.argmax()), GRID)
    assert abs(row - 20) <= 2 and abs(column - 5) <= 2
    assert moved[:10].max() == moved[:, 15:].max() == 0


@given(st.integers(0, 50), st.permutations(range(3)))
def test_matched_stability_ignores_names_and_the_mean_over_pairs_is_what_random_names_give(seed, order):
    masks = partition(seed, versions=2)
    masks[:, 1] = masks[:, 1, list(order)]
    found = comparison.stability(masks)
    kept = sum(i == j for i, j in enumerate(order)) / 3
    assert found["mask_stability"] == pytest.approx(1)
    assert found["mask_stability_indexed"] == pytest.approx(kept)
    assert found["expected_if_shuffled"] == pytest.approx(1 / 3)  # each slot equals one of three, and no other


def test_flipped_masks_are_flipped_back():
    masks = partition(0, versions=len(KINDS))
    flip = KINDS.index("flip")
    seen = masks.clone().unflatten(-1, (GRID, GRID))
    seen[:, flip] = seen[:, flip].flip(-1)
    assert torch.equal(comparison.aligned(seen.flatten(-2)), masks)


@pytest.mark.parametrize("width", [4, 8])
def test_a_handover_within_so_many_pixels_changes_by_one_over_them(width):
    truth = torch.zeros(64, 64)
    truth[:, 32:] = 1
    ramp = ((torch.arange(64) - 32) / width + 0.5).clamp(0, 1).expand(64, 64)
    at, elsewhere = boundary(truth, torch.stack([ramp, 1 - ramp]), width=1)
    assert at == pytest.approx(1 / width, rel=1e-5) and elsewhere < at / 2
    assert boundary(truth, torch.stack([ramp, 1 - ramp]).roll(20, -1), width=1)[0] < 1e-6  # sharp in the wrong place


def test_a_picture_of_nothing_has_no_boundary():
    assert np.isnan(boundary(torch.zeros(8, 8), torch.ones(2, 8, 8) / 2)).all()


@pytest.fixture
def study():
    """Two scenes whose four versions are one and the same token grid."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.rand(2, 1, GRID**2, 4, generator=generator).expand(-1, len(KINDS), -1, -1).numpy().astype(np.float16)
    tokens[:, KINDS.index("flip")] = tokens[:, 0].reshape(2, GRID, GRID, 4)[:, :, ::-1].reshape(2, -1, 4)
    features = Features(tokens, (GRID, GRID), torch.full((4,), 0.5), torch.full((4,), 0.3), {})
    truth = torch.zeros(8, 32, 32, dtype=torch.long)
    truth[:, 8:16, 8:16] = 1
    data = SimpleNamespace(
        features=features, dim=4, about={"grid": GRID}, count=8, fingerprint="f", ids=truth.__getitem__
    )
    found = ComparisonStudy(batch=2, precision="32-true", device="cpu")
    vars(found).update(train=data, test=data)
    return found


def test_one_noise_for_all_versions_makes_the_index_mean_something(study):
    """The model's inputs add a place, so the flipped version differs; all others are equal."""
    features = CONFIGS["features"]
    model = study.run("features", features, 0, 0).model
    alike = [i for i, kind in enumerate(KINDS) if kind != "flip"]
    own, shared = (study.masks(features, model, shared=s)[0][:, alike] for s in (False, True))
    assert comparison.stability(shared)["mask_stability_indexed"] == pytest.approx(1, abs=1e-5)
    assert comparison.stability(own)["mask_stability_indexed"] < 0.999


def test_what_a_step_costs_leaves_out_what_happens_once(study, monkeypatch):
    """However long a training takes to start, and whatever the first steps cost."""
    clock = {"now": 0.0}

    def fit(self, config, recipe, model, state=None, begin=None):
        clock["now"] += 1000
        for step in range(recipe.steps):
            begin(step)
            clock["now"] += (100 if step < comparison.WARM else 1) * config.lr

    monkeypatch.setattr(ComparisonStudy, "_fit", fit)
    monkeypatch.setattr(comparison, "settled", lambda device, timer: clock["now"])
    both = {"slow": replace(CONFIGS["features"], lr=3.0), "fast": replace(CONFIGS["features"], lr=1.0)}
    assert study.costs(both, 5, "cpu") == {"slow": 3.0, "fast": 1.0}
    monkeypatch.setattr(comparison, "settled", lambda device, timer: 0.0)
    with pytest.raises(RuntimeError, match="5 steps took .* too short to be measured; raise cost_steps"):
        study.costs(both, 5, "cpu")


def test_a_trained_model_is_loaded_again_and_measured(study, tmp_path, monkeypatch):
    monkeypatch.setenv("SLOTS_OUT", str(tmp_path))
    row = study.measure("features", CONFIGS["features"], 0, 1)
    written = next((tmp_path / "checkpoints").glob("*.safetensors"))
    before = written.stat().st_mtime_ns
    again = study.measure("features", CONFIGS["features"], 0, 1)  # as text: NaN is NaN
    assert str(again) == str(row) and written.stat().st_mtime_ns == before
    assert len(row["winners"]) == len(KINDS) and {len(w) for w in row["winners"]} == {GRID**2}
    assert {"fg_ari", "mask_stability", "mask_stability_indexed_shared", "boundary_contrast"} < row.keys()
