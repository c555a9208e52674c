"""The road study on photographs small enough to train on, from folders to tables."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from lib.data import camvid as data
from lib.data.streethazards import ANOMALY, CLASSES, IGNORE
from lib.studies.roads import camvid, photographs

NETWORKS = ("fpn_lite0", "fpn_lite2")


@pytest.fixture
def folder(tmp_path):
    """CamVid of stripes, 48 x 64 px, and three sets of two images of different shapes with an anomaly each."""
    rng = np.random.default_rng(0)
    for split, (name, _) in data.SPLITS.items():
        for i in range({"train": 4}.get(split, 3)):
            label = np.repeat(rng.permutation(12), 6)[:64][None].repeat(48, 0).astype(np.uint8)
            for kind, pixels in ((name, np.stack([label * 20] * 3, -1)), (f"{name}annot", label)):
                (tmp_path / "camvid" / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(tmp_path / "camvid" / kind / f"Seq05VD_f{i:05d}.png")
    for name in camvid.SETS:
        for i, (h, w) in enumerate(((48, 80), (64, 48), (48, 64))):
            label = np.zeros((h, w), np.uint8)
            label[20:36, 10 + 4 * i : 30 + 4 * i], label[:4] = 1, IGNORE
            image = rng.integers(0, 255, (h, w, 3)).astype(np.uint8)
            for kind, pixels in (("images", image), ("labels_masks", label)):
                (tmp_path / name / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(tmp_path / name / kind / f"{i}.png")
    return tmp_path


def test_classes_keep_their_meaning(folder):
    ids = camvid.STREET_IDS
    named = {name: CLASSES[ids[i]] for i, name in enumerate(data.CLASSES)}
    assert named["road"] == "road" and named["sky"] == "unlabeled" and named["bicyclist"] == "other"
    assert len({*named.values()}) == 11 and (ids[11:] == IGNORE).all() and ANOMALY not in ids
    study = camvid.PhotographStudy(folder / "camvid", (24, 32), 2)
    image, label = study.split("train")[0]
    known = (image[0] // 20).long()
    assert torch.equal(label.long(), torch.where(known == 11, IGNORE, ids[known].long()))
    assert len(camvid.Treatments(folder / "camvid", (24, 32), 2).split("validation")) == 1


def test_images_keep_their_shape_and_what_is_ignored(folder):
    study = camvid.PhotographStudy(folder / "camvid", (24, 32), 2)
    frames = list(study.scenes("road_anomaly"))
    assert [f.label.shape for f in frames] == [(24, 40), (24, 18), (24, 32)]
    assert [f.town for f in frames] == ["even", "odd", "even"]
    assert all({*f.label.unique().tolist()} == {0, ANOMALY, IGNORE} for f in frames)
    places = study.places("road_anomaly")
    assert places["even"].shape == (24, 32) and places["even"].sum() != places["odd"].sum()
    one = (frames[1].label == ANOMALY).float()
    assert places["even"].mean() == pytest.approx(float(one.mean()), abs=0.02), "the even are told where odd ones are"


def test_treatments_are_those_of_the_notebook(notebook):
    theirs = notebook["TREATMENTS"]
    assert {t: theirs[t] for t in camvid.TREATMENTS} == camvid.TREATMENTS
    shared = {n: s for n, s in (notebook["FAULTS"] | notebook["HEADLINE"]).items() if n in photographs.EFFECTS}
    assert len(shared) == 8 and shared == {n: photographs.EFFECTS[n] for n in shared}


def test_from_folders_to_tables(folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    monkeypatch.setenv("SLOTS_OUT", str(out))
    monkeypatch.setattr(photographs, "ROOT", folder)  # nothing is committed there
    assert photographs.shown() == {} and "nothing is measured yet" in capsys.readouterr().out
    results = photographs.Path(__file__).parents[3] / "figures" / "results" / "streethazards.json"
    (folder / "figures" / "results").mkdir(parents=True)
    (folder / "figures" / "results" / "streethazards.json").write_text(results.read_text())
    small = {"seeds": (0, 1), "steps": 2, "short": 1, "networks": NETWORKS, "size": (48, 64), "crop": (32, 32)}
    monkeypatch.setattr(photographs, "PLAN", small)
    tables = photographs.shown(".")
    assert "measured on" in capsys.readouterr().out
    document = json.loads((out / "figures" / "results" / "road_photographs.json").read_text())
    assert "do not ship" in document["data"]["name"] and document["headline"]["config"] == "fpn_lite0"
    summary = document["summary"]
    assert 0 <= summary["fpn_lite0"]["test_miou"]["mean"] <= 1 and summary["fpn_lite0"]["iou road"]["n"] == 2
    for name in camvid.SETS:
        assert summary[f"fpn_lite2 {name} place_train"]["auroc_pooled"]["n"] == 2
        assert f"paired {name} aupr_pooled knn - max_logit" in summary
        assert tables[f"{name}: scores"].shape == tables["the stand-in: scores"].shape
    assert {*photographs.EFFECTS, "deeper"} == {n[7:] for n in summary if n.startswith("effect ")}
    assert -1 <= summary["transfer treatments by mIoU"]["tau"]["mean"] <= 1
    assert len(tables["CamVid: effects on mIoU"]) == len(photographs.EFFECTS) + 1
    monkeypatch.setattr(camvid.PhotographStudy, "main", None)  # rows are there
    assert photographs.shown(".").keys() == tables.keys()


def test_an_order_agrees_with_itself_and_not_with_its_reverse():
    values = [0.1, 0.5, 0.3, 0.9]
    same = photographs.agreement(values, values, [values, values[::-1]])
    assert same["tau"] == 1 and same["low"] < 1 and same["of"] == 4
    assert photographs.agreement(values, [-v for v in values], [values])["tau"] == -1
