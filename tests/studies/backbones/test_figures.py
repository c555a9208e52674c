"""The figures say what they show; every number in them comes from a table."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from lib import ROOT
from lib.data.movi import MoviDataset
from lib.studies.backbones import figures, materials, reflections

FRAMES = slice(None, None, 12)


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def test_figures_of_objects():
    scenes = MoviDataset(ROOT / "data" / "movi_a", "validation", fields=(*materials.FIELDS, "video"), frames=FRAMES)[:6]
    table = materials.objects_of(scenes, FRAMES)
    truth = torch.from_numpy(np.concatenate([s.masks for s in scenes])).long()
    pictures = torch.from_numpy(np.concatenate([s.video for s in scenes])).permute(0, 3, 1, 2) / 255
    masks = torch.rand(len(truth), 5, 16, 16).repeat_interleave(8, -1).repeat_interleave(8, -2).softmax(1)
    found = table.merge(materials.judge(masks, truth), on=["image", "id"])
    found = found.merge(reflections.reflections(masks, truth, pictures), on=["image", "id"])
    assert len(found) == len(table)
    worst = reflections.clearest(found)
    assert worst.scene.is_unique and (worst.hidden <= 0.5).all() and not worst.border.any()
    figure = figures.cases(worst, pictures, truth, masks)
    assert (
        len(figure.axes) == 3 * len(worst)
        and f"theft {worst.theft.iloc[0]:.0%}" in figure.axes[2 * len(worst)].get_xlabel()
    )
    figure.savefig("/dev/null", format="png")


def test_figures_of_vectors():
    rng = np.random.default_rng(0)
    objects = pd.DataFrame({"material": ["metal", "rubber"] * 10, "shape": "cube", "color": ["red", "blue"] * 10})
    figure = figures.slot_map(rng.normal(size=(20, 2)), objects)
    assert [a.get_title() for a in figure.axes] == ["material", "shape", "color"]
    assert sum(len(c.get_offsets()) for c in figure.axes[2].collections) == 20
    tokens, mean = torch.randn(16, 3) * torch.tensor([1.0, 5.0, 0.1]) + 2, torch.full((3,), 2.0)
    figure = figures.normalisations(tokens, mean, tokens.std(0), torch.rand(3, 8, 8))
    assert len(figure.axes) == 12 and figure.axes[6].get_ylabel() == "quietest channel\nchannel 2"
    assert figure.axes[5].get_title().startswith("image\nsd 0.9") and figure.axes[11].get_title().startswith(
        "image\nsd 0.9"
    )


def test_figures_of_slots_quality_and_twins():
    masks = torch.rand(9, 8, 8).softmax(0)
    figure = figures.slots_apart(torch.rand(3, 8, 8), masks)
    assert figure.axes[2].get_title() == f"slot 1, {masks[0].mean():.0%}" and len(figure.axes) == 14
    picture = np.random.default_rng(0).random((8, 8, 3))
    first, second, _ = (a.get_title().split()[-1] for a in figures.quality(picture).axes)
    assert first == second == f"{(picture * 255).astype(np.uint8).std((0, 1)).mean():.1f}"
    table = pd.DataFrame(
        {"effect": [0.0, 0.1], "low": [-0.1, 0.0], "high": [0.1, 0.2]}, ["a, twins", "a, mixed scenes"]
    )
    assert all(a.get_xlim() == pytest.approx((-0.11, 0.21)) for a in figures.twins(table, 0.05).axes)


def test_figures_of_courses_and_single_runs():
    steps = [{"step": s, "fg_ari": s / 100, "loss": 1 / s} for s in (10, 20)]
    figure = figures.courses({"dinov2": [steps, steps]})
    assert [a.lines[0].get_ydata().tolist() for a in figure.axes] == [[0.1, 0.2], [0.1, 0.05]]
    runs = [{"config": c, "metrics": {"fg_ari": v}} for c, v in (("clip", 0.4), ("dino", 0.5), ("other", 0.9))]
    (axis,) = figures.single_runs(runs, ["dino", "clip"]).axes
    assert [t.get_text() for t in axis.get_yticklabels()] == ["dino", "clip"]
    assert [c.get_offsets()[:, 0].tolist() for c in axis.collections] == [[0.5], [0.4]]
