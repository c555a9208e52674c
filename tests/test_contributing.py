"""CONTRIBUTING.md's steps, run in a copy of the library: each in the places it names, and nothing else goes stale."""

import json
import os
import re
import shutil
import subprocess
import sys

import nbformat
import numpy as np
import pytest
import timm
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell
from PIL import Image

from lib import ROOT, features, provenance
from lib.models import backbones
from lib.models.dinosaur import Dinosaur

#: File of `lib`, the line after which an entry is written, and the entry.
ENTRIES = [
    ("anomaly.py", "SCORES: dict[str, Score] = {\n",
     '    "least_logit": lambda z, f, s: -z.amin(1),\n'),
    ("models/backbones.py", "NETWORKS = {\n", '    "resnet10": ("resnet10t", IMAGENET, "resnet10.pth"),\n'),
]  # fmt: skip
#: And one that is changed: the normalisation of its pixels.
EDITED = '"random_efficientnet_lite0": ("tf_efficientnet_lite0", LITE,'
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
    "mean": experiment.network("resnet10").mean.flatten().tolist(),
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
    for name in ("efficientnet_lite0", "random_efficientnet_lite0"):
        features.compute(backbones.load(name, strides=(2, 4)), Scene(), 64, 16)
    return {
        "tokens": sorted(p.name for p in cache.glob("*.npy")),
        "model": provenance.code_of_model(Dinosaur(8, num_slots=3), Dinosaur),
    }


@pytest.fixture
def house(tmp_path):
    """A copy of `lib` beside everything else as it is, with the entries that CONTRIBUTING asks for."""
    for name in ("lib", "notebooks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("data", "checkpoints"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name, line, entry in ENTRIES:
        path = tmp_path / "lib" / name
        assert path.read_text().count(line) == 1, f"{name} reads otherwise by now"
        path.write_text(path.read_text().replace(line, line + entry))
    assert path.read_text().count(EDITED) == 1
    path.write_text(path.read_text().replace(EDITED, EDITED.replace("LITE", "IMAGENET")))
    return tmp_path


def ran(house, *command: str) -> str:
    """What a command of Python prints in the copy."""
    own = {"PYTHONPATH": str(house), "SLOTS_OUT": str(house / "out"), "SLOTS_WEIGHTS": str(house), "TQDM_DISABLE": "1"}
    run = subprocess.run([sys.executable, *command], cwd=house, env=os.environ | own, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_a_score_and_a_backbone_are_added_in_the_places_that_are_named(house, monkeypatch):
    monkeypatch.setattr(features, "FOLDER", None, raising=False)
    before = stamps(house / "cache")
    torch.save(timm.create_model("resnet10t", num_classes=0).state_dict(), house / "resnet10.pth")
    found = json.loads(ran(house, "-c", SCRIPT, str(ROOT / "tests"), str(house)).splitlines()[-1])
    (edited,) = {*found["tokens"]} - {*before["tokens"]}
    assert edited.startswith("random_efficientnet_lite0"), "tokens of others are what they were"
    assert found["model"] == before["model"]
    assert found["mean"] == pytest.approx(backbones.IMAGENET[0])
    assert {"score msp", "score least_logit"} <= {*found["scores"]} and "least_logit" in found["key"]
    assert found["planned"]["ex_dino1"] == {"backbone": "resnet10"}
    assert found["planned"]["backbone_comparison"] == {"pretrained": ["vit8_dino", "resnet10"]}
    assert found["grid"] == [32, 32]
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert all(f"lib/{name}" in text for name, *_ in ENTRIES)


def test_a_folder_of_images_and_videos_is_learned_from(tmp_path, monkeypatch, capsys):
    """The block of the page as it stands, but for the folder and the number of steps."""
    page = (ROOT / "CONTRIBUTING.md").read_text().split("## Add a data set")[1]
    block = re.search(r"```python\n(.*?)```", page, re.S)[1]
    for here, there in (("data/real/mine", str(tmp_path)), ("steps=4800, warmup=200", "steps=3, warmup=1")):
        assert block.count(here) == 1
        block = block.replace(here, there)
    rng = np.random.default_rng(0)
    for split in ("train", "validation", "test"):
        for name in ("a.png", "b.jpg", "walk/1.png"):
            for folder in (split, f"{split}_masks"):
                (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            ids = np.zeros((40, 56), np.uint8)
            ids[8:24, 16:32] = 1
            shown = rng.integers(0, 99, (40, 56, 3), np.uint8) + 150 * ids[..., None]
            Image.fromarray(shown).save(tmp_path / split / name)
            Image.fromarray(ids).save((tmp_path / f"{split}_masks" / name).with_suffix(".png"))
    monkeypatch.setattr(features, "FOLDER", tmp_path / "cache")
    monkeypatch.setenv("SLOTS_OUT", str(tmp_path / "out"))
    made: dict = {}
    exec(compile(block, "CONTRIBUTING.md", "exec"), made)
    assert made["study"].scenes("train").shape == (3, 1, 128, 128)
    assert [p.name[:7] for p in (tmp_path / "out" / "checkpoints").iterdir()] == ["mine-0-"]
    scores = made["report"](made["model"], *(made["study"].scenes(name) for name in ("validation", "test")))
    assert all(0 <= scores[stage]["mbo"] <= 1 for stage in ("raw", "merged", "refined"))
    assert "'refined': {" in capsys.readouterr().out


#: The cells of code of a notebook of one's own, after its parameters.
CODE = (
    "import matplotlib.pyplot as plt\nimport numpy as np\n\nfrom lib import plots, results\n\n"
    'runs = [{"config": "mean", "seed": s, "metrics": {"x": float(np.random.default_rng(s).random(draws).mean())}}\n'
    "        for s in range(3)]\n"
    'results.write("mine", runs, params={"draws": draws}, data={"name": "none", "split": "none", "fingerprint": ""},\n'
    '              headline=("mean", "x"), device="cpu")',
    'figure, axis = plt.subplots()\naxis.plot([r["metrics"]["x"] for r in runs])\nplots.save(figure, "mine_numbers")',
    'results.check("mean of uniform numbers", results.means(runs)["mean"]["x"], 0.5, 0.2)',
)
FIRST = """# mine: how far is a mean from a half?

[streethazards](streethazards.ipynb) · [Index](index.md) · [Glossary](glossary.md)

**Question.** How far is a mean from a half?

**What we expect.** Less far with more draws."""


def test_a_notebook_is_added_by_the_steps_and_passes_the_gate(house):
    notebook = nbformat.read(house / "notebooks" / "ex_slot3.ipynb", as_version=4)  # 1. copied
    first, setup, parameters = notebook.cells[:3]
    first.source, parameters.source = FIRST, "draws: int = 64  # numbers of each mean, at least 2"  # 2.
    notebook.cells = [first, setup, parameters, *map(new_code_cell, CODE)]  # 3.
    notebook.cells.append(new_markdown_cell("## What we learned\n\nNothing.\n\n## What would change our mind\n\nData."))
    notebook.cells[5].metadata.tags = ["nbval-check-output"]  # 4.
    nbformat.write(notebook, house / "notebooks" / "mine.ipynb")
    with (house / "notebooks" / "index.md").open("a") as index:
        index.write("\n[mine](mine.ipynb)\n")
    assert "mean x 0.5" in ran(house, "-m", "lib.run", "mine", "--out", ".")  # 5.
    (said,) = nbformat.read(house / "notebooks" / "mine.ipynb", as_version=4).cells[5].outputs
    assert said.text == "mean of uniform numbers: ok (expected 0.5 ± 0.2)\n"
    gate = [str(ROOT / "tests" / "test_notebooks.py"), "-k", "mine", "--noconftest", "-p", "no:cacheprovider"]
    assert "4 passed" in ran(house, "-m", "pytest", "-q", *gate)
