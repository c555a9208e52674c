"""From rows of sweeps to runs, and what is counted of objects, on cases with a known answer."""

import numpy as np
import pytest
import torch

from lib.metrics.intervals import difference
from lib.studies.objects.tables import (
    bleeding,
    bleeding_by_size,
    by_object,
    by_scene,
    course,
    identified,
    missed,
    named,
    runs_of,
    spilling,
)


def test_runs_carry_the_names_of_the_results_file():
    stages = {s: {"fg_ari": 0.1, "mbo": 0.2} for s in ("raw", "merged", "refined")}
    trained = [{"params": {"config": c, "seed": 0}, "metrics": stages} for c in ("ours", "original", "pixels")]
    trained[1]["metrics"] = stages | {"attention": {"fg_ari": 0.3}}
    free = [{"params": {"control": "blocks", "seed": 0}, "metrics": stages}]
    small = [
        {
            "params": {"sweep": s, "slots": 11, "grid": 16, "seed": 0},
            "metrics": stages | {"seconds": 1.0, "peak_mb": 2.0},
        }
        for s in ("slots", "tokens")
    ]
    over_time = {s: {"video_mbo": 0.3, "mbo": 9.0} for s in stages}
    back = {"params": {"seed": 0, "cyclic": True}, "metrics": {"refined": {"video_mbo": 0.25, "mbo": 9.0}}}
    names = {c: {"refined": f"{c}_refined", "raw": c} for c in ("original", "blocks")}
    names |= {"pixels": {"refined": "pixels", "raw": "pixels_raw"}}
    names["original"]["attention"] = "original_attention"
    names |= {"ours": {"refined": "ours", "merged": "ours_merged", "raw": "ours_raw"}}
    found = runs_of(names, trained, free, small, [{"params": {"seed": 0}, "metrics": over_time}, back])
    names = [r["config"] for r in found]
    assert names[:3] == ["ours", "ours_merged", "ours_raw"] and names.count("ours_cyclic") == 1
    assert found[names.index("ours_cyclic")]["metrics"] == {"video_mbo": 0.25}
    assert {"original", "original_refined", "original_attention", "pixels", "pixels_raw"} < set(names)
    assert {"blocks", "slots_11", "tokens_16"} < set(names)
    assert found[0]["metrics"]["video_mbo"] == 0.3 and found[0]["metrics"]["mbo"] == 0.2


def test_missed_pixels_and_bleeding_by_size():
    truth = torch.tensor([[[1, 1, 0, 0], [2, 2, 2, 2]]])
    exact = torch.stack([(truth[0] == i).float() for i in range(3)])[None]
    assert missed(truth, exact).tolist() == [0.0]
    lost = exact.clone()
    lost[0, 0] += lost[0, 1]
    lost[0, 1] = 0  # object 1 joins the floor: IoU 1/2 of 2 pixels
    assert missed(truth, lost).tolist() == [1.0]
    shares = bleeding_by_size(truth, lost, [np.array([0, 1])])
    assert shares == {"small": [pytest.approx(0.5)], "large": [0.0]}


def test_the_interval_over_scenes_is_that_of_independent_scenes():
    """Images of a scene that agree do not narrow it: 1.96 sd / sqrt(scenes), however many images there are."""
    scene = np.random.default_rng(1).normal(size=400)
    found = difference(by_scene(np.repeat(scene, 3), 400), 0.0)
    low, high = found["low"], found["high"]
    assert (high - low) / 2 == pytest.approx(1.96 * scene.std() / 20, rel=0.1)
    assert low < scene.mean() < high
    assert difference(by_scene(np.append(scene, np.nan), 401), 0.0) == found


def test_bleeding_is_the_share_of_a_mask_outside_its_object():
    truth = torch.tensor([[1, 1, 0, 0], [2, 0, 0, 0]])
    exact = torch.stack([(truth == i).float() for i in range(3)])
    assert bleeding(truth, exact) == {1: 0.0, 2: 0.0}
    wide = exact.clone()
    wide[1, 0, 2], wide[0, 0, 2] = 0.5, 0.5  # half a pixel of background goes to object 1's two
    found = bleeding(truth, wide)
    assert found == {1: pytest.approx(0.2), 2: 0}
    uniform = torch.full((3, 2, 4), 1 / 3)
    assert bleeding(truth, uniform)[2] == pytest.approx(7 / 8)


def test_objects_by_size_and_number():
    truth = torch.tensor([[[1, 1, 0, 0], [2, 2, 2, 2]], [[0, 0, 0, 0], [1, 1, 1, 0]]])
    exact = torch.stack([(truth == i).float() for i in range(3)], dim=1)
    lost = exact.clone()
    lost[0, 0] += lost[0, 1]
    lost[0, 1] = 0  # object 1 of the first image joins the floor: IoU 1/2
    each = by_object(truth, lost)
    assert each.to_dict("list") == {"area": [2, 4, 3], "objects": [2, 2, 1], "best": [0.5, 1.0, 1.0]}
    figure, found = identified(truth, {"raw": lost, "merged": lost, "refined": exact})
    assert found.raw.to_dict() == {"small": 0.5, "medium": 1, "large": 1, "1 to 4": pytest.approx(2.5 / 3)}
    assert (found.refined == 1).all() and "to 2, 3, 4 px" in figure.axes[0].get_xlabel()


def test_the_course_of_trainings_and_the_curve_over_thresholds():
    metrics = {
        "course": [[400, 0.1, 0.2], [800, 0.3, 0.4]],
        "tried": [[0.0, 0.5, 0.4], [0.3, 0.7, 0.5]],
        "threshold": 0.3,
    }
    trained = [{"params": {"config": c, "seed": 0}, "metrics": metrics} for c in ("ours", "pixels")]
    trained += [{"params": {"config": "original", "seed": 0}, "metrics": metrics | {"course": []}}]
    figure = course(trained, ["ours", "pixels", "original"])
    assert [line.get_label() for line in figure.axes[0].lines] == ["ours", "pixels"]  # no course, no line
    assert figure.axes[1].lines[0].get_ydata().tolist() == [0.2, 0.4]
    chosen = figure.axes[2].lines[1]
    assert (chosen.get_xdata()[0], chosen.get_ydata()[0]) == pytest.approx((0.3, 0.7))


def test_names_and_bleeding_are_drawn_where_the_numbers_are():
    keys = ("fg_ari", "video_fg_ari_renamed", "video_fg_ari")
    runs = [{"config": c, "metrics": dict.fromkeys(keys, v)} for c, v in (("a", 0.2), ("a", 0.4), ("b", 0.9))]
    (axis,) = named(runs, ["b", "a"]).axes
    means = [bar.lines[0].get_xdata().tolist() for bar in axis.containers]
    assert means == [pytest.approx([0.9, 0.3])] * 3 and axis.get_legend_handles_labels()[1][2] == "video"
    ends = axis.containers[0].lines[1][1].get_xdata() - axis.containers[0].lines[1][0].get_xdata()
    assert ends.tolist() == pytest.approx([0, 2 * np.std([0.2, 0.4], ddof=1)]), "one run has no deviation"
    stages = {s: {"fg_ari": 0.1, "mbo": 0.2} for s in ("raw", "merged", "refined")}
    params = {"slots": 9, "grid": 16, "seed": 0}
    small = [{"params": params | {"sweep": s}, "metrics": stages} for s in ("slots", "tokens")]
    figure = spilling({"small": [0.1, 0.3], "large": [0.2]}, small)
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["small", "large"]
    assert figure.axes[1].lines and figure.axes[2].lines
