"""What trainings are held against, and what they share."""

import pytest
import torch

from lib import ROOT
from lib.data.streethazards import StreetHazards
from lib.studies.objects import final
from lib.studies.objects.final import BACK, HELD_BACK, ObjectStudy, control_masks


@pytest.fixture
def scenes(split):
    return split(frames=6, step=2)


@pytest.mark.parametrize(("name", "shape"), [("blocks", (16, 16, 16)), ("kmeans_rgb", (9, 16, 16))])
def test_controls_have_their_segments(scenes, name, shape):
    masks = control_masks(name, scenes, seed=0)
    assert masks.shape == (12, *shape) and torch.allclose(masks.sum(1), torch.ones(12, *shape[1:]))


def test_the_oracle_is_the_truth_on_the_token_grid(scenes):
    masks, truth = control_masks("oracle_grid", scenes, seed=0), scenes.ids()
    assert masks.shape == (12, 2, 8, 8)
    assert torch.equal(masks[:, 1], torch.nn.functional.avg_pool2d(truth[:, None].float(), 2)[:, 0])
    assert control_masks("kmeans_tokens", scenes, seed=0).shape[-2:] == (8, 8)
    with pytest.raises(ValueError, match="'blokcs'; choose blocks"):
        control_masks("blokcs", scenes, seed=0)


def test_controls_may_be_made_on_the_token_grid(scenes):
    """Their numbers of segments and the side of the images are a study's choice."""
    blocks, colours = (control_masks(n, scenes, 0, side=2, clusters=3, grid=8) for n in ("blocks", "kmeans_rgb"))
    assert blocks.shape == (12, 4, 8, 8) and colours.shape == (12, 3, 8, 8)


def test_a_study_says_which_data_it_has_and_where_thresholds_come_from():
    study = ObjectStudy()
    data = study.scenes("validation")
    assert data.dataset_name == "movi_a stand-in" and data.fingerprint.endswith("[::8]")
    assert study.splits == ("train", "validation", "test")
    assert ObjectStudy(held_out="validation").splits == ("train", HELD_BACK, "validation"), "never on what is reported"


def test_scenes_on_which_thresholds_are_chosen_are_not_trained_on():
    real = ObjectStudy(held_out="validation")
    whole, train, back = ObjectStudy().movi("train"), real.movi("train"), real.movi(HELD_BACK)
    kept = len(whole) - min(BACK, len(whole) // 4)
    assert (len(train), len(back)) == (kept, len(whole) - kept) and len(real.movi("validation"))
    assert [train[0].name, back[0].name] == [whole[0].name, whole[kept].name]
    assert len({x.fingerprint for x in (whole, train, back)}) == 3, "or one would be taken for the other"
    assert [x.frames for x in (train, back)] == [slice(None, None, 2), slice(None, None, 8)]


def test_data_say_whether_they_are_the_stand_in(tmp_path):
    """The same shards without the record of their making are taken for MOVi-A."""
    for path in (ROOT / "data" / "movi_a").glob("movi_a-validation.*"):
        (tmp_path / path.name).symlink_to(path)
    assert ObjectStudy(root=tmp_path).scenes("validation").dataset_name == "movi_a"
    assert StreetHazards().name == "streethazards stand-in"


def test_the_place_of_a_token_counts_as_much_as_is_asked(scenes):
    apart = control_masks("kmeans_tokens", scenes, 0, clusters=4, place=100.0)
    quarters = control_masks("blocks", scenes, 0, side=2, grid=scenes.features.grid[0])
    overlap = (apart.flatten(2) @ quarters.flatten(2).mT).amax(-1)  # each cluster is nearly a quarter of the image
    assert (overlap > 0.9 * apart.flatten(2).sum(-1)).all()
    assert not torch.equal(apart, control_masks("kmeans_tokens", scenes, 0, clusters=4))


def test_k_means_is_tuned_where_thresholds_are_chosen_and_once(scenes, monkeypatch):
    asked = []

    def masks(name, split, seed, *, clusters, place):
        asked.append((clusters, place))
        return control_masks("oracle_grid" if (clusters, place) == (9, 0.5) else "blocks", split, seed, side=2)

    monkeypatch.setattr(final, "control_masks", masks)
    monkeypatch.setattr(ObjectStudy, "scenes", lambda self, name: {"validation": scenes}[name])
    final.tuned_kmeans.cache_clear()
    assert final.tuned_kmeans(ObjectStudy()) == {"clusters": 9, "place": 0.5}
    tried = len(asked)
    assert final.tuned_kmeans(ObjectStudy()) and len(asked) == tried == len(set(asked))
    final.tuned_kmeans.cache_clear()
