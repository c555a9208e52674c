"""Trainings of streethazards with looks at validation on the way. Introduced in notebooks/streethazards.ipynb."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from lib.data.augment import Resize
from lib.metrics import segmentation
from lib.studies.roads.experiment import RoadStudy, matrices
from lib.training import Recipe


@dataclass(frozen=True)
class Watched(RoadStudy):
    """A `RoadStudy` whose trials may be looked at on their way.

    Args:
        looks: how often, evenly spaced, the end included; 0 for never. Set by `trial`.
        course: what was seen, by step.
    """

    looks: int = 0
    course: dict[str, float] = field(default_factory=dict)

    def loss(self, recipe: Recipe, transform: Callable) -> Callable:
        """As of `RoadStudy`; looks before a step, in 32 bits, which changes no number of the training."""
        inner, every = super().loss(recipe, transform), max(recipe.steps // max(self.looks, 1), 1)
        validation, clean = self.split("validation"), Resize(self.size)

        def loss(net: nn.Module, step: int) -> tuple[Tensor, dict[str, float]]:
            if self.looks and step and step % every == 0:
                plain = getattr(net, "module", net)  # without autocast, as it is judged at the end
                self.course[str(step)] = segmentation.miou(matrices(plain, validation, clean).sum(0))
                net.train()
            return inner(net, step)

        return loss

    def trial(self, augmentation: dict[str, Any], *, looks: int = 0, **settings: Any) -> dict[str, Any]:
        """As of `RoadStudy`, and `course`: `clean` by step, at so many `looks`.

        The rate has not fallen on the way as it has at the end of a training of that length.
        """
        study = replace(self, looks=looks, course={})
        found = RoadStudy.trial(study, augmentation, **settings)
        return found | ({"course": study.course | {str(settings["steps"]): found["clean"]}} if looks else {})
