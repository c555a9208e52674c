"""What several tests share."""

from pathlib import Path
from types import SimpleNamespace

import hypothesis
import numpy as np
import pytest
import torch

from lib import checkpoints
from lib.features import Features, describe
from lib.models import backbones
from lib.models.dinosaur import Dinosaur
from lib.models.video import VideoModel

hypothesis.settings.register_profile("unhurried", deadline=None)  # other tests, or other work, share the cores
hypothesis.settings.load_profile("unhurried")


@pytest.fixture
def split():
    """Makes a stand-in for `features.Split`, small enough to know the answer: `split(frames=6, step=2)`.

    Two scenes: one square moves `step` pixels a frame to the right; its tokens differ from the floor's.
    """

    def make(frames: int, step: int) -> SimpleNamespace:
        truth = np.zeros((2, frames, 16, 16), np.uint8)
        for t in range(frames):
            truth[:, t, 4:8, step * t : step * t + 4] = 1
        shares = truth.reshape(2, frames, 8, 2, 8, 2).mean((3, 5)).reshape(2, frames, 64, 1)
        tokens = (np.repeat(shares, 4, -1) * [1, 2, 3, 4]).astype(np.float16)
        flat = torch.from_numpy(tokens.astype(np.float32)).flatten(0, 2)
        features = Features(tokens, (8, 8), flat.mean(0), flat.std(0), {"grid": 8})
        ids, video = torch.from_numpy(truth).flatten(0, 1), np.repeat(truth[..., None] * 255, 3, -1)
        pictures = ids.float()[:, None].expand(-1, 3, -1, -1)
        return SimpleNamespace(
            features=features, truth=truth, fingerprint="abc", about={"grid": 8}, dim=4, shape=truth.shape,
            count=2 * frames, scene=lambda s: SimpleNamespace(video=video[s], masks=truth[s]),
            pictures=lambda index=slice(None): pictures[index], ids=lambda index=slice(None): ids[index].long(),
        )  # fmt: skip

    return make


@pytest.fixture
def tiny(tmp_path):
    """Makes a checkpoint of an untrained model of colours, as `load_or_train` writes one: `tiny("x", num_slots=4)`.

    With `video`, of a model that follows slots.
    """

    def make(name: str, video: bool = False, coarse: float = 0.6, **model) -> Path:
        torch.manual_seed(0)
        network = backbones.load("pixels", strides=(4,))
        tokens = {"backbone": "pixels", "strides": [4], "size": 64, "grid": 16}
        tokens["weights"] = describe(network, 64, 16)["weights"]
        rules = {"model": model, "coarse": coarse} | ({"video": {"predictor": "none"}} if video else {})
        image = Dinosaur(3, **model)
        weights = (VideoModel(image, predictor="none") if video else image).state_dict()
        config = {"rules": rules, "tokens": tokens, "recipe": {"steps": 1}}
        path = tmp_path / f"{name}.safetensors"
        checkpoints.save(path, {f"model.{k}": v for k, v in weights.items()}, {"config": config, "seed": 0, "data": ""})
        return path

    return make
