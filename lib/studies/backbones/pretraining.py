"""The same small transformer, frames and steps, three objectives: DINO, iBOT and CLIP; see objectives.py.

Introduced in notebooks/backbone_comparison.ipynb. Initial weights, the frames of every step, the jitter, the optimiser
and its schedule are shared. What an objective needs of an image is its own: CLIP one view of 96 px, DINO and iBOT two
of 64 px and two of 48 px, so steps and frames are equal, computation is not. The committed weights are those of
`train`'s defaults: 400 steps of 32 frames on one core of a CPU, far from what the published models had.
"""

import math
from functools import partial

import kornia.augmentation as K
import numpy as np
import torch
from open_clip import ClipLoss
from torch import Tensor, nn

from lib.data.movi import COLORS, MATERIALS, SHAPES, SIZES, MoviDataset, Scene
from lib.models import small_vit
from lib.models.backbones import IMAGENET
from lib.studies.backbones.objectives import Contrast, Distillation, class_loss, patch_loss
from lib.training import Fitted, Recipe, Run, State, fit, load_or_train

OBJECTIVES = ("dino", "ibot", "clip")
WORDS = ("", "a", ",", *SIZES, *COLORS, *MATERIALS, *SHAPES)
#: Longest caption in words: ten objects, the most a scene of MOVi-A has.
LENGTH = 10 * 6
#: Settings, recorded with the weights. Sides in pixels, scales as shares of the picture's area. Of all objectives:
SHARED = {
    "jitter": 0.2,  # of brightness, contrast and saturation; hue stays: it is an attribute
    "weight_decay": 0.04,
}
#: Of CLIP: most of the picture, so that what the caption names is there.
CONTRAST = {"large": 96, "scale": (0.6, 1.0)}
#: Of DINO and iBOT; steps as shares of all.
DISTILLATION = {
    "large": 64,
    "large_scale": (0.4, 1.0),
    "small": 48,
    "small_scale": (0.1, 0.4),
    "small_views": 2,
    "masked_share": (0.1, 0.5),
    "prototypes": 256,
    "teacher_momentum": 0.99,  # rises to 1
    "teacher_temperature": 0.04,
    "frozen_prototypes": 0.05,
}


def train(objective: str, *, steps: int = 400, batch: int = 32, seed: int = 0, device: str = "auto") -> Run:
    """Load or train one transformer on all frames of the train split; its `model` is the teacher's or the image tower.

    Kept as `vit8_<objective>-HASH` (see `training.load_or_train`), or committed without its hash, because
    `models.backbones` loads it by that name. The history has `loss` every 20 steps; of DINO and iBOT `teacher_entropy`
    (log K where it says nothing), `marginal_entropy` (0 where all images are the same to it) and `class_sd`, of CLIP
    `accuracy`: captions found among the batch's.

    Args:
        objective: "dino", "ibot" or "clip".
        batch: frames a step, each of another scene, so that no two share a caption.

    Raises:
        ValueError: an unknown objective, or fewer scenes than a batch has frames.
    """
    if objective not in OBJECTIVES:
        raise ValueError(f"objective is {objective!r}; choose one of {', '.join(OBJECTIVES)}")
    recipe = Recipe(steps, batch, lr=1e-3, warmup=max(steps // 10, 1), seed=seed)
    dataset = MoviDataset(split="train")
    method = SHARED | (CONTRAST if objective == "clip" else DISTILLATION)
    config = {"objective": objective, "width": 96, "depth": 6, "method": method}
    config |= {"optimiser": "AdamW", "scenes": len(dataset)}
    name = f"vit8_{objective}" + (f"-{seed}" if seed else "")

    def fit_it(vit: nn.Module, state: State) -> Fitted:
        scenes = dataset[:]
        if objective == "clip":
            model = Contrast(vit, len(WORDS), LENGTH)
        else:
            model = Distillation(vit, objective == "ibot", DISTILLATION["prototypes"])
        loss = partial(_contrast if objective == "clip" else _distil, scenes, recipe)
        optimiser = partial(torch.optim.AdamW, weight_decay=SHARED["weight_decay"])
        found = fit(model, loss, recipe, state=state, device=device, label=name, optimiser=optimiser)
        if objective != "clip":
            vit.load_state_dict(model.teacher["vit"].state_dict())
        return found

    return load_or_train(name, small_vit.build, fit_it, recipe, config, dataset.fingerprint, device)


def draw(scenes: int, frames: int, recipe: Recipe, step: int) -> tuple[list[int], list[int]]:
    """Which frames make the batch of `step`: numbers of scenes, all different, and of a frame in each."""
    if recipe.batch > scenes:
        raise ValueError(f"a batch of {recipe.batch} frames wants as many scenes, there are {scenes}; lower batch")
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    chosen = torch.randperm(scenes, generator=generator)[: recipe.batch]
    return chosen.tolist(), torch.randint(frames, (recipe.batch,), generator=generator).tolist()


def caption(scene: Scene, frame: int) -> str:
    """Every object that the frame shows, in random order: "a small red metal cube, a large blue rubber sphere"."""
    shown = np.flatnonzero(scene.visibility[:, frame])
    things = [
        f"a {SIZES[scene.size[i]]} {COLORS[scene.color[i]]} {MATERIALS[scene.material[i]]} {SHAPES[scene.shape[i]]}"
        for i in shown[torch.randperm(len(shown)).numpy()]
    ]
    return ", ".join(things)


def word_ids(captions: list[str]) -> Tensor:
    """Numbers in `WORDS`, `[B, LENGTH]`, filled up with 0. An empty caption is one comma: attention needs a word."""
    ids = torch.zeros(len(captions), LENGTH, dtype=torch.long)
    for row, text in zip(ids, captions, strict=True):
        words = text.replace(",", " ,").split() or [","]
        row[: len(words)] = torch.tensor([WORDS.index(word) for word in words])
    return ids


def views(images: Tensor, side: int, scale: tuple[float, float]) -> Tensor:
    """Of each image `[B, 3, H, W]` in 0..1 a crop of its own, `side` px, flipped or not, jittered and normalised."""
    cut = K.RandomResizedCrop((side, side), scale=scale, cropping_mode="resample")
    cropped = K.RandomHorizontalFlip()(cut(images))

    def factor() -> Tensor:
        return 1 + SHARED["jitter"] * (2 * torch.rand(len(images), 1, 1, 1, device=images.device) - 1)

    lit = cropped * factor()
    grey = lit.mean(1, keepdim=True)
    lit = grey + (lit - grey) * factor()
    level = lit.mean((1, 2, 3), keepdim=True)
    lit = (level + (lit - level) * factor()).clamp(0, 1)
    mean, std = (torch.tensor(v, device=images.device).view(3, 1, 1) for v in IMAGENET)
    return (lit - mean) / std


def blocks(images: int, side: int) -> Tensor:
    """Masks bool `[images, side, side]`: in half of the images one rectangle of 10 to 50 % of the area is hidden."""
    low, high = DISTILLATION["masked_share"]
    area = (low + (high - low) * torch.rand(images)) * side**2
    aspect = torch.exp((2 * torch.rand(images) - 1) * math.log(2))
    tall = (area * aspect).sqrt().round().clamp(1, side)
    wide = (area / tall).round().clamp(1, side)
    top, left = (torch.rand(images) * (side - tall + 1)).floor(), (torch.rand(images) * (side - wide + 1)).floor()
    place = torch.arange(side)
    rows = (place >= top[:, None]) & (place < (top + tall)[:, None])
    columns = (place >= left[:, None]) & (place < (left + wide)[:, None])
    hidden = torch.randperm(images) < (images + 1) // 2
    return rows[:, :, None] & columns[:, None, :] & hidden[:, None, None]


def _images(scenes: list[Scene], chosen: list[int], frames: list[int], device: torch.device) -> Tensor:
    """Frames as `[B, 3, H, W]` in 0..1."""
    pictures = np.stack([scenes[s].video[t] for s, t in zip(chosen, frames, strict=True)])
    return torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).float() / 255


def _distil(scenes: list[Scene], recipe: Recipe, net: nn.Module, step: int) -> tuple[Tensor, dict[str, Tensor]]:
    """DINO's loss, and iBOT's where the model has a token for masked patches."""
    device, progress = net.class_centre.device, step / recipe.steps
    if step:  # the optimiser has moved the student
        net.follow(1 - (1 - DISTILLATION["teacher_momentum"]) * (1 + math.cos(math.pi * progress)) / 2)
    images = _images(scenes, *draw(len(scenes), len(scenes[0].video), recipe, step), device)
    large = views(images.repeat(2, 1, 1, 1), DISTILLATION["large"], DISTILLATION["large_scale"])
    small = images.repeat(DISTILLATION["small_views"], 1, 1, 1)
    small = views(small, DISTILLATION["small"], DISTILLATION["small_scale"])
    masked = None
    if net.mask_token is not None:
        masked = blocks(len(large), DISTILLATION["large"] // small_vit.PATCH)  # on the CPU, where they are counted
    logits = net(large, small, masked, progress < DISTILLATION["frozen_prototypes"])
    temperature = DISTILLATION["teacher_temperature"]
    targets = net.targets(logits.teacher, temperature, "class_centre")
    value = class_loss(logits.student, targets)
    seen = {
        "teacher_entropy": _entropy(targets).mean(),
        "marginal_entropy": _entropy(targets.mean((0, 1))),
        "class_sd": logits.classes.std(0).mean(),
    }
    if masked is not None:
        patch_targets = net.targets(logits.teacher_patches, temperature, "patch_centre")
        patches = patch_loss(logits.student_patches, patch_targets, masked)
        seen |= {"class_loss": value, "patch_loss": patches}
        seen["patch_marginal_entropy"] = _entropy(patch_targets.mean(0))
        value = value + patches
    return value, seen


def _contrast(scenes: list[Scene], recipe: Recipe, net: nn.Module, step: int) -> tuple[Tensor, dict[str, Tensor]]:
    """CLIP's loss."""
    device = net.scale.device
    chosen, frames = draw(len(scenes), len(scenes[0].video), recipe, step)
    images = views(_images(scenes, chosen, frames, device), CONTRAST["large"], CONTRAST["scale"])
    captions = word_ids([caption(scenes[s], t) for s, t in zip(chosen, frames, strict=True)]).to(device)
    image, text, scale = net(images, captions)
    right = (image @ text.T).argmax(1) == torch.arange(len(image), device=device)
    return ClipLoss()(image, text, scale), {"accuracy": right.float().mean(), "scale": scale}


def _entropy(probabilities: Tensor) -> Tensor:
    return -(probabilities * (probabilities + 1e-12).log()).sum(-1)
