"""The road study on photographs small enough to train on, from folders to tables."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from lib.data import camvid as data
from lib.data.streethazards import ANOMALY, CLASSES, IGNORE
from lib.studies.roads import camvid, photographs, tables


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
    shared = {n: s for n, s in (notebook["FAULTS"] | tables.HEADLINE).items() if n in photographs.EFFECTS}
    assert len(shared) == 8 and shared == {n: photographs.EFFECTS[n] for n in shared}


def test_from_folders_to_tables(folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    monkeypatch.setenv("SLOTS_OUT", str(out))
    monkeypatch.setattr(photographs, "ROOT", folder)  # nothing is committed there
    assert photographs.shown() == {} and "nothing is measured yet" in capsys.readouterr().out
    results = photographs.Path(__file__).parents[3] / "figures" / "results" / "streethazards.json"
    (folder / "figures" / "results").mkdir(parents=True)
    (folder / "figures" / "results" / "streethazards.json").write_text(results.read_text())
    small = {"seeds": (0,), "steps": 1, "short": 1, "network": "fpn_lite0"}
    small |= {"size": (48, 64), "crop": (32, 32), "window": (16, 16)}
    monkeypatch.setattr(photographs, "PLAN", small)
    monkeypatch.setattr(camvid, "DRAWS", 5)
    tables = photographs.shown(".")
    assert "measured on" in capsys.readouterr().out
    document = json.loads((out / "figures" / "results" / "road_photographs.json").read_text())
    assert "do not ship" in document["data"]["name"] and document["headline"]["config"] == "main"
    summary = document["summary"]
    assert 0 <= summary["main"]["test_miou"]["mean"] <= 1 and summary["main"]["iou road"]["n"] == 1
    for name in camvid.SETS:
        assert summary[f"{name} place_train"]["auroc_pooled"]["n"] == 1
        assert f"paired {name} aupr_pooled knn - max_logit" in summary
        assert tables[f"{name}: scores"].shape == tables["the stand-in: scores"].shape
    assert {*photographs.EFFECTS} == {n[7:] for n in summary if n.startswith("effect ")}
    assert -1 <= summary["transfer treatments by mIoU"]["tau"]["mean"] <= 1
    assert len(tables["CamVid: effects on mIoU"]) == len(photographs.EFFECTS)
    monkeypatch.setattr(camvid.PhotographStudy, "main", None)  # rows are there
    assert photographs.shown(".").keys() == tables.keys()


def test_an_order_agrees_with_itself_and_not_with_its_reverse():
    values = [0.1, 0.5, 0.3, 0.9]
    same = photographs.agreement(values, values, [values, values[::-1]])
    assert same["tau"] == 1 and same["low"] < 1 and same["of"] == 4
    assert photographs.agreement(values, [-v for v in values], [values])["tau"] == -1


def test_a_finding_holds_only_where_the_interval_leaves_zero_out():
    names = [name for some, _ in photographs.FINDINGS.values() for name in some]
    of = lambda low, high: {k: {"mean": v, "n": 1} for k, v in (("effect", 0), ("low", low), ("high", high))}  # noqa: E731
    verdicts = lambda *ends: list(photographs.findings(dict.fromkeys(names, of(*ends)))["verdict"])  # noqa: E731
    assert verdicts(-0.1, 0.1) == ["not shown"] * 6
    assert verdicts(0.1, 0.2) == ["holds", "does not hold", "does not hold", *["holds"] * 3]
    assert verdicts(-0.2, -0.1) == ["does not hold", "holds", "holds", *["does not hold"] * 3]
    unknown = {k: {"mean": None, "n": 0} for k in ("low", "high")} | {"effect": {"mean": 0.1, "n": 1}}
    assert {*photographs.findings(dict.fromkeys(names, unknown))["verdict"]} == {"not shown"}
