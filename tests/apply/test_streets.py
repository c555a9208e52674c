"""Scores of your own street are those of the tables."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import lib
from lib import anomaly
from lib.apply import streets, zoo
from lib.models.weights import WeightsError
from lib.studies.roads import alarms, pretrained, watch
from lib.studies.roads.courses import Watched
from lib.studies.roads.experiment import RoadStudy
from lib.training import Run


@pytest.fixture(scope="module")
def segmenter():
    """The committed segmenter with batch statistics of whole frames, and the study that it is of."""
    with warnings.catch_warnings(action="ignore"):
        run = streets.precise(lib.load("streethazards", "cpu"))
    return run, RoadStudy(size=tuple(run.header["config"]["size"]), device="cpu")


def few(run, study, split, picks):
    return ((f.logits, f.features, f.label[None]) for f in alarms.frames(study, split, run.model, picks))


def known_of(run, study):
    known = anomaly.fit(few(run, study, "train", [0, 2]), bank=99)
    return anomaly.levels(few(run, study, "validation", [0]), known, streets.FUSED)


def test_scores_of_a_street_are_those_of_the_tables(segmenter, tmp_path, monkeypatch, picture):
    run, study = segmenter
    known = known_of(run, study)
    streets._keep(tmp_path / "x.safetensors", known)
    again = streets._kept(tmp_path / "x.safetensors", torch.device("cpu"))
    monkeypatch.setattr(streets, "statistics", lambda run: again)
    (frame,) = alarms.frames(study, "test", run.model, [7])
    image = study.split("test").data[7][0]
    for score in ("heat, no spatial", "fused_unit", "knn"):
        due = anomaly.SCORES[score](frame.logits, frame.features, known)[0]
        found = lib.anomaly_of(image, run, score=score)
        assert found.dtype == np.float32 and found.shape == image.shape[1:]
        np.testing.assert_allclose(found, due.float().numpy(), rtol=1e-4, atol=1e-4)
    assert lib.anomaly_of(np.stack([picture] * 2), run, score="energy").shape == (2, 40, 60)


def test_the_score_that_is_given_unasked_is_of_features_that_no_street_has_touched(segmenter, monkeypatch):
    """Those of the tables, whether the trained model is handed in as it came or with statistics of whole frames."""
    run, study = segmenter
    raw = lib.load("streethazards", "cpu")
    plain = pretrained.untrained(run.model.name, device="cpu")
    assert all(torch.equal(v, plain.state_dict()[k]) for k, v in streets.untouched(run).model.state_dict().items())
    assert streets.offered(run, watch.SCORES) == [streets.BEST, *watch.SCORES[1:]] and not plain.training
    assert streets.seen_by(raw, "knn").model is streets.precise(raw).model
    known = known_of(Run(plain, run.header, {}), study)
    monkeypatch.setattr(streets, "statistics", lambda run: known)
    (frame,) = alarms.frames(study, "test", plain, [7])
    due = anomaly.DISTANCES["mahalanobis + knn"](frame.logits, frame.features, known)[0]
    for given in (raw, run):
        found = lib.anomaly_of(study.split("test").data[7][0], given)
        np.testing.assert_allclose(found, due.float().numpy(), rtol=1e-4, atol=1e-4)


def test_a_score_that_knows_labels_of_the_test_is_not_offered():
    assert "place_other_town" not in streets.SCORES and "place_train" in streets.SCORES


def test_a_network_whose_imagenet_weights_are_not_to_be_had_is_said(monkeypatch):
    def lacks(*_):
        raise WeightsError("there are no weights of segformer_b0")

    monkeypatch.setattr(streets, "Segmenter", lacks)
    run = Run(SimpleNamespace(name="segformer_b0", classes=13), {}, {})
    with pytest.raises(zoo.Wrong, match="segformer_b0; or take a score of what was learned, such as 'heat"):
        streets.untouched(run)
    assert streets.offered(run, watch.SCORES) == ["mahalanobis", "heat, no spatial", "max_logit"]


def test_scores_are_of_a_network_with_statistics_of_whole_frames(segmenter, tmp_path, monkeypatch):
    """Read from the cache it is the network that was measured; the one handed in stays as it was."""
    study = segmenter[1]
    with warnings.catch_warnings(action="ignore"):
        raw = lib.load("streethazards", "cpu")
    monkeypatch.setattr(streets, "ROOT", tmp_path)
    measured = streets.precise(Run(raw.model, raw.header, {})).model
    streets._PRECISE.clear()
    again = streets.precise(Run(raw.model, raw.header, {}))
    assert again.model is not measured and streets.precise(again) is again, "it is not made twice"
    due = Watched(size=study.size).precise(raw.model).state_dict()
    for key, value in again.model.state_dict().items():
        assert torch.equal(value, due[key]) and torch.equal(value, measured.state_dict()[key])
    moved = [k for k, v in raw.model.state_dict().items() if not torch.equal(v, due[k])]
    assert moved and all("running_" in k or "num_batches" in k for k in moved)
    with pytest.raises(zoo.Wrong, match="the model learned from of elsewhere; restore"):
        streets.precise(Run(torch.nn.Linear(1, 1), raw.header | {"data": "of elsewhere"}, {}))


def test_statistics_are_of_the_frames_that_the_model_has_learned_from(segmenter, picture):
    run, other = segmenter[0], Run(torch.nn.Linear(1, 1), segmenter[0].header | {"data": "of elsewhere"}, {})
    with pytest.raises(zoo.Wrong, match=r"streethazards train n=\d+ .*, the model learned from of elsewhere; restore"):
        streets.statistics(other)
    with pytest.raises(zoo.Wrong, match="there is no score 'fear'; choose one of msp"):
        lib.anomaly_of(picture, run, score="fear")
    with pytest.raises(zoo.Wrong, match="ex_dino4-ours-0 names no classes of a street; take streethazards"):
        lib.anomaly_of(picture, "ex_dino4", device="cpu")
