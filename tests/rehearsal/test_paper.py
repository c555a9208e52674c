"""The profile `paper` from end to end, on a few scenes and frames in the real sets' formats, with a few steps."""

import json
import re

import nbformat
import pytest

from lib import ROOT, run
from lib.data import DataError
from lib.data.movi import MoviDataset
from lib.models import backbones

#: All that makes a run short; what is not here is paper's.
TINY = {
    **dict.fromkeys(("steps", "photo_steps", "overfit_steps", "model_steps", "slots_steps"), 3),
    **dict.fromkeys(("sides_steps", "video_steps", "clip_steps", "image_steps", "compared_steps"), 3),
    **dict.fromkeys(("cost_steps", "network_steps", "main_steps", "norm_steps"), 2),
    **{f"{k}seeds": [0] for k in ("", "few_", "twin_", "sweep_", "network_", "main_", "optimiser_")},
    **dict.fromkeys(("batch", "photo_batch", "overfit_batch", "model_batch", "compared_batch", "road_batch"), 2),
    "clips": 1, "train_pictures": 32, "photo_crops": 8, "shape_px": 32, "photo_px": 32, "image_px": 112,
    "train_every": 12, "every": 12, "slots": [5], "sides": [16], "precision": "32-true", "device": "cpu",
    "main_size": [45, 80], "road_workers": 1,
    "size": [45, 80], "crop": [32, 32], "main_crop": [45, 80], "sizes": [[32, 32]],
    "pretrained": ["dinov2_vits14", "dino_vits16", "clip_vitb16"], "packaged": ["efficientnet_lite0"],
    "controls": ["random_vits14"], "models": ["ours", "original", "pixels"],
    "configs": ["original", "mask temperature 0.3", "ours", "ours, no frames"],
}  # fmt: skip
#: Those that read real data, and what they must say of it.
READS = {n: "movi_a" for n in ("ex_dino1", "ex_dino2", "ex_dino3", "ex_dino4", "ex_comparison", "backbone_comparison")}
READS["streethazards"] = "streethazards"


@pytest.mark.slow
@pytest.mark.parametrize("name", run.series())
def test_a_notebook(real, tmp_path, monkeypatch, capfd, name):
    """It ends, and what it writes and shows is about real data and published weights."""
    monkeypatch.setenv("SLOTS_WEIGHTS", str(real / "weights"))
    known, given = run.parameters(name), {**TINY, **roots(real)}
    options = [x for k, v in given.items() if k in known for x in ("-p", k, json.dumps(v))]
    status = run.main([name, "--profile", "paper", "--out", str(tmp_path), *options])
    assert status == 0, capfd.readouterr().out
    document = json.loads((tmp_path / "figures" / "results" / f"{name}.json").read_text())
    if name in READS:
        assert document["data"]["name"] == READS[name], document["data"]
        notebook = nbformat.read(tmp_path / "notebooks" / f"{name}.ipynb", as_version=4)
        shown = [o.text for c in notebook.cells if c.cell_type == "code" for o in c.outputs if "text" in o]
        assert not re.search("stand-in|REGRESSION|NO LONGER", "\n".join(shown))
        assert "vit8" not in json.dumps(document["runs"]) and "lite0" not in str(document["data"])


def roots(real):
    """Where the data are; at 128 and 256 px side by side, `root` says which."""
    return {"root": str(real / "movi_a" / "128x128" / "1.0.0"), "road_root": str(real / "streethazards")}


@pytest.mark.slow
def test_both_resolutions_side_by_side(real):
    for side in (128, 256):
        data = MoviDataset(real / "movi_a" / f"{side}x{side}" / "1.0.0", "validation", ("video", "segmentations"))
        assert data.name == "movi_a" and len(data) == 3 and data[1].video.shape == (24, side, side, 3)
    with pytest.raises(DataError, match=r"several folders \(128x128/1.0.0, 256x256/1.0.0\); pass one as root"):
        MoviDataset(real / "movi_a", "train")
    with pytest.raises(DataError, match="no split 'test'"):
        MoviDataset(real / "movi_a" / "128x128" / "1.0.0", "test")


@pytest.mark.parametrize("profile", run.profiles())
def test_every_profile_can_be_planned(profile):
    """What a parameter's help says of its names is there."""
    assert set(run.plan([], profile, {})) == set(run.series())


def test_paper_names_a_resolution_and_the_published_weights():
    """So nothing is measured on 256 px because 128 are missing, and nothing on the small committed transformers."""
    profile = run.read((run.NOTEBOOKS / "params" / "paper.yaml").read_bytes(), "paper")
    text = json.dumps(profile)
    assert "128x128/1.0.0" in text and "vit8" not in text
    assert {"dinov2_vits14", "dino_vits16", "clip_vitb16"} <= {n for n in backbones.NAMES if n in text}
    assert (ROOT / "data" / "movi_a" / "making.json").exists()  # what "stand-in" is known by
