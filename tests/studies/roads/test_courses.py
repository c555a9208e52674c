"""Trainings that are looked at on their way, and what is made of a network before it is judged."""

import numpy as np
import pytest
import torch
from torch import nn

from lib import anomaly
from lib.data.augment import Resize
from lib.files import unpacked
from lib.models.segmenters import Segmenter
from lib.studies.roads.alarms import AnomalyStudy
from lib.studies.roads.courses import Joined, Watched
from lib.studies.roads.experiment import matrices


@pytest.fixture
def watched(root):
    return Watched(root=root, size=(24, 40), batch=2, device="cpu")


def test_looks_on_the_way_change_nothing(watched):
    short = {"seed": 0, "steps": 5, "lr": 1e-3, "crop": [32, 32], "pretrained": False}
    without, looked = (watched.trial({"flip": "joint"}, looks=looks, **short) for looks in (0, 2))
    course = looked["course"]
    assert list(course) == ["2", "4", "5"] and course["5"] == looked["clean"] and len({*course.values()}) > 1
    different = {k for k in without if without[k] != looked[k]}
    assert different == {"seconds", "course"}, "dropout, batches and batch statistics are those of a training without"
    assert without.keys() == looked.keys() and not watched.seen and not watched.nets


def test_what_is_seen_at_a_step_is_before_it(root):
    """At 32 bits of the weights after so many steps: a training of that length with a constant rate ends there."""
    study = Watched(root=root, size=(24, 40), batch=2, device="cpu", precision="bf16-mixed")
    settings = {"seed": 0, "lr": 1e-3, "crop": [32, 32], "pretrained": False, "schedule": "constant"}
    course = study.trial({}, looks=2, steps=4, **settings)["course"]
    assert course["2"] == pytest.approx(study.trial({}, steps=2, **settings)["clean"], abs=1e-6)


def test_precise_statistics_are_those_of_whole_frames_and_nothing_else_changes(watched):
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5))
    frames = watched.split("train").batch([0, 1, 2, 3], Resize(watched.size))[0]
    torch.manual_seed(1)
    after = torch.rand(2)
    torch.manual_seed(1)
    found = watched.precise(net)
    assert torch.equal(torch.rand(2), after), "draws are those of a run without it"
    assert torch.allclose(found[0].running_mean, frames.mean((0, 2, 3)), atol=1e-6)
    by_batch = torch.stack([x.transpose(0, 1).flatten(1).var(1) for x in (frames[:2], frames[2:])])
    assert torch.allclose(found[0].running_var, by_batch.mean(0), atol=1e-6)
    assert not found.training and net.training and torch.equal(net[0].running_mean, torch.zeros(3)), "a copy"
    assert found[0].momentum == net[0].momentum


def test_a_network_with_a_pooled_layer_can_be_made_precise(watched):
    model = Segmenter(pretrained=False).eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = watched.precise(model)
    changed = {k.rpartition(".")[2] for k, v in found.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"running_mean", "running_var", "num_batches_tracked"}
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_trial_tells_the_precise_network_as_well(watched):
    row = watched.trial({}, seed=0, steps=2, lr=1e-3, crop=[32, 32], pretrained=False)
    assert 0 <= row["clean_precise"] <= 1 and row["clean_precise"] != row["clean"] and row["course"] == {}
    assert "clean_precise" in row["draws"]


def test_a_main_model_is_judged_on_its_way(watched, tmp_path, monkeypatch):
    """And its end is that of a training that nobody looked at."""
    judge = AnomalyStudy(watched, {n: anomaly.SCORES[n] for n in ("max_logit", "mahalanobis")}, "test", draws=5)
    settings = {"seed": 0, "steps": 4, "lr": 1e-3, "crop": [32, 32], "network": "fpn_lite0"}
    monkeypatch.setenv("SLOTS_OUT", str(tmp_path / "plain"))
    model = watched.main({}, **settings).model
    monkeypatch.setenv("SLOTS_OUT", str(tmp_path / "looked"))
    course = watched.course(judge, {}, looks=2, **settings)
    assert list(course) == ["2", "4"] and course["2"] != course["4"]
    assert course["4"].keys() == {
        "train",
        "validation",
        "test",
        *(f"{k} {n}" for k in ("auroc", "aupr") for n in judge.scores),
    }
    seen = matrices(watched.precise(model), watched.split("validation"), Resize(watched.size)).sum(0)
    assert course["4"]["validation"] == pytest.approx(_miou(seen), abs=1e-6)
    assert watched.course(judge, {}, looks=2, **settings).keys() == {"4"}, "it is loaded, not trained"


def test_running_and_precise_statistics_are_compared(watched):
    judge = AnomalyStudy(watched, {"max_logit": anomaly.SCORES["max_logit"]}, "test", draws=5)
    model = Segmenter(pretrained=False).eval()
    found = watched.compared(judge, model)
    assert list(found) == ["running", "precise"] and found["running"] != found["precise"]
    seen = matrices(model, watched.split("validation"), Resize(watched.size)).sum(0)
    assert found["running"]["validation"] == pytest.approx(_miou(seen), abs=1e-6)
    assert len(unpacked(found["precise"]["draws"]["test"])) == 200


def test_joined_networks_give_logits_of_one_and_features_of_the_other(painter):
    other = Segmenter(pretrained=False).eval()
    x = torch.rand(1, 3, 32, 32)
    found = Joined(painter, other).outputs(x)
    assert torch.equal(found.logits, painter.outputs(x).logits)
    assert torch.equal(found.features[0], other.outputs(x).features[0])


def _miou(matrix):
    truth, found, hit = matrix.sum(1), matrix.sum(0), np.diag(matrix)
    return (hit / np.maximum(truth + found - hit, 1))[truth > 0].mean()
