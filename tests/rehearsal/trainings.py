"""The workbook's trainings, small, to be looked at step by step on any device."""

from types import SimpleNamespace

import numpy as np
import torch

STEPS = 4  # that are looked at


class Enough(Exception):
    """As many steps as were asked for."""


def trainings(device: str = "auto", precision: str = "32-true") -> dict:
    """Name to a function that trains until `Enough` is raised, or for eight steps."""
    from lib.data import shapes
    from lib.data.movi import MoviDataset
    from lib.features import Features
    from lib.studies import pixels
    from lib.studies.backbones import pretraining
    from lib.studies.objects import experiment, tracking
    from lib.studies.roads.experiment import RoadStudy
    from lib.training import Recipe

    tokens = np.random.default_rng(0).normal(size=(3, 6, 64, 12)).astype(np.float16)
    known = Features(tokens, (8, 8), torch.zeros(12), torch.ones(12), {"grid": 8})
    data = SimpleNamespace(features=known, dim=12, count=18, about={"grid": 8}, fingerprint="noise")
    recipe, small = Recipe(8, batch=3, warmup=2, precision=precision), {"num_slots": 3, "slot_dim": 16}
    squares, road = shapes.Shapes(8, size=16, seed=0), RoadStudy(batch=2, precision=precision, device=device)
    augmented = {"crops": "true", "scale": (0.5, 2.0), "flip": "joint", "colour": True, "blur": True}

    def image(**change):
        config = experiment.ImageConfig(model=small, sample=8, **change)
        return lambda: experiment.train("image", data, config, recipe, device=device)

    class Few(MoviDataset):
        def __init__(self, split):
            super().__init__(split=split)
            del self._places[6:]  # all are held in memory

    pretraining.MoviDataset = Few
    clips = tracking.ClipConfig(model=small, sample=8, contrast=0.1)
    held_out = {"held_out": (squares.tensors[0], None), "data": "shapes", "device": device}
    return {
        "slots on tokens": image(),
        "slots on tokens, the original's losses": image(diversity=0.01, area=0.0),
        "tracking": lambda: tracking.train("clips", data, clips, recipe, device=device),
        "pixels": lambda: pixels.train("pixels", squares, pixels.Config(slots=3), recipe, **held_out),
        **{o: lambda o=o: pretraining.train(o, steps=7, batch=4, device=device) for o in pretraining.OBJECTIVES},
        "roads": lambda: road.trial(augmented, 0, 8, 1e-3, [32, 32], pretrained=False),
    }
