"""Trainings that are looked at on their way."""

import pytest

from lib.studies.roads.courses import Watched


def test_looks_on_the_way_change_nothing(root):
    study = Watched(root=root, size=(24, 40), batch=2, device="cpu")
    short = {"seed": 0, "steps": 5, "lr": 1e-3, "crop": [32, 32], "pretrained": False}
    without, looked = (study.trial({"flip": "joint"}, looks=looks, **short) for looks in (0, 2))
    course = looked.pop("course")
    assert list(course) == ["2", "4", "5"] and course["5"] == looked["clean"] and len({*course.values()}) > 1
    different = {k for k in without if without[k] != looked[k]}
    assert different == {"seconds"}, "dropout, batches and batch statistics are those of a training without looks"
    assert without.keys() == looked.keys() and study.course == {}


def test_what_is_seen_at_a_step_is_before_it(root, monkeypatch):
    """At 32 bits of the weights after so many steps: a training of that length with a constant rate ends there."""
    study = Watched(root=root, size=(24, 40), batch=2, device="cpu", precision="bf16-mixed")
    settings = {"seed": 0, "lr": 1e-3, "crop": [32, 32], "pretrained": False, "schedule": "constant"}
    course = study.trial({}, looks=2, steps=4, **settings)["course"]
    assert course["2"] == pytest.approx(study.trial({}, steps=2, **settings)["clean"], abs=1e-6)
