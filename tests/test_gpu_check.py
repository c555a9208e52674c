"""tests/gpu/check.py says what a GPU does, where there is one; that it looks at what it should, a CPU can tell."""

import importlib.util
import sys
import warnings

import pytest

from lib import ROOT, parallel, run

FOLDERS = [str(ROOT / "tests" / "gpu"), str(ROOT / "tests" / "rehearsal")]


@pytest.fixture
def check(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [*FOLDERS, *sys.path])
    monkeypatch.setattr(parallel, "Fabric", parallel.Fabric)  # put back afterwards
    monkeypatch.setenv("SLOTS_OUT", str(tmp_path))
    monkeypatch.setenv("SLOTS_COMPILE", "")
    spec = importlib.util.spec_from_file_location("check", ROOT / "tests" / "gpu" / "check.py")
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    with warnings.catch_warnings():  # it counts those of a device
        yield module


def test_it_sees_the_steps_of_a_training_and_says_so_where_it_does_not(check, monkeypatch):
    import trainings

    image = trainings.trainings("cpu")["slots on tokens"]
    named = {"slots on tokens": image, "none": lambda: None}
    monkeypatch.setattr(trainings, "trainings", lambda *_: named)
    found = check.device_part("cpu")
    assert len(found["slots on tokens"]["cpu"]) == trainings.STEPS
    assert found["slots on tokens"]["trained on"] == "cpu" and "error" not in found["slots on tokens"]
    assert found["none"]["error"] == "trained without a look at its steps"


def test_its_long_runs_set_what_the_notebooks_take(check):
    speed = {f"{name}, bf16-mixed": {"ms": 10.0} for name in ("step, ours, 1024 tokens", "road step")}
    options = type("Options", (), {"device": "cuda"})
    for name, _, change in check.lengths(speed, 100.0, options):
        assert change.keys() <= run.parameters(name).keys()
