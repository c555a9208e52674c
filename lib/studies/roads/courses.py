"""Trainings of streethazards that are looked at on their way, and what is made of a network before it is judged.

Introduced in notebooks/streethazards.ipynb.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from lib.data.augment import Resize
from lib.metrics import segmentation
from lib.models.segmenters import Outputs
from lib.studies.roads.alarms import AnomalyStudy
from lib.studies.roads.experiment import RoadStudy, matrices, resampled
from lib.training import Recipe

FRAMES = 16  # at least, of which batch statistics are taken, where there are as many


@dataclass(frozen=True)
class Watched(RoadStudy):
    """A `RoadStudy` whose trainings may be looked at, and whose networks may get batch statistics of whole frames.

    Args:
        looks: about how often, evenly spaced; what trains looks at the end as well. 0 for never.
        look: what is asked of the network, which it may leave in eval mode.
        seen: its answers, by step; nets: the networks that were trained. Both are filled while training.
    """

    looks: int = 0
    look: Callable[[nn.Module], Any] = len
    seen: dict[str, Any] = field(default_factory=dict)
    nets: list[nn.Module] = field(default_factory=list)

    def loss(self, recipe: Recipe, transform: Callable) -> Callable:
        """As of `RoadStudy`; looks before a step, without autocast. On a CPU that changes no number of the training."""
        inner, every = super().loss(recipe, transform), max(recipe.steps // max(self.looks, 1), 1)

        def loss(net: nn.Module, step: int) -> tuple[Tensor, dict[str, float]]:
            plain = getattr(net, "module", net)
            self.nets[:] = [plain]
            if self.looks and step and step % every == 0:
                with torch.no_grad():
                    self.seen[str(step)] = self.look(plain)
                net.train()
            return inner(net, step)

        return loss

    def precise(self, model: nn.Module) -> nn.Module:
        """A copy whose batch normalisation has the statistics of whole training frames, as they are judged.

        Precise BN (Wu and Johnson 2021, arXiv:2105.07576, section 3): the running ones are of windows, magnified,
        recoloured and with void at their rim. No label is used.
        """
        data, clean, copy = self.split("train"), Resize(self.size), deepcopy(model)
        picks = range(0, len(data), max(len(data) // FRAMES, 1))
        batches = np.array_split(picks, max(len(picks) // self.batch, 1))  # of one frame a pooled layer has no variance
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            where = next(copy.parameters()).device
            update_bn((data.batch(batch.tolist(), clean)[0] for batch in batches), copy, where)
        return copy.eval()

    def trial(self, augmentation: dict[str, Any], *, looks: int = 0, **settings: Any) -> dict[str, Any]:
        """As of `RoadStudy`; `clean_precise`: as `clean`, of the network made `precise`; `course`: `clean` by step.

        The rate has not fallen on the way as it has at the end of a training of that length.
        """
        validation, clean = self.split("validation"), Resize(self.size)
        study = replace(self, looks=looks, seen={}, nets=[])
        study = replace(study, look=lambda net: segmentation.miou(matrices(net, validation, clean).sum(0)))
        found = RoadStudy.trial(study, augmentation, **settings)
        last = matrices(self.precise(study.nets[0]), validation, clean)
        found["draws"]["clean_precise"] = resampled(last)
        course = study.seen | ({str(settings["steps"]): found["clean"]} if looks else {})
        return found | {"clean_precise": segmentation.miou(last.sum(0)), "course": course}

    def course(self, judge: AnomalyStudy, augmentation: dict[str, Any], looks: int, **settings: Any) -> dict[str, Any]:
        """Train a main model and judge it on its way, made `precise`: `brief`, by step.

        Of a model that need not be trained there is its end alone.
        """
        look = lambda net: brief(judge, self.precise(net))[0]  # noqa: E731
        study = replace(self, looks=looks, look=look, seen={}, nets=[])
        run = RoadStudy.main(study, augmentation, **settings)
        return study.seen | {str(settings["steps"]): look(run.model)}

    def compared(self, judge: AnomalyStudy, model: nn.Module) -> dict[str, Any]:
        """`brief` of a network as it was trained, "running", and made "precise"; of mIoU also `resampled` values."""
        found = {}
        for name, net in (("running", model), ("precise", self.precise(model))):
            means, matrices = brief(judge, net)
            found[name] = means | {"draws": {split: resampled(m) for split, m in matrices.items()}}
        return found


def brief(judge: AnomalyStudy, net: nn.Module) -> tuple[dict[str, float], dict[str, NDArray[np.int64]]]:
    """mIoU of each split, and AUROC and AUPR of each score, pooled; and the confusion of each image `[N, C, C]`."""
    judged = judge.judge(net)
    matrices = {split: np.array(found)[:, :-1, :-1] for split, found in judged.matrices.items()}
    means = {split: segmentation.miou(found.sum(0)) for split, found in matrices.items()}
    for name, evaluation in judged.found.items():
        values = evaluation.report("all").values
        means |= {f"{key} {name}": values[f"{key}_pooled"] for key in ("auroc", "aupr")}
    return means, matrices


class Joined(nn.Module):
    """Logits of one segmenter and features of another, for scores that take both."""

    def __init__(self, named: nn.Module, featured: nn.Module):
        super().__init__()
        self.named, self.featured = named, featured

    def outputs(self, images: Tensor) -> Outputs:
        """Of the same images."""
        return Outputs(self.named.outputs(images).logits, self.featured.outputs(images).features)
