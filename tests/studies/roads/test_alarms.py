"""Anomalies on streets small enough to know the answer: what thresholds flag, budgets, and scores that must win."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lib import anomaly
from lib.anomaly import SCORES
from lib.data.augment import Resize
from lib.data.streethazards import ANOMALY, CLASSES, IGNORE
from lib.files import unpacked
from lib.metrics import anomaly as measures
from lib.metrics.anomaly import Pool
from lib.models.segmenters import Segmenter
from lib.studies.roads import alarms, pretrained
from lib.studies.roads.alarms import AnomalyStudy, OperatingPoints
from lib.studies.roads.experiment import frames


def operating_points(pairs, at, most=np.inf):
    found = alarms.Alarms(np.asarray(at), most)
    for score, label in pairs:
        found.add(score, label)
    return found.points()


def at_rates(pairs):
    pool = Pool()
    for score, label in pairs:
        pool.add(score, label == ANOMALY)
    return alarms.thresholds(pool.curve())


def test_alarms_by_hand():
    label = torch.zeros(40, 40, dtype=torch.long)
    label[10:20, 10:20] = ANOMALY
    label[0:5] = IGNORE
    score = torch.zeros(40, 40)
    score[10:20, 10:18] = 5.0  # 80 of the 100 pixels
    score[30:34, 30:34] = 4.0  # a false alarm
    score[30:34, 0:4] = 3.0  # another
    score[0:4] = 9.0  # nothing counts here
    seen = operating_points([(score, label), (score, label)], np.array([8.0, 4.5, 3.5, 2.5]))
    assert seen.false_alarms.tolist() == [0, 0, 1, 2]
    assert seen.found.tolist() == [0, 1, 1, 1] and seen.recall.tolist() == [0, 0.8, 0.8, 0.8]
    assert np.isnan(seen.precision[0]) and seen.precision[1:].tolist() == [1, 80 / 96, 80 / 112]
    assert [alarms.within_budget(seen, b) for b in (0.5, 1.0, 5.0)] == [1, 2, 3]
    empty = operating_points([(score, torch.zeros_like(label))], np.array([2.5]))
    assert np.isnan(empty.found[0]) and empty.false_alarms[0] == 4
    score[20, 20] = np.nan
    with pytest.raises(ValueError, match="1 of 1400 scores are not finite"):
        operating_points([(score, label)], np.array([2.5]))


def test_cases_are_a_hit_a_miss_and_a_false_alarm():
    label, frames = torch.zeros(40, 40, dtype=torch.long), []
    label[10:20, 10:20] = ANOMALY
    for inside, outside in ((0.0, 0), (0.0, 1), (0.6, 0), (0.9, 1), (0.8, 0), (0.0, 3)):
        score = torch.zeros(40, 40)
        score[10 : 10 + round(10 * inside), 10:20] = 1.0
        for i in range(outside):
            score[30:34, 12 * i : 12 * i + 4] = 1.0
        frames.append((score, label))
    found = alarms.Alarms(np.array([2.0, 0.5]))
    for score, _ in frames:
        found.add(score, label)
    assert found.cases(1) == {"hit": 4, "miss": 0, "false alarm": 5}, "a larger hit has a false alarm beside it"
    assert found.cases(0) == {"miss": 0}
    nothing = alarms.Alarms(np.array([0.5]))
    nothing.add(frames[5][0], torch.zeros_like(label))
    assert nothing.cases(0) == {"false alarm": 0}, "a frame without an anomaly misses none"


def test_what_is_raised_counts():
    score, label = torch.zeros(100, 100), torch.zeros(100, 100, dtype=torch.long)
    score[10, 10], score[20:22, 20:22], score[50:60, 50:60] = 1.0, 1.0, 1.0
    label[50:55] = IGNORE
    shown = alarms.raised(score, label, 0.5)
    assert shown.sum() == 4 + 50 and not shown[10, 10], "one pixel of 10,000 is less than 0.025 %"


def test_traits_of_an_anomaly(study, tmp_path):
    found = alarms.traits(study, "test")
    assert len(found) == 4 and found["distance, m"].isna().all()
    assert found["size, % of the frame"].to_numpy() == pytest.approx(100 * 8 * 12 / (48 * 80), abs=0.3)
    assert alarms.traits(study, "validation").isna().all(axis=None), "no anomaly, nothing to tell"


def test_an_anomaly_stands_on_what_is_below_it_and_differs_from_what_is_around_it(tmp_path):
    """Two frames: white on grey above road, then on pavement, with road above; CIE L* of 0.5 grey is 53.39."""
    road, pavement = CLASSES.index("road"), CLASSES.index("sidewalk")
    images, labels = torch.full((2, 3, 60, 80), 0.5), torch.full((2, 60, 80), pavement)
    images[:, :, 20:30, 30:50], labels[0, 25:], labels[1, :25] = 1.0, road, road
    labels[:, 20:30, 30:50] = ANOMALY
    split = SimpleNamespace(
        data=SimpleNamespace(names=["a", "b"]), batch=lambda picks, _: (images[picks], labels[picks])
    )
    (tmp_path / "frames.json").write_text('{"a": {"metres": 7.5}}')
    found = alarms.traits(SimpleNamespace(root=tmp_path, size=(60, 80), split=lambda _: split), "test")
    assert found["on the road"].tolist() == [1, 0] and found["contrast"].to_numpy() == pytest.approx(
        100 - 53.39, abs=0.01
    )
    assert found["distance, m"][0] == 7.5 and np.isnan(found["distance, m"][1])


def test_flagging_most_of_a_frame_is_a_false_alarm():
    """88 x 88 of 100 x 100 px with one pixel on the anomaly: PPV 1/7744, which is no find."""
    score, label = torch.zeros(100, 100), torch.zeros(100, 100, dtype=torch.long)
    score[:88, :88], label[87:97, 87:97] = 1.0, ANOMALY
    seen = operating_points([(score, label)], np.array([0.5]))
    assert seen.precision[0] == 1 / 7744 and seen.false_alarms[0] == 1 and seen.found[0] == 0
    score[:88, :88], score[78:98, 86:106] = 0.0, 1.0  # 20 x 14 px, 100 of them on the anomaly
    assert operating_points([(score, label)], np.array([0.5])).false_alarms[0] == 0


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_thresholds_belong_to_their_score(scale):
    """Two scores of the same order and other units; in the middle both flag the same pixels, and some."""
    scores, label = torch.rand(2, 50, 50, generator=torch.Generator().manual_seed(0)), torch.zeros(2, 50, 50).long()
    middle, flagged = len(alarms.RATES) // 2, []
    for score in (scores, scale * scores - 30):
        flagged.append(score >= at_rates(list(zip(score, label, strict=True)))[middle])
    assert (flagged[0] != flagged[1]).sum() <= 2, "but for rounding"
    assert 0 < flagged[0].sum() <= 2 * 5000 * alarms.RATES[middle]


def test_a_budget_is_kept_from_the_top():
    """At the lowest threshold all alarms have grown into one; that is no reason to choose it."""
    seen = OperatingPoints(np.array([0.0, 2.0, 9.0, 1.0]), *[np.zeros(4)] * 3)
    assert alarms.within_budget(seen, 3.0) == 1 and alarms.within_budget(seen, -1.0) == -1


def test_thresholds_flag_the_shares():
    score = torch.rand(100, 100, generator=torch.Generator().manual_seed(0))
    at = at_rates([(score, torch.zeros(100, 100, dtype=torch.long))])
    shares = np.array([(score >= t).float().mean() for t in at])
    assert (shares <= alarms.RATES + 1e-7).all() and shares == pytest.approx(alarms.RATES, abs=5e-4)
    assert (np.diff(at) <= 0).all()


def test_thresholds_beyond_every_budget_are_given_up():
    """The same budgets, whether all thresholds are looked at or those that are hopeless are dropped on the way."""
    generator = torch.Generator().manual_seed(0)
    pairs = [(torch.rand(60, 60, generator=generator), torch.zeros(60, 60, dtype=torch.long)) for _ in range(6)]
    at = at_rates(pairs)
    whole, cut = operating_points(pairs, at), operating_points(pairs, at, most=2 * len(pairs))
    assert 0 < len(cut.false_alarms) < len(whole.false_alarms), "some are dropped"
    np.testing.assert_array_equal(cut.false_alarms, whole.false_alarms[: len(cut.false_alarms)])
    for budget in alarms.BUDGETS:
        assert alarms.within_budget(cut, budget) == alarms.within_budget(whole, budget)


def test_frames_are_those_of_the_model_and_none_is_kept(study, painter):
    seen = list(alarms.frames(study, "test", painter))
    assert [frame.town for frame in seen] == study.split("test").data.towns
    (one,) = alarms.frames(study, "test", painter, [2])
    assert torch.equal(one.logits, seen[2].logits) and torch.equal(one.label, seen[2].label)


def test_an_ensemble_is_the_mean_of_probabilities(painter):
    x = torch.rand(1, 3, 24, 40)
    other = type(painter)()
    other.colours.data += 0.1
    found = alarms.Ensemble([painter, other]).outputs(x).logits.softmax(1)
    torch.testing.assert_close(found, (painter(x).softmax(1) + other(x).softmax(1)) / 2)


def test_regions_by_hand():
    road, sky = CLASSES.index("road"), 0
    label = torch.tensor([[sky, sky, sky], [road, ANOMALY, IGNORE], [road, CLASSES.index("other"), sky]])
    predicted = torch.tensor([[sky, sky, road], [sky, road, sky], [road, sky, sky]])
    logits = torch.nn.functional.one_hot(predicted, 13).movedim(-1, 0)[None].float()
    found = alarms.kinds_of(alarms.Frame(0, "t5", None, logits, (), label))
    assert found.tolist() == [[0, 0, 8], [4, 1 + 4 + 8, 255], [4 + 8, 2 + 8, 8]]


def test_the_other_towns_place_is_not_ones_own(study):
    """Anomalies of t6 are where t5 expects them, and the other way round; with one town there is no place."""
    labels = [study.split("test").batch([i], Resize(study.size))[1][0] == ANOMALY for i in range(4)]
    found = AnomalyStudy(study, {}).places()
    expected = anomaly.smoothed(torch.stack(labels[2:]).float().mean(0))
    assert found.keys() == {"t5", "t6"} and torch.allclose(found["t5"], expected)
    study.split("test").data.towns = ["t5"] * 4
    assert AnomalyStudy(study, {}).places() == {}
    frames.cache_clear()


@pytest.fixture
def scores():
    """Scores of the tests: one that finds what no stripe looks like, and one that only guesses."""
    noise = torch.Generator().manual_seed(0)
    knows = lambda z, f, s: -z.amax(1)  # noqa: E731
    return {"knows": knows, "guesses": lambda z, f, s: torch.rand(z[:, 0].shape, generator=noise)}


def test_a_score_that_knows_is_perfect_and_one_that_does_not_is_chance(study, painter, scores):
    anomalies = AnomalyStudy(study, scores, draws=20)
    found = anomalies.measure(painter)
    best, guess = found["scores"]["knows"], found["scores"]["guesses"]
    assert best["auroc_pooled"] > 0.8 > guess["auroc_pooled"] > 0.3
    assert best["auroc_region"] > 0.8 and 0 < best["anomalies_in_predicted_region"] <= 1
    assert best["intervals"]["auroc_pooled"][0] <= best["auroc_pooled"] and set(best["kinds"]) == {"cow", "t5", "t6"}
    assert best["crossed"]["open_miou"] > 0.5 and set(best["towns"]) == {"t5", "t6"}
    assert guess["budgets"].keys() == {"0.1", "0.5", "1", "2"} and len(unpacked(best["draws"]["aupr_pooled"])) == 20
    assert found["test"].keys() >= {"miou", "miou_published", "low"} and found["train"]["miou"] > 0.8
    assert json.loads(json.dumps(found, default=float))["scores"].keys() == scores.keys()


def test_one_pass_for_all_scores_is_one_for_each(study, painter):
    """Streamed together, alone, or all pixels at once: the same numbers."""
    names = ["max_logit", "mahalanobis_stages", "fused_stages", "place_other_town"]
    anomalies = AnomalyStudy(study, SCORES, draws=20)
    together = anomalies.judge(painter, names)
    for name in names:
        alone = anomalies.judge(painter, [name])
        assert together.found[name].report("all").values == alone.found[name].report("all").values
        np.testing.assert_array_equal(together.allowed[name].at, alone.allowed[name].at)
    validation = ((f.logits, f.features, f.label[None]) for f in alarms.frames(study, "validation", painter))
    levels = anomaly.levels(validation, together.known, ["energy", "mahalanobis_stages"]).levels
    assert together.known.levels == levels and not alone.known.levels, "of what is fused"
    places = anomalies.places()
    pairs = [
        (SCORES[name](f.logits, f.features, replace(together.known, elsewhere=places[f.town]))[0], f.label)
        for f in alarms.frames(study, "test", painter)
    ]
    s, y = (torch.stack(part) for part in zip(*pairs, strict=True))
    expected = measures.measure(measures.exact_curve(s, y == ANOMALY))
    assert measures.measure(together.found[name].pool().curve()) == pytest.approx(expected, abs=1e-6)
    assert anomalies.judge(painter, ["max_logit"]).against_validation("max_logit") > 0.8
    found = sum(together.matrices["test"])
    assert found.shape == (14, 14) and np.trace(found) > 0.9 * found[:-1].sum() and found[-1].sum() == 4 * 24
    assert not found[:, -1].any(), "a network cannot say anomaly"
    assert len(together.matrices["train"]) == 2 and len(together.matrices["validation"]) == 3


def test_validation_is_passed_once_where_it_fits_and_the_numbers_are_the_same(study, painter, monkeypatch):
    real, passed = alarms.frames, []
    monkeypatch.setattr(
        alarms, "frames", lambda study, split, *a, **k: passed.append(split) or real(study, split, *a, **k)
    )
    judged = []
    for most in (alarms.MEMORY, 0):
        monkeypatch.setattr(alarms, "MEMORY", most)
        judged.append(AnomalyStudy(study, SCORES).judge(painter, ["max_logit", "fused_stages"]))
    assert passed == ["train", "validation", "test", *["train", *["validation"] * 3, "test"]]
    once, thrice = judged
    assert once.known.levels == thrice.known.levels
    for name in once.found:
        np.testing.assert_array_equal(once.allowed[name].at, thrice.allowed[name].at)
        for kind in ("allowed", "seen"):
            pairs = zip(getattr(once, kind)[name].points(), getattr(thrice, kind)[name].points(), strict=True)
            assert all(np.array_equal(*pair, equal_nan=True) for pair in pairs)


def test_a_town_without_anomalies_chooses_no_threshold(study, painter, scores, monkeypatch):
    anomalies = AnomalyStudy(study, {"knows": scores["knows"]}, draws=20)
    for towns, holds in ((("t5",), True), (("t5", "t6"), False)):
        real = alarms.frames

        def blank(*args, towns=towns, real=real, **settings):
            for frame in real(*args, **settings):
                label = torch.where(frame.label == ANOMALY, 0, frame.label)
                yield frame._replace(label=label) if frame.town in towns else frame

        monkeypatch.setattr(alarms, "frames", blank)
        found = anomalies.judge(painter, crossed=True).crossed["knows"]
        assert all(np.isnan(v) for v in found.values()) != holds, "the threshold of t6, used in t5"
        monkeypatch.setattr(alarms, "frames", real)


def test_pretrained_features_are_judged_beside_those_of_a_trained_model(study, monkeypatch):
    model = pretrained.untrained("fpn_lite0", device="cpu")
    torch.manual_seed(3)
    again, fresh = pretrained.untrained("fpn_lite0", device="cpu"), Segmenter("fpn_lite0")
    pairs = zip(model.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs), "the decoder is the same every time"
    first, second = (next(net.network.encoder.parameters()) for net in (again, fresh))
    assert torch.equal(first, second), "the encoder has its packaged weights"
    monkeypatch.setattr(
        pretrained, "FEATURES", ("mahalanobis", "mahalanobis_unit")
    )  # for the others streets are too few
    found = AnomalyStudy(study, {n: SCORES[n] for n in pretrained.FEATURES}, "test", draws=5).measure(model)["scores"]
    both = pretrained.named(found, "ImageNet")
    assert list(both) == ["mahalanobis, ImageNet", "mahalanobis_unit, ImageNet"]
    assert both["mahalanobis, ImageNet"] is found["mahalanobis"]
    control = next(pretrained.untrained("fpn_lite0", "random", "cpu").network.encoder.parameters())
    assert not torch.equal(control, first)
    with pytest.raises(ValueError, match="weights are 'imagenet'; choose one of ImageNet, random"):
        pretrained.untrained("fpn_lite0", "imagenet")
