"""Figures of the roads: what they show is where it is."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from torchvision.transforms import v2

from lib.data import augment
from lib.data.streethazards import ANOMALY, CLASSES, IGNORE, PALETTE
from lib.metrics.anomaly import exact_curve
from lib.studies.roads import alarms, figures, treatments
from lib.studies.roads.alarms import OperatingPoints
from lib.studies.roads.experiment import Frames


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture
def scene():
    truth = torch.zeros(3, 20, 30, dtype=torch.long)
    truth[:, 5:10, 5:12], truth[:, 0] = ANOMALY, IGNORE
    return torch.randn(3, 20, 30, generator=torch.Generator().manual_seed(0)), truth


def curve_of(scores, truth):
    return exact_curve(scores[truth != IGNORE], truth[truth != IGNORE] == ANOMALY)


def test_they_can_be_drawn(scene, root):
    scores, truth = scene
    line = np.linspace(0, 1, len(alarms.RATES))
    seen, cut = OperatingPoints(line, line, line, line), OperatingPoints(*[line[:5]] * 4)
    effects = {"x": {"effect": 0.1, "low": 0.05, "high": 0.2, "seeds": 3}}
    splits = {name: Frames(root, name) for name in ("train", "test")}
    for figure in (
        figures.classes(splits),
        figures.towns(splits),
        figures.curves({"msp": curve_of(scores, truth)}),
        figures.thresholds({"msp": (seen, seen), "energy": (cut, cut)}),
        figures.effects({"a": effects, "b": []}, {"120 steps": effects, "long": {}}),
        figures.effects({"a": ["y"]}, {"120 steps": effects}),
        figures.networks({"net": {f"iou {c}": {"mean": 0.5} for c in CLASSES}}),
    ):
        figure.canvas.draw()


def test_effects_of_both_lengths_stand_side_by_side():
    e = lambda value, low: {"effect": value, "low": low, "high": 0.3}  # noqa: E731
    found = {"short": {"x": e(0.1, 0.05), "y": e(0.1, -0.1)}, "long": {"y": e(0.2, 0.1)}}
    axis, other = figures.effects({"a": ["x", "y"], "b": ["y", "z"]}, found).axes
    assert [t.get_text() for t in axis.get_yticklabels()] == ["x", "y"]
    assert [t.get_text() for t in other.get_yticklabels()] == ["y"], "what nobody measured has no line"
    points = [line for line in axis.lines if line.get_marker() == "o"]
    assert [(p.get_xdata()[0], round(p.get_ydata()[0])) for p in points] == [(10, 0), (10, 1), (20, 1)]
    assert [p.get_markerfacecolor() == "white" for p in points] == [False, True, False]


def test_a_course_is_the_difference_at_each_step():
    course = lambda *values: {str(10 * (i + 1)): v for i, v in enumerate(values)}  # noqa: E731
    given = (("flip", 1, (0.2, 0.6)), ("none", 0, (0.1, 0.3)), ("flip", 0, (0.2, 0.4)), ("none", 1, (0.2, 0.4)))
    rows = [{"params": {"treatment": t, "seed": s}, "metrics": {"course": course(*v)}} for t, s, v in given]
    pairs = {"flip": (("flip", "clean"), ("none", "clean")), "blur": (("blur", "clean"), ("none", "clean"))}
    axis = figures.courses(rows, pairs).axes[0]
    assert axis.lines[0].get_xdata().tolist() == [10, 20]
    assert axis.lines[0].get_ydata() == pytest.approx([5, 15]) and len(axis.lines) == 2, "blur has no rows"


def test_a_main_model_is_drawn_over_its_steps_without_those_that_were_loaded():
    step = lambda x: {"train": x, "validation": x, "test": x / 2, "auroc msp": 0.9, "aupr msp": x / 10}  # noqa: E731
    rows = [{"metrics": {"9": step(1.0)}}, *({"metrics": {"3": step(x), "9": step(x + 0.2)}} for x in (0.4, 0.6))]
    axes = figures.learned(rows, {"auroc_pooled": 0.8}).axes
    assert [line.get_label() for line in axes[0].lines] == ["train", "validation", "test"]
    assert axes[0].lines[2].get_ydata() == pytest.approx([0.25, 0.35])
    assert axes[2].lines[0].get_ydata() == pytest.approx([0.05, 0.07]) and len(axes[2].lines) == 1
    assert axes[1].lines[1].get_ydata()[0] == 0.8
    figures.learned(rows[:1], {}).canvas.draw()


def test_classes_have_their_colours_and_a_legend(scene):
    _, truth = scene
    assert figures.paint(truth)[0, 0, 0].tolist() == [0, 0, 0], "void is black"
    assert (255 * figures.paint(truth)[1, 6, 6]).round().tolist() == PALETTE[ANOMALY].tolist()
    legend = figures.panels({"ground truth": figures.paint(truth)}, ["a", "b", "c"]).legends[0]
    shown = {t.get_text(): p.get_facecolor()[:3] for t, p in zip(legend.get_texts(), legend.get_patches(), strict=True)}
    assert list(shown) == list(CLASSES) and shown["road"] == pytest.approx(PALETTE[CLASSES.index("road")] / 255)


def test_anomalies_are_outlined_on_scores_alone(scene):
    scores, truth = scene
    shown = figures.stretched(scores, curve_of(scores, truth)).numpy()
    columns = {"image": torch.rand(3, 20, 30, 3).numpy(), "score": shown}
    axes = figures.panels(columns, ["a", "b", "c"], truth == ANOMALY).axes
    assert [len(axis.collections) for axis in axes] == [0, 1] * 3
    line = axes[1].collections[0].get_paths()[0].vertices
    assert line.min(0).tolist() == [4.5, 4.5], "half a pixel around columns 5..11 and rows 5..9"
    assert line.max(0).tolist() == [11.5, 9.5]


def test_scores_are_stretched_over_all_frames():
    scores = torch.arange(1000.0).view(2, 20, 25)
    found = figures.stretched(scores, exact_curve(scores, scores > 900))
    assert (found == 0).sum() == pytest.approx(10, abs=1) and (found == 1).sum() == pytest.approx(5, abs=1)
    assert found.min() == 0 and found.max() == 1 and found[0].max() < 0.5 < found[1].min() + 0.02


def test_alarms_are_red_and_anomalies_outlined(scene):
    scores, truth = scene
    scores[:, 5:10, 5:12], scores[0, 15:18, 20:24] = 9.0, 9.0
    made = [
        alarms.Frame(i, "t5", torch.rand(3, 20, 30), torch.randn(1, 13, 20, 30), (), label)
        for i, label in enumerate(truth)
    ]
    seen = alarms.Alarms(np.array([8.0]))
    for score, label in zip(scores, truth, strict=True):
        seen.add(score, label)
    assert seen.cases(0) == {"hit": 1, "false alarm": 0}
    axes = figures.alarmed([made[1], made[0]], scores[[1, 0]], seen, 0).axes
    assert figures.alarmed([], [], seen, -1).texts[0].get_text() == "no threshold is within the budget"
    hit, false = (axis.images[0].get_array() for axis in axes[3::4])
    assert np.allclose(hit[6, 6], alarms.RED) and np.allclose(false[16, 21], alarms.RED)
    assert not np.allclose(hit[16, 21], alarms.RED) and not np.allclose(false[12, 2], alarms.RED), "nothing is there"
    assert [len(axis.collections) for axis in axes[:4]] == [0, 0, 1, 1]
    assert axes[2].images[0].get_array()[6, 6] == 1 and axes[4].get_ylabel() == "false alarm"


def test_outlines_of_crops_are_their_fields_of_view():
    """True scaling changes the field of view and the original's crop does not."""
    image = torch.randint(0, 255, (3, 180, 320), dtype=torch.uint8)
    cuts = {
        "true": lambda s: augment.ScaleCrop((128, 128), (s, s)),
        "degenerate": lambda s: treatments.DegenerateCrop((128, 128), (s, s)),
        "middle": lambda s: v2.CenterCrop((60, 80)),
    }
    axes = figures.crops(image, cuts, (1, 2)).axes
    true, degenerate, middle = ([(p.get_height(), p.get_width()) for p in axis.patches] for axis in axes[::3])
    assert true == [(127, 127), pytest.approx((63, 63), abs=1)]
    assert degenerate == [(127, 127), pytest.approx((127, 127), abs=1)] and middle == [(59, 79)] * 2
    assert axes[6].patches[0].get_xy() == (120, 60)
    assert [to_rgb(axis.title.get_color()) for axis in axes[1:3]] == [p.get_edgecolor()[:3] for p in axes[0].patches]
