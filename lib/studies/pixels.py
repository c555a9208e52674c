"""The pixel series, ex_slot1 to ex_slot5: one configuration, one training step, one way to measure a model.

Shared by the five notebooks, so that a checkpoint trained in one is the checkpoint loaded in another.
"""

import hashlib
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torchvision.transforms import v2

from lib import parallel
from lib.data import photos
from lib.data.shapes import Shapes
from lib.files import DataError
from lib.metrics import objects
from lib.models.pixel_autoencoder import Autoencoder
from lib.training import Fitted, Recipe, Run, State, fit, indices, load_or_train

OF_OBJECTS = ("fg_ari", "ari", "mbo")  # measures that need the ground truth
OF_MASKS = ("mask_entropy", "mask_similarity", "active_slots")
#: Outlines drawn by hand for this workbook, (x, y) as shares of the central square, back to front. Coarse on purpose:
#: good to about two pixels at 128, which is what a statement about objecthood needs.
OUTLINES = {
    "coffee": {
        "saucer": [(0.19, 0.18), (0.10, 0.24), (0.04, 0.32), (0.0, 0.42), (0.0, 0.60), (0.05, 0.72), (0.13, 0.82),
                   (0.24, 0.895), (0.38, 0.945), (0.52, 0.955), (0.66, 0.93), (0.79, 0.87), (0.88, 0.77), (0.93, 0.64),
                   (0.94, 0.49), (0.90, 0.36), (0.84, 0.26), (0.76, 0.20), (0.45, 0.13)],
        "cup": [(0.18, 0.24), (0.21, 0.14), (0.29, 0.075), (0.42, 0.045), (0.56, 0.055), (0.68, 0.11), (0.755, 0.20),
                (0.765, 0.29), (0.74, 0.42), (0.69, 0.54), (0.63, 0.59), (0.57, 0.60), (0.55, 0.665), (0.50, 0.69),
                (0.395, 0.675), (0.36, 0.74), (0.31, 0.77), (0.25, 0.745), (0.235, 0.69), (0.27, 0.585), (0.235, 0.49),
                (0.20, 0.36)],
        "spoon": [(0.755, 0.17), (0.80, 0.165), (0.81, 0.20), (0.765, 0.34), (0.715, 0.55), (0.755, 0.66), (0.75, 0.75),
                  (0.70, 0.81), (0.63, 0.81), (0.575, 0.75), (0.565, 0.67), (0.60, 0.61), (0.68, 0.57), (0.72, 0.42),
                  (0.76, 0.28)],
    },
}  # fmt: skip


@dataclass(frozen=True)
class Config:
    """What distinguishes one model of the pixel series from another.

    Args:
        temperature: of the masks, at the first and at the last step; linear in between.
        attention_temperature: of Slot Attention's softmax over slots; below 1, slots part sooner.
        glorot: initialise as the published code does; False is torch's default.
        jitter: strength of colour jitter, 0 none, 1 brightness, contrast and saturation 0.8 and hue 0.5.
        slots: K.
        stride: of the encoder, see `Autoencoder`.
        layer: the mask logit of a layer behind all slots at the last step, None for no layer. It appears while the
            model trains, see `presence`, and so does the colour of the background, which is black before: slots part
            on black, where they part soonest.
        area: weight of the sum over slots of the square root of their mask's share of the image, without the layer's:
            nothing is cheaper than a slot too many. It grows as the layer appears.
        excess: weight of the mean squared distance from 0..1 of the colours that slots paint, likewise. Without it a
            mask can be halved, and cost less area, by painting twice as bright.
    """

    temperature: tuple[float, float] = (1.0, 1.0)
    attention_temperature: float = 0.25
    glorot: bool = True
    jitter: float = 0.0
    slots: int = 5
    stride: int = 2
    layer: float | None = None
    area: float = 0.0
    excess: float = 0.0


LAYERED = Config(slots=4, layer=3.0, area=0.002, excess=1.0)  # ex_slot1 and 2; of what was tried on watched images


def jitter(strength: float) -> v2.Transform:
    """Colour jitter of the original study at strength 1 (ex_slot4); draws from torch's generator."""
    s = 0.8 * strength
    return v2.ColorJitter(s, s, s, 0.5 * strength)


def linear_temperature(step: int, steps: int, start: float = 1.0, end: float = 0.01) -> float:
    """The temperature at `step` of `steps`: linear from `start` at the first to `end` at the last.

    Introduced in notebooks/ex_slot1.ipynb; `start == end` gives a constant.
    """
    return start + (end - start) * min(step / max(steps - 1, 1), 1.0)


APPEARS = (0.3, 0.5)  # of all steps: between them the layer, the background's colour and the prices appear
HIDDEN = -10.0  # mask logit of the layer before


def presence(step: int, steps: int) -> float:
    """How much of the layer, of the background's colour and of the prices is there at a step: 0 to 1."""
    start, end = (share * steps for share in APPEARS)
    return min(max((step - start) / (end - start), 0.0), 1.0)


def network(config: Config, size: int) -> Autoencoder:
    """The autoencoder of a configuration before its first step, for images of `size` px."""
    same = {key: getattr(config, key) for key in ("stride", "attention_temperature", "glorot")}
    model = Autoencoder(size, config.slots, layer=config.layer is not None, **same)
    return model.to(memory_format=torch.channels_last)  # the layout that CPU convolutions are fastest in


def training_step(
    model: nn.Module, step: int, images: Tensor, config: Config, recipe: Recipe, ids: Tensor | None = None
) -> tuple[Tensor, dict]:
    """The loss of one step, the squared error and the prices; and how certain masks are, 1/K to 1.

    Args:
        images: the training set, `[n, 3, H, W]`.
        ids: `[n, H, W]`, 0 where the background is: what is painted black before the layer appears. No loss sees them.
    """
    drawn, device = indices(recipe, step, len(images)), next(model.parameters()).device
    batch, there = images[drawn].to(device), presence(step, recipe.steps)
    if config.layer is not None:
        getattr(model, "module", model).presence.fill_(HIDDEN + there * (config.layer - HIDDEN))
        if ids is not None:
            batch = torch.where(ids[drawn][:, None].to(device) > 0, batch, there * batch)
    if config.jitter:
        change = jitter(config.jitter)
        batch = torch.stack([change(image) for image in batch])  # each image its own draw
    batch = parallel.shared(batch)
    out = model(batch, linear_temperature(step, recipe.steps, *config.temperature))
    loss = (out.reconstruction - batch).pow(2).mean()
    if config.area:
        shares = out.masks[:, : config.slots].float().mean((2, 3)) + 1e-3  # whose root has a bounded slope
        loss = loss + config.area * there * shares.sqrt().sum(-1).mean()
    if config.excess:
        loss = loss + config.excess * there * (out.images - out.images.clamp(0, 1)).pow(2).mean()
    return loss, {"mask_certainty": out.masks.detach().amax(1).mean()}


def train(
    name: str,
    images: Tensor | Shapes,
    config: Config,
    recipe: Recipe,
    *,
    data: str,
    held_out: tuple[Tensor, Tensor | None],
    film: int = 2,
    watch_every: int = 150,
    device: str = "auto",
) -> Run:
    """Load or train one autoencoder (see `load_or_train`).

    Args:
        name: of the checkpoint.
        images: training set, `[n, 3, H, W]` in 0..1, or a set of shapes, drawn only if there is training to do.
        data: fingerprint of the training images and of the held-out ones.
        held_out: images `[m, 3, H, W]` and their ids `[m, H, W]`, or None where nobody knows them. Watched only.
        film: of so many held-out images the winning slot is kept at every watch, `extra["film"] [times, film, H, W]`.
    """
    size = images.size if isinstance(images, Shapes) else images.shape[-1]
    about = {"rules": asdict(config), "size": size, "n": len(images)}
    about |= {"held_out": len(held_out[0]), "film": film, "watch_every": watch_every}

    def watch(model: nn.Module, step: int) -> dict[str, float | Tensor]:
        seen = measure(model, *held_out, linear_temperature(step - 1, recipe.steps, *config.temperature))
        winners = seen.pop("masks")[:film].argmax(1).byte()
        return seen | ({"film": winners} if film else {})

    def fit_it(model: nn.Module, state: State) -> Fitted:
        known, ids = images.tensors if isinstance(images, Shapes) else (images, None)
        loss = partial(training_step, images=known, config=config, recipe=recipe, ids=ids)
        return fit(model, loss, recipe, state=state, device=device, watch=watch, watch_every=watch_every, label=name)

    return load_or_train(name, lambda: network(config, size), fit_it, recipe, about, data, device)


@torch.no_grad()
def measure(model: nn.Module, images: Tensor, ids: Tensor | None, temperature: float, seed: int = 0) -> dict[str, Any]:
    """Means over images of `OF_MASKS` and, where ids are known, `OF_OBJECTS`; the error `mse`; and the `masks`.

    `fg_ari_attention` is FG-ARI of Slot Attention's own masks in place of the decoder's; `fg_ari_slots` that of the
    decoder's without a layer's, as if there were none to give a pixel to. The slots' starting noise is drawn from
    `seed`, so the same call gives the same numbers.
    """
    torch.manual_seed(seed)
    device = next(model.parameters()).device
    outs = [model(some.to(device), temperature) for some in images.split(32)]
    masks = torch.cat([out.masks for out in outs]).float().cpu()
    reconstruction = torch.cat([out.reconstruction for out in outs]).float().cpu()
    values = objects.evaluate(torch.zeros_like(masks[:, 0], dtype=torch.long) if ids is None else ids, masks)
    row = {key: float(np.nanmean(values[key])) for key in (OF_MASKS if ids is None else OF_OBJECTS + OF_MASKS)}
    if ids is not None:
        attention = torch.cat([out.attention for out in outs])
        of_slots = masks[:, : attention.shape[1]]
        for key, some in (("fg_ari_attention", attention), ("fg_ari_slots", of_slots)):
            row[key] = float(np.nanmean(objects.evaluate(ids, some)["fg_ari"]))
    return row | {"mse": float((reconstruction - images).pow(2).mean()), "masks": masks}


def outlines(name: str, size: int = 64) -> Tensor:
    """Ids uint8 `[size, size]` of the objects outlined by hand in a photograph: 0 background, then `OUTLINES` in order.

    Introduced in notebooks/ex_slot3.ipynb.

    Raises:
        DataError: nobody has outlined this photograph.
    """
    if name not in OUTLINES:
        raise DataError(f"no outlines for {str(name)!r}; there are some for {', '.join(OUTLINES)}")
    canvas = Image.new("L", (size, size))
    for i, outline in enumerate(OUTLINES[name].values(), start=1):
        ImageDraw.Draw(canvas).polygon([(x * size - 0.5, y * size - 0.5) for x, y in outline], fill=i)
    return torch.from_numpy(np.array(canvas))


def crops(names: list[str], n: int, size: int, seed: int) -> Tensor:
    """`n` random squares of photographs, `[n, 3, size, size]`: 40 to 100 % of the side, half of them mirrored.

    Crop `i` depends on the seed and `i` alone. Introduced in notebooks/ex_slot2.ipynb.
    """
    whole = [photos.load(name, 4 * size) for name in names]
    made = torch.empty(n, 3, size, size)  # filled in place: at 224 px thousands of crops are gigabytes
    for i in range(n):
        rng = np.random.default_rng([seed, i])
        side = int(rng.uniform(0.4, 1.0) * 4 * size)
        top, left = rng.integers(0, 4 * size - side + 1, 2)
        cut = whole[int(rng.integers(len(whole)))][:, top : top + side, left : left + side]
        cut = torch.nn.functional.interpolate(cut[None], (size, size), mode="bilinear", antialias=True)[0]
        made[i] = cut.flip(-1) if rng.random() < 0.5 else cut
    return made.clamp_(0, 1)


def fingerprint(names: list[str], size: int) -> str:
    """Names, size and a short hash of the pixels; recorded with every run."""
    digest = hashlib.sha256(b"".join((photos.load(n, size) * 255).byte().numpy().tobytes() for n in names))
    return f"photos {','.join(Path(n).name for n in names)} size={size} sha256={digest.hexdigest()[:12]}"


def match(masks: Tensor, reference: Tensor) -> Tensor:
    """Reorder masks `[K, ...]` so that slot k is the one most like slot k of the reference: equal colours, equal slots.

    For looking only: no measure is taken on masks reordered here.
    """
    alike = reference.flatten(1).double().cpu() @ masks.flatten(1).double().cpu().T
    return masks[torch.as_tensor(linear_sum_assignment(alike.numpy(), maximize=True)[1])]
