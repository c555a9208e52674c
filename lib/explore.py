"""Sliders for JupyterLab. Every notebook shows a static figure of the same thing; these only add the handle."""

from collections.abc import Sequence

import ipywidgets as widgets
import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

from lib import plots


def slot_masks(models: dict[str, nn.Module], images: Tensor) -> widgets.Widget:
    """A widget: choose model, image `[N, 3, H, W]`, mask temperature and the noise that slots start from.

    Introduced in notebooks/ex_slot1.ipynb.
    """

    def show(model: str, index: int, temperature: float, noise: int) -> None:
        torch.manual_seed(noise)
        with torch.no_grad():
            on = next(models[model].parameters()).device  # training leaves a model where it ran
            out = models[model](images[index : index + 1].to(on), temperature)
        row = plots.slot_panels(images[index], out.reconstruction[0], out.masks[0], out.images[0])
        plots.grid([row], ["image", "reconstruction", "masks"])
        plt.show()

    return widgets.interactive(
        show,
        model=list(models),
        index=widgets.IntSlider(0, 0, len(images) - 1, description="image", continuous_update=False),
        temperature=widgets.FloatLogSlider(1.0, min=-2, max=0.5, description="temperature", continuous_update=False),
        noise=widgets.IntSlider(0, 0, 20, continuous_update=False),
    )


def flagged(images: Tensor, maps: dict[str, Tensor], anomalies: Tensor, thresholds: dict[str, Sequence[float]]):
    """A widget: choose a score, a frame `[N, 3, H, W]` and one of the score's thresholds; what is flagged turns red.

    Introduced in notebooks/streethazards.ipynb.

    Args:
        maps: scores `[N, H, W]` by name.
        anomalies: bool `[N, H, W]`, ground truth, shown beside it.
        thresholds: of each of these scores, falling and equally many.
    """
    steps = {len(at) for at in thresholds.values()}
    if len(steps) != 1:
        raise ValueError(f"thresholds are {sorted(steps)} in number; give every score as many")

    def show(score: str, index: int, step: int) -> None:
        hot, red = maps[score][index] >= thresholds[score][step], torch.tensor([0.95, 0.1, 0.0])[:, None, None]
        marked = torch.where(hot, 0.3 * images[index] + 0.7 * red, images[index])
        hits = int((hot & anomalies[index]).sum())
        title = f"{hits} of {int(anomalies[index].sum())} anomaly pixels, {int(hot.sum()) - hits} others"
        title += f"\n{score} from {thresholds[score][step]:.3g}"
        shown = [plots.rgb(images[index]), plots.rgb(marked), anomalies[index].numpy()]
        plots.grid([shown], ["image", title, "ground truth"]).set_size_inches(11, 2.6)
        plt.show()

    last = steps.pop() - 1
    return widgets.interactive(
        show,
        score=list(thresholds),
        index=widgets.IntSlider(0, 0, len(images) - 1, description="frame", continuous_update=False),
        step=widgets.IntSlider((last + 1) // 2, 0, last, description="threshold", continuous_update=False),
    )
