"""What a network's pretraining knows of anomalies before it is trained on streets: notebooks/streethazards.ipynb.

Training on a few hundred frames of a few towns changes the features that distances are taken of. Distances of untouched
ImageNet features find defects in industrial inspection (Roth et al. 2022, PatchCore, arXiv:2106.08265).
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lib import anomaly
from lib.anomaly import FEATURES
from lib.models.segmenters import Segmenter
from lib.studies.roads import alarms
from lib.studies.roads.camvid import MOVERS, SETS, PhotographStudy
from lib.studies.roads.experiment import KNOWN
from lib.training import place

WEIGHTS = ("ImageNet", "random")  # of an encoder that no street has touched
Scores = dict[str, dict[str, Any]]


def untrained(network: str, weights: str = "ImageNet", device: str = "auto") -> nn.Module:
    """A segmenter before any training on streets; its decoder is random, so its logits say nothing.

    Args:
        weights: of the encoder, one of `WEIGHTS`; random ones are the control that knows nothing.

    Raises:
        ValueError: other weights; WeightsError: as of `Segmenter`.
    """
    if weights not in WEIGHTS:
        raise ValueError(f"weights are {weights!r}; choose one of {', '.join(WEIGHTS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Segmenter(network, KNOWN, weights == "ImageNet").to(place(device)).eval()


def named(scores: Scores, weights: str) -> Scores:
    """Scores of `FEATURES` of an untrained network, to stand beside those of a trained one: "knn, ImageNet"."""
    return {f"{name}, {weights}": scores[name] for name in FEATURES}


class Pretrained(PhotographStudy):
    """The road study on photographs with a network that is not trained on any."""

    def judged(self, network: str, weights: str) -> dict[str, Any]:
        """As of a trained network: `sets` alone, and of each set the scores of `FEATURES`."""
        model = untrained(network, weights, self.device)

        def seen(split: str, every: int) -> Iterator[tuple[Tensor, Sequence[Tensor], Tensor]]:
            picks = range(0, len(self.split(split)), every)
            return ((f.logits, f.features, f.label[None]) for f in alarms.frames(self, split, model, picks))

        known = anomaly.levels(seen("validation", 1), anomaly.fit(seen("train", 2), MOVERS))
        found = {name: self.scored(name, model, known) for name in SETS}
        return {"sets": {name: {"scores": {n: scores[n] for n in FEATURES}} for name, scores in found.items()}}
