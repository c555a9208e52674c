"""Streets small enough to know the answer, and the tables that stand in the notebook."""

import ast
import json
from contextlib import suppress

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import pad

from lib import ROOT
from lib.data.streethazards import ANOMALY, PALETTE
from lib.models.segmenters import Outputs
from lib.studies.roads.experiment import RoadStudy


def written() -> dict:
    """Plain values that the notebook's cells give names to: TREATMENTS, FAULTS and so on; nothing is run."""
    cells = json.loads((ROOT / "notebooks" / "streethazards.ipynb").read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    found = {}
    for node in ast.parse(code).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            with suppress(ValueError):
                found[node.targets[0].id] = ast.literal_eval(node.value)
    return found


def pytest_generate_tests(metafunc):
    if "each_treatment" in metafunc.fixturenames:
        treatments = written()["TREATMENTS"]
        metafunc.parametrize("each_treatment", treatments.values(), ids=treatments)


@pytest.fixture(scope="session")
def notebook():
    return written()


@pytest.fixture
def root(tmp_path):
    """Streets of vertical stripes in the palette's colours, 48 x 80 px; test frames hold an anomaly of 8 x 12."""
    rng = np.random.default_rng(0)
    layout = {
        "train/images/training": ("t1", 4),
        "train/images/validation": ("t2", 3),
        "test/images/test": ("t5", 2),
        "test/images/test ": ("t6", 2),
    }
    for folder, (town, count) in layout.items():
        for i in range(count):
            label = np.repeat(rng.permutation(13)[:8], 10)[None].repeat(48, 0)
            if town in ("t5", "t6"):
                label[16:24, 20 + 4 * i : 32 + 4 * i] = ANOMALY
            image = tmp_path / folder.strip() / town / f"{i}.png"
            for path, pixels in (
                (image, PALETTE[label]),
                (tmp_path / folder.strip().replace("images", "annotations") / town / image.name, label + 1),
            ):
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).save(path)
    (tmp_path / "frames.json").write_text(json.dumps({"test/images/test/t5/0.png": {"kind": "cow"}}))
    return tmp_path


@pytest.fixture
def study(root):
    return RoadStudy(root=root, size=(24, 40), batch=2, device="cpu")


class Painter(nn.Module):
    """Knows the palette: the logit of a class is minus the distance of the colour. Anomalies are far from all."""

    def __init__(self):
        super().__init__()
        self.colours = nn.Parameter(torch.tensor(PALETTE[:13]).float() / 255)

    def forward(self, x):
        return self.outputs(x).logits

    def outputs(self, x):
        logits = -10 * (x[:, None] - self.colours[None, :, :, None, None]).pow(2).sum(2)
        whole = pad(x, (0, -x.shape[3] % 16, 0, -x.shape[2] % 16), mode="replicate")
        return Outputs(logits, (whole[..., 8::16, 8::16], x[..., 4::8, 4::8]))


@pytest.fixture
def painter():
    return Painter()
