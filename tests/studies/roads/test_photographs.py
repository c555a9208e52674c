"""The road study on photographs small enough to train on, from folders to tables."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from lib.data import camvid as data
from lib.data.streethazards import ANOMALY, CLASSES, IGNORE
from lib.studies.roads import camvid, figures, photographs, tables


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


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
            top, left = (6, 4) if i < 2 else (h - 20, w - 24)  # elsewhere in the second half
            label[top : top + 16, left : left + 20], label[:4] = 1, IGNORE
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
    assert [f.town for f in frames] == ["first", "first", "second"]
    assert all({*f.label.unique().tolist()} == {0, ANOMALY, IGNORE} for f in frames)
    places = study.places("road_anomaly")
    left, right = places["second"][:, :16].mean(), places["second"][:, 16:].mean()
    assert left > 5 * right, "the second half is told where anomalies are in the first: on the left"
    assert places["first"][:, 16:].mean() > 5 * places["first"][:, :16].mean() and places["first"].shape == (24, 32)


def test_scores_are_judged_inside_the_region_and_the_right_way_round(folder, monkeypatch):
    """A score that knows the label, but for what is ignored, is perfect; its negative is the worst there is."""
    study = camvid.PhotographStudy(folder / "camvid", (24, 32), 2)

    class Teller(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one = torch.nn.Parameter(torch.zeros(1))

        def outputs(self, x):
            return torch.zeros(1, 13, *x.shape[2:]), ()

    truths = {f.label.shape: f.label for f in study.scenes("road_anomaly")}

    def knows(logits, *_):
        truth = truths[logits.shape[2:]]
        return torch.where(truth == IGNORE, 9.0, (truth == ANOMALY).float())[None]

    scores = {"knows": knows, "lies": lambda *a: -knows(*a), "place_other_town": camvid.SCORES["place_other_town"]}
    monkeypatch.setattr(camvid, "SCORES", scores)
    known = camvid.Statistics(*[None] * 7, torch.ones(24, 32), torch.ones(24, 32), {})
    found = study.scored("road_anomaly", Teller(), known)
    assert found["knows"]["auroc_pooled"] == 1 == found["knows"]["f1"] and found["lies"]["auroc_pooled"] == 0
    assert found["place_other_town"]["auroc_pooled"] < 0.5, "halves have their anomalies in opposite corners"


def test_treatments_are_those_of_the_notebook(notebook):
    theirs = notebook["TREATMENTS"]
    assert {t: theirs[t] for t in camvid.TREATMENTS} == camvid.TREATMENTS
    shared = {n: s for n, s in (tables.FAULTS | tables.HEADLINE).items() if n in photographs.EFFECTS}
    assert len(shared) == 8 and shared == {n: photographs.EFFECTS[n] for n in shared}


def test_from_folders_to_tables(folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    monkeypatch.setenv("SLOTS_OUT", str(out))
    monkeypatch.setattr(photographs, "ROOT", folder)  # nothing is committed there
    assert photographs.shown() == {} and "nothing is measured yet" in capsys.readouterr().out
    assert photographs.orders({}).empty
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
        assert tables[f"{name.replace('_', ' ')}: scores"].shape == tables["stand-in: scores"].shape
    order = photographs.orders(json.loads(results.read_text())["summary"])
    assert len(order) == 6 and order["tau"].between(-1, 1).all() and (order["of"] > 15).all()
    scores = photographs.scores()
    assert list(scores) == ["stand-in", "road anomaly", "road obstacle 21", "fishyscapes static"]
    axes = figures.orders(scores).axes
    assert len(axes) == 4 and len(axes[1].get_yticks()) == len(scores["stand-in"]) - 2
    best = max(
        (n for n in scores["stand-in"] if "place_" not in n),
        key=lambda n: scores["stand-in"][n]["auroc_pooled"]["mean"],
    )
    assert axes[0].get_yticklabels()[-1].get_text() == best
    minus = tables["road_anomaly: minus controls"]
    assert "aupr_pooled - max_logit" in minus and minus.loc["knn"].str.match(r"[+-]0").all()
    assert {*photographs.EFFECTS} == {n[7:] for n in summary if n.startswith("effect ")}
    assert -1 <= summary["transfer treatments by mIoU"]["tau"]["mean"] <= 1
    assert len(tables["CamVid: effects on mIoU"]) == len(photographs.EFFECTS)
    monkeypatch.setattr(camvid.PhotographStudy, "main", None)  # rows are there
    assert photographs.shown(".").keys() == tables.keys()


def test_an_order_agrees_with_itself_and_not_with_its_reverse():
    values = [0.1, 0.5, 0.3, 0.9]
    same = photographs.agreement(values, [values], np.array([values, values[::-1]]).T[None])
    assert same["tau"] == 1 == same["worst_seed"] and same["low"] < 1 and same["of"] == 4
    assert photographs.agreement(values, [[-v for v in values]], np.array([values]).T[None])["tau"] == -1


def test_seeds_that_disagree_widen_the_interval_of_an_order():
    """Images vary nothing here; a seed is the order itself, and another its reverse with smaller steps."""
    values = np.array([0.1, 0.5, 0.3, 0.9])
    seeds = np.array([values, -0.5 * values])
    found = photographs.agreement(values, seeds, np.repeat(seeds[..., None], 50, -1))
    assert (found["tau"], found["best_seed"], found["worst_seed"]) == (1, 1, -1)
    assert found["low"] == -1 and found["high"] == 1


def test_a_finding_holds_only_where_the_interval_says_so():
    names = {name: better for name, better in photographs.FINDINGS.values()}
    keys = {
        name.format(where): better for name, better in names.items() for where in ("", *(f"{s} " for s in camvid.SETS))
    }
    of = lambda low, high: {k: {"mean": v, "n": 1} for k, v in (("effect", 0), ("low", low), ("high", high))}  # noqa: E731

    def verdicts(low, high):
        table = photographs.findings(dict.fromkeys(keys, of(low, high)), dict.fromkeys(keys, of(low, high)))
        return [*dict.fromkeys(table["verdict"][[names[photographs.FINDINGS[f][0]] for f, _ in table.index]])], [
            *dict.fromkeys(table["verdict"][[not names[photographs.FINDINGS[f][0]] for f, _ in table.index]])
        ]

    assert verdicts(-0.1, 0.1) == (["not shown"], ["not shown"])
    assert verdicts(0.1, 0.2) == (["holds"], ["does not hold"])
    assert verdicts(-0.2, -0.1) == (["does not hold"], ["holds"])
    assert verdicts(-0.02, 0.005) == (["not shown"], ["holds"]), "no better by more than a point"
    unknown = {k: {"mean": None, "n": 0} for k in ("low", "high")} | {"effect": {"mean": 0.1, "n": 1}}
    assert {*photographs.findings({}, dict.fromkeys(keys, unknown))["verdict"]} == {"not measured", "no interval"}
    table = photographs.findings({}, dict.fromkeys(keys, of(0.1, 0.2)))
    assert [where for _, where in table.index] == ["stand-in", "CamVid"] * 3 + ["stand-in", *camvid.SETS]


def test_a_folder_that_lacks_a_set_is_named_and_the_rest_goes_on(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SLOTS_OUT", str(tmp_path / "out"))
    monkeypatch.setattr(photographs, "ROOT", folder)
    (folder / "camvid" / "train").rename(folder / "camvid" / "elsewhere")
    assert photographs.shown(".") == {}
    said = capsys.readouterr().out
    assert "camvid" in said and "nothing is measured yet" in said
