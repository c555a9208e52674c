"""CONTRIBUTING.md's steps, run in a copy of the library: each in the places it names, and nothing else goes stale."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch

from lib import ROOT, features, provenance
from lib.models import backbones
from lib.models.dinosaur import Dinosaur

#: File of `lib`, the line after which an entry is written, and the entry.
ENTRIES = [
    ("anomaly.py", "SCORES: dict[str, Score] = {\n",
     '    "least_logit": lambda z, f, s: -z.amin(1),\n'),
    ("models/backbones.py", "NETWORKS = {\n", '    "resnet10": ("resnet10t", IMAGENET, "resnet10.pth"),\n'),
]  # fmt: skip
SCRIPT = """
import json, pathlib, sys
sys.path.append(sys.argv[1])
import torch
from test_contributing import stamps
from lib import ROOT, anomaly, run
from lib.models.segmenters import LITE0, Segmenter
from lib.studies.backbones import experiment
from lib.studies.roads import alarms, tables
from lib.studies.roads.experiment import RoadStudy

here = pathlib.Path(sys.argv[2])
study = RoadStudy(ROOT / "data" / "streethazards", (45, 80), 2, "32-true", "cpu")
known = {k: f for k, f in anomaly.SCORES.items() if k in ("msp", "least_logit")}
judge = alarms.AnomalyStudy(study, known, draws=2)
model = Segmenter(LITE0, 13, pretrained=False).eval()
rows = [{"params": {"seed": 0}, "metrics": judge.measure(model)}]
tokens = experiment.network("resnet10")(torch.zeros(1, 3, 64, 64))
print(json.dumps(stamps(here / "cache") | {
    "scores": [run["config"] for run in tables.anomaly_runs(rows)],
    "planned": run.plan(["ex_dino1", "backbone_comparison"], "default",
                        {"backbone": "resnet10", "pretrained": ["vit8_dino", "resnet10"]}),
    "grid": tokens.grid,
    "key": judge.data(),
}))
"""


class Scene:
    """A split of one scene of two frames."""

    fingerprint, split, frames = "abc", "test", slice(None)
    video = np.full((2, 64, 64, 3), 99, np.uint8)

    def __len__(self):
        return 1

    def __getitem__(self, _):
        return self


def stamps(cache) -> dict:
    """What would go stale: the cached tokens of other backbones, and the code of models whose weights are kept."""
    features.FOLDER = cache
    features.compute(backbones.load("efficientnet_lite0", strides=(2, 4)), Scene(), 64, 16)
    return {
        "tokens": sorted(p.name for p in cache.glob("*.npy")),
        "model": provenance.code_of_model(Dinosaur(8, num_slots=3), Dinosaur),
    }


@pytest.fixture
def house(tmp_path):
    """A copy of `lib` beside everything else as it is, with the entries that CONTRIBUTING asks for."""
    shutil.copytree(ROOT / "lib", tmp_path / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("data", "checkpoints", "notebooks", "figures"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name, line, entry in ENTRIES:
        path = tmp_path / "lib" / name
        assert path.read_text().count(line) == 1, f"{name} reads otherwise by now"
        path.write_text(path.read_text().replace(line, line + entry))
    return tmp_path


def test_a_score_and_a_backbone_are_added_in_the_places_that_are_named(house, monkeypatch):
    monkeypatch.setattr(features, "FOLDER", None, raising=False)
    before = stamps(house / "cache")
    torch.save(timm.create_model("resnet10t", num_classes=0).state_dict(), house / "resnet10.pth")
    own = {"PYTHONPATH": str(house), "SLOTS_OUT": str(house / "out"), "SLOTS_WEIGHTS": str(house), "TQDM_DISABLE": "1"}
    command = [sys.executable, "-c", SCRIPT, str(ROOT / "tests"), str(house)]
    run = subprocess.run(command, cwd=house, env=os.environ | own, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert {k: found[k] for k in before} == before, "tokens and models of others are what they were"
    assert {"score msp", "score least_logit"} <= {*found["scores"]} and "least_logit" in found["key"]
    assert found["planned"]["ex_dino1"] == {"backbone": "resnet10"}
    assert found["planned"]["backbone_comparison"] == {"pretrained": ["vit8_dino", "resnet10"]}
    assert found["grid"] == [32, 32]
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert all(f"lib/{name}" in text for name, *_ in ENTRIES)
