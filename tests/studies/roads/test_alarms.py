"""Anomalies on streets small enough to know the answer: what thresholds flag, budgets, and scores that must win."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from lib import explore
from lib.anomaly import SCORES
from lib.data.streethazards import ANOMALY, IGNORE
from lib.studies.roads import alarms
from lib.studies.roads.alarms import AnomalyStudy, OperatingPoints, SplitOutputs


def test_alarms_by_hand():
    label = torch.zeros(40, 40, dtype=torch.long)
    label[10:20, 10:20] = ANOMALY
    label[0:5] = IGNORE
    score = torch.zeros(40, 40)
    score[10:20, 10:18] = 5.0  # 80 of the 100 pixels
    score[30:34, 30:34] = 4.0  # a false alarm
    score[30:34, 0:4] = 3.0  # another
    score[0:4] = 9.0  # nothing counts here
    seen = alarms.operating_points([(score, label), (score, label)], np.array([8.0, 4.5, 3.5, 2.5]))
    assert seen.false_alarms.tolist() == [0, 0, 1, 2]
    assert seen.found.tolist() == [0, 1, 1, 1] and seen.recall.tolist() == [0, 0.8, 0.8, 0.8]
    assert np.isnan(seen.precision[0]) and seen.precision[1:].tolist() == [1, 80 / 96, 80 / 112]
    assert [alarms.within_budget(seen, b) for b in (0.5, 1.0, 5.0)] == [1, 2, 3]
    empty = alarms.operating_points([(score, torch.zeros_like(label))], np.array([2.5]))
    assert np.isnan(empty.found[0]) and empty.false_alarms[0] == 4
    score[20, 20] = np.nan
    with pytest.raises(ValueError, match="1 of 1400 scores are not finite"):
        alarms.operating_points([(score, label)], np.array([2.5]))


def test_flagging_most_of_a_frame_is_a_false_alarm():
    """88 x 88 of 100 x 100 px with one pixel on the anomaly: PPV 1/7744, which is no find."""
    score, label = torch.zeros(100, 100), torch.zeros(100, 100, dtype=torch.long)
    score[:88, :88], label[87:97, 87:97] = 1.0, ANOMALY
    seen = alarms.operating_points([(score, label)], np.array([0.5]))
    assert seen.precision[0] == 1 / 7744 and seen.false_alarms[0] == 1 and seen.found[0] == 0
    score[:88, :88], score[78:98, 86:106] = 0.0, 1.0  # 20 x 14 px, 100 of them on the anomaly
    assert alarms.operating_points([(score, label)], np.array([0.5])).false_alarms[0] == 0


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_the_slider_takes_thresholds_of_the_score_it_shows(scale, monkeypatch):
    """Two scores of the same order and other units; in the middle both flag the same pixels, and some."""
    titles, generator = [], torch.Generator().manual_seed(0)
    monkeypatch.setattr(explore.plots, "grid", lambda panels, columns: titles.append(columns[1]) or plt.figure())
    scores, truth = torch.rand(2, 50, 50, generator=generator), torch.zeros(2, 50, 50, dtype=torch.bool)
    maps = {"a": scores, "b": scale * scores - 30}
    frames = {name: [(s, torch.zeros(50, 50, dtype=torch.long)) for s in m] for name, m in maps.items()}
    at = {name: alarms.thresholds(pairs) for name, pairs in frames.items()}
    widget = explore.flagged(torch.rand(2, 3, 50, 50), maps, truth, at)
    for name in maps:
        widget.children[0].value = name
        widget.update()
    flagged = [int(title.split(", ")[1].split()[0]) for title in titles[-2:]]
    share = alarms.RATES[len(alarms.RATES) // 2]
    assert flagged[0] == flagged[1] and 0 < flagged[0] <= 2 * 5000 * share, titles
    with pytest.raises(ValueError, match="as many"):
        explore.flagged(torch.rand(2, 3, 50, 50), maps, truth, {"a": [1.0], "b": [1.0, 0.5]})
    plt.close("all")


def test_a_budget_is_kept_from_the_top():
    """At the lowest threshold all alarms have grown into one; that is no reason to choose it."""
    seen = OperatingPoints(np.array([0.0, 2.0, 9.0, 1.0]), *[np.zeros(4)] * 3)
    assert alarms.within_budget(seen, 3.0) == 1 and alarms.within_budget(seen, -1.0) == -1


def test_thresholds_flag_the_shares():
    score = torch.rand(100, 100, generator=torch.Generator().manual_seed(0))
    at = alarms.thresholds([(score, torch.zeros(100, 100, dtype=torch.long))])
    shares = np.array([(score >= t).float().mean() for t in at])
    assert (shares <= alarms.RATES + 1e-7).all() and shares == pytest.approx(alarms.RATES, abs=5e-4)
    assert (np.diff(at) <= 0).all()


def test_outputs_are_the_same_kept_or_not(study, painter, monkeypatch):
    kept = SplitOutputs(study, "test", painter)
    monkeypatch.setattr(alarms, "MEMORY", 1)
    computed = SplitOutputs(study, "test", painter)
    for a, b in zip(kept, computed, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert next(iter(kept))[0] is next(iter(kept))[0] and next(iter(computed))[0] is not next(iter(computed))[0]
    assert len(SplitOutputs(study, "test", painter, every=3)) == 2


def test_a_score_that_knows_is_perfect_and_one_that_does_not_is_chance(study, painter):
    truth = {"n": 0}
    anomalies = AnomalyStudy(study, SCORES, draws=20)
    test, validation = (SplitOutputs(study, s, painter) for s in ("test", "validation"))
    labels = [y for _, _, y in test]
    noise = torch.Generator().manual_seed(0)

    def knows(z, f, s):
        truth["n"] += 1
        label = labels[(truth["n"] - 1) % len(labels)]
        return (label == ANOMALY).float() + 0.01 * torch.rand(label.shape, generator=noise)

    found = anomalies.judged(knows, None, validation, test)
    assert found["auroc_pooled"] > 0.999 and found["aupr_per_image"] > 0.99 and found["fpr95_zagreb"] < 0.01
    assert found["intervals"]["auroc_pooled"][0] > 0.99 and set(found["kinds"]) == {"cow", "t5", "t6"}
    assert found["crossed"]["open_miou"] > 0.8 and found["crossed"]["f1"] > 0.9
    guessed = anomalies.judged(lambda z, f, s: torch.rand(z[:, 0].shape, generator=noise), None, validation, test)
    assert 0.4 < guessed["auroc_pooled"] < 0.6 and guessed["budgets"].keys() == {"0.1", "0.5", "1", "2"}


def test_real_scores_see_what_the_painter_cannot_name(study, painter):
    anomalies = AnomalyStudy(study, SCORES, draws=20)
    known = anomalies.statistics(painter)
    test, validation = (SplitOutputs(study, s, painter) for s in ("test", "validation"))
    assert anomalies.judged(SCORES["max_logit"], known, validation, test)["auroc_pooled"] > 0.8
    found = test.matrices().sum(0)
    assert found.shape == (14, 14) and np.trace(found) > 0.9 * found[:-1].sum() and found[-1].sum() == 4 * 24
    assert not found[:, -1].any(), "a network cannot say anomaly"


def test_a_town_without_anomalies_chooses_no_threshold(study, painter):
    anomalies = AnomalyStudy(study, SCORES, draws=20)
    test = SplitOutputs(study, "test", painter)
    pairs = list(test.scored(SCORES["max_logit"], None))
    towns = np.array(study.split("test").data.towns)
    for i in np.flatnonzero(towns == "t5"):
        pairs[i] = (pairs[i][0], torch.where(pairs[i][1] == ANOMALY, 0, pairs[i][1]))
    test._kept = [(*frame[:2], label[None]) for frame, (_, label) in zip(test, pairs, strict=True)]
    found = anomalies.crossed(pairs, test)
    assert found["open_miou"] > 0.5, "the threshold of t6, used in t5"
    none = [(score, torch.zeros_like(label)) for score, label in pairs]
    assert all(np.isnan(v) for v in anomalies.crossed(none, test).values())
