"""Each explorer, without a browser: its controls change the picture, and bad input is a line of text."""

import asyncio
import io
import warnings
from datetime import UTC, datetime
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image

import lib
from lib import anomaly
from lib.apply import scenes, streets, zoo
from lib.data.folders import FolderDataset
from lib.data.streethazards import ANOMALY, IGNORE
from lib.studies import explore
from lib.studies.objects import lab
from lib.studies.roads import alarms, watch
from lib.studies.roads.experiment import RoadStudy

pytest.importorskip("ipyevents")


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings(action="ignore"):  # committed models may be of other code for a while
        yield


def pixels(panel):
    return np.array(Image.open(io.BytesIO(panel.picture.value)))


def within(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from within(child)


def changes(panel, **values):
    """Set controls one by one; each must change the picture and say nothing wrong."""
    # ipywidgets' code in the browser takes the length of the description of whatever has a tooltip.
    wrong = [w for w in within(panel.widget) if getattr(w, "tooltip", None) and not hasattr(w, "description")]
    assert not wrong, "the browser will not draw these"
    for name, value in values.items():
        before = pixels(panel)
        panel.controls[name].value = value
        assert "alert" not in panel.line.value, f"{name}: {panel.line.value}"
        after = pixels(panel)
        assert before.shape != after.shape or (before != after).any(), name


def file(content: bytes) -> tuple[dict]:
    return ({"name": "x", "type": "", "size": 1, "content": memoryview(content), "last_modified": datetime.now(UTC)},)


def test_objects(tiny):
    own = str(tiny("mine", num_slots=4))
    panel = explore.objects(models=[own]).open()
    network = panel.widget.children[1].children[0]
    network.value = "pixels"  # the fast one
    assert panel.controls["model"].value == own and "FG-ARI" in panel.line.value
    changes(panel, index=3, frame=5, stage="raw", temperature=0.2, kind="decoder", view="a panel a slot", row=9)
    share = lib.masks_of(explore.MoviDataset(split="test")[3].video[5], own, threshold=0, refine=False, kind="decoder",
                         temperature=panel.controls["temperature"].value)[:, 9, 64]  # fmt: skip
    assert f"slot {share.argmax()} has {share.max():.2f} of the pixel in row 9, column 64" in panel.line.value
    panel._event._dom_handlers({"dataX": 10.0, "dataY": 22.0 + 20.0})
    assert (panel.controls["row"].value, panel.controls["column"].value) == (13, 6)


def test_a_folder_of_ones_own(tiny, tmp_path):
    (tmp_path / "train").mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (60, 40), "red" if name == "a" else "blue").save(tmp_path / "train" / f"{name}.png")
    panel = explore.objects(FolderDataset(tmp_path), models=[str(tiny("mine", num_slots=4))]).open()
    panel.widget.children[1].children[0].value = "pixels"
    assert "(background)" in panel.line.value and panel.controls["index"].max == 1
    changes(panel, index=1)


def test_a_video(tiny):
    panel = explore.video(model=tiny("video", video=True, num_slots=3)).open()
    panel.start()
    assert "frame 0: " in panel.line.value and "identity switches" in panel.line.value
    changes(panel, frame=7, stage="raw", index=2)
    truth = explore.MoviDataset(split="test")[2].masks
    run = lib.load(tiny("video", video=True, num_slots=3))
    seen = scenes.see(run, torch.from_numpy(explore.MoviDataset(split="test")[2].video).permute(0, 3, 1, 2) / 255)
    winners = scenes.on_images(scenes.joined(seen, 0.0), torch.zeros(24, 3, 128, 128)).argmax(1).numpy()
    lost = explore.switches(truth, winners)
    for frame in (next(t for t in range(24) if lost[t]), 0):
        panel.controls["frame"].value = frame
        due = f"object {', '.join(map(str, lost[frame]))} changes its slot" if lost[frame] else "no object changes"
        assert f"frame {frame}: {due}" in panel.line.value


def test_who_changes_its_slot():
    truth, winners = np.zeros((5, 4, 4), np.uint8), np.zeros((5, 4, 4), np.uint8)
    truth[:, :2, :2], truth[:, 3, 3] = 1, 2
    truth[2] = 0  # both are hidden
    winners[:, :2, :2] = [[[1]], [[1]], [[0]], [[1]], [[2]]]
    winners[:, 3, 3] = [3, 4, 0, 4, 4]
    assert explore.switches(truth, winners) == [[], [2], [], [], [1]]
    line = explore.held_by(truth, winners)
    assert line.shape == (2, 5, 3) and (line[:, 2] == 1).all(), "hidden is white"
    assert (line[0, 0] == line[0, 3]).all() and (line[0, 3] != line[0, 4]).any()


def test_your_own(tiny, tmp_path):
    panel = explore.own("coffee", tiny("mine", num_slots=5)).open()
    upload, path = panel.widget.children[1].children[:2]
    panel.start()
    assert panel.controls["count"].value == 5 and "1 frames of 600 x 400 px" in panel.line.value
    changes(panel, count=3)
    kept = panel.picture.value
    for widget, value, message in (
        (upload, file(b"no image"), "the file is not readable"),
        (upload, file(b"\0\0\0\x18ftypmp42" + bytes(99)), "ffmpeg -i VIDEO frames/%04d.png"),
        (path, "nowhere.png", "nowhere.png does not exist"),
    ):
        widget.value = value
        assert message in panel.line.value and "alert" in panel.line.value and panel.picture.value == kept
    frames = [Image.fromarray(np.random.default_rng(t).integers(0, 255, (40, 60, 3), np.uint8)) for t in range(3)]
    frames[0].save(buffer := io.BytesIO(), "GIF", save_all=True, append_images=frames[1:])
    upload.value = file(buffer.getvalue())
    assert "3 frames of 60 x 40 px" in panel.line.value and panel.controls["frame"].max == 2
    changes(panel, frame=2)
    save, links = panel.widget.children[-2:]
    save.click()
    picture, arrays = (explore.base64.b64decode(part.split('"')[0]) for part in links.value.split("base64,")[1:])
    masks = np.load(io.BytesIO(arrays))["masks"]
    assert masks.shape == (3, 3, 40, 60)
    assert (np.array(Image.open(io.BytesIO(picture))) == masks[2].astype(np.float32).argmax(0)).mean() > 0.99


def test_results():
    panel = explore.results().open()
    panel.start()
    whole = panel.line.value
    changes(panel, words="ours_raw", order="value, rising")
    assert panel.line.value.startswith("3 rows, default; ") and "revision" in panel.line.value
    panel.controls["words"].value = "no such row"
    assert panel.line.value == "No row of ex_dino4 has 'fg_ari' and all of these words: no such row"
    panel.controls["words"].value = ""
    changes(panel, order="name")
    panel.controls["order"].value = "value, falling"
    assert panel.line.value == whole
    changes(panel, name="sweep_ex_dino4_trained")
    assert "config ours, steps" in panel.line.value and panel.controls["metric"].value == "raw/fg_ari"
    for name in panel.controls["name"].options:
        panel.controls["name"].value = name
        assert "rows" in panel.line.value and "alert" not in panel.line.value, f"{name}: {panel.line.value}"


def test_results_that_are_not_there(tmp_path):
    with pytest.raises(zoo.Wrong, match=r"figures/results holds no results; give a folder that lib.run wrote"):
        explore.results(tmp_path).open()


@pytest.fixture
def laboratory(monkeypatch):
    """The panel, and its buttons: train, stop, reset."""
    monkeypatch.setattr(lab, "LEARNED", 2)
    monkeypatch.setattr(lab, "WATCHED", 2)
    panel = explore.collapse().open()
    panel.start()
    return panel, panel.widget.children[-3:]


def step(panel) -> int:
    return int(panel.line.value.split()[1])


def test_the_collapse_lab_trains_stops_and_begins_anew(laboratory):
    panel, (train, stop, reset) = laboratory
    assert panel.line.value.startswith("step 0 of 200: error")
    first = panel.picture.value
    panel.controls["steps"].value = 50

    async def user():
        train.click()
        train.click()  # twice is once
        while step(panel) < 20:
            await asyncio.sleep(0)
        stop.click()
        stopped = panel.line.value
        for _ in range(50):
            await asyncio.sleep(0)
        assert panel.line.value == stopped and 20 <= step(panel) < 50 and panel.picture.value != first
        train.click()
        while step(panel) < 50:
            await asyncio.sleep(0)
        assert "alert" not in panel.line.value
        reset.click()
        assert panel.line.value.startswith("step 0 of 50") and len(asyncio.all_tasks()) <= 2

    asyncio.run(user())


def test_a_laboratory_learns(laboratory):
    made = lab.Lab(explore.MOVI, lambda items, what: items)
    made.reset("ours", "gaussian", True, 1.0, 0.0)
    for _ in range(40):
        made.learn()
    made.measure()
    assert [row["step"] for row in made.history] == [0, 40] and made.history[1]["error"] < made.history[0]["error"]
    assert made.curves()["error, of the first"][0] == (0, 1.0)


def test_what_the_lab_cannot_build_is_said(laboratory, monkeypatch):
    panel, _ = laboratory
    picture = panel.picture.value
    panel.controls["frames"].value = False
    assert "alert" not in panel.line.value and panel.picture.value != picture
    for name, value in (("init", "xavier"), ("base", "original"), ("frames", True), ("diversity", 0.1)):
        panel.controls[name].value = value
        assert panel.line.value.startswith("step 0 of 200"), f"{name}: {panel.line.value}"
    with monkeypatch.context() as broken:
        broken.setattr(lab, "Dinosaur", lambda *_, **__: 1 / 0)
        panel.controls["init"].value = "learned"
    assert "division by zero" in panel.line.value


class Few:
    """Two frames of a split."""

    def __init__(self, whole):
        self.data, self.batch = whole.data, whole.batch

    def __len__(self):
        return 2


@pytest.fixture
def road(monkeypatch):
    whole = RoadStudy.split
    monkeypatch.setattr(RoadStudy, "split", lambda self, name: Few(whole(self, name)))
    run = zoo.load("streethazards", "cpu")
    study = RoadStudy(size=tuple(run.header["config"]["size"]), device="cpu")

    @cache
    def known(model):
        train, validation = (
            [(f.logits, f.features, f.label[None]) for f in alarms.frames(study, split, model)]
            for split in ("train", "validation")
        )
        return anomaly.levels(validation, anomaly.fit(train, bank=99), streets.FUSED)

    monkeypatch.setattr(streets, "statistics", lambda run, root: known(run.model))
    return explore.alarms(scores=["heat, no spatial", "energy", "mahalanobis + knn, ImageNet"]).open()


def test_alarms(road, tmp_path):
    panel = road
    panel.start()
    assert "of the pixels of validation frames" in panel.line.value and "anomalies found" in panel.line.value
    changes(panel, at=16, score="energy", region=watch.REGIONS[2], index=1)
    panel.controls["budget"].value = 1.0
    assert "alert" not in panel.line.value
    panel.controls["budget"].value = 0.0
    changes(panel, score="mahalanobis + knn, ImageNet")
    total, back = panel.widget.children[-2:]
    total.click()
    assert "All 2 frames: precision" in panel.line.value
    _, path = panel.widget.children[1].children[:2]
    kept = panel.picture.value
    path.value = "nowhere.png"
    assert "nowhere.png does not exist" in panel.line.value and panel.picture.value == kept
    path.value = "temple"
    assert "Here it flags" in panel.line.value and panel.picture.value != kept
    back.click()
    assert panel.picture.value == kept


def test_a_region_is_what_is_left_of_a_label():
    label = torch.tensor([[0, 5, 2], [2, 2, ANOMALY]])
    logits = torch.zeros(1, 13, 2, 3)
    logits[0, int(alarms.DRIVABLE[0]), 0, 1] = 1  # road is predicted above the middle of the lower row
    logits[0, 0, 0, 0] = logits[0, 0, 0, 2] = logits[0, 0, 1] = 1
    logits[0, 0, 1, 1] = 1
    frame = alarms.Frame(0, "t5", torch.zeros(3, 2, 3), logits, (), label)
    drivable = set(alarms.DRIVABLE.tolist())
    labelled = watch.within(frame, watch.REGIONS[1])
    assert [v for row in labelled.tolist() for v in row] == [
        v if v in drivable | {ANOMALY} else IGNORE for row in label.tolist() for v in row
    ]
    predicted = watch.within(frame, watch.REGIONS[2])
    assert (predicted[:, [0, 2]] == IGNORE).all() and predicted[:, 1].tolist() == [5, 2]
    assert torch.equal(watch.within(frame, watch.REGIONS[0]), label)
