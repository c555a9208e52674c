"""Faults of the original study as models: a target that is trained along, and attention across the batch.

Introduced in notebooks/backbone_comparison.ipynb.
"""

import torch
from torch import Tensor, nn

from lib.models.backbones import Backbone, Tokens
from lib.models.dinosaur import Dinosaur, normalise


class Projected(Dinosaur):
    """Slots read, and predict, a projection of the tokens to half their channels; the target is detached.

    Args:
        feature_dim: channels C of a token, C / 2 after the projection.
        trainable: learn the projection, through the inputs: then the target drifts.
    """

    def __init__(self, feature_dim: int, mean: Tensor | None = None, std: Tensor | None = None, *, trainable: bool):
        super().__init__(feature_dim // 2, input_norm="none", target_norm="none")
        self.mean = torch.zeros(feature_dim) if mean is None else mean.float().clone()
        self.std = torch.ones(feature_dim) if std is None else std.float().clone()
        self.reduce = nn.Linear(feature_dim, feature_dim // 2).requires_grad_(trainable)

    def reduced(self, tokens: Tensor) -> Tensor:
        """Tokens `[B, N, C]`, standardised, through the projection: `[B, N, C / 2]`."""
        return self.reduce(normalise(tokens, "dataset", self.mean, self.std))

    def target(self, tokens: Tensor) -> Tensor:
        return self.reduced(tokens).detach()

    def encode(self, tokens: Tensor) -> Tensor:
        return super().encode(self.reduced(tokens))


class Across(Backbone):
    """A transformer whose attention runs over the images of a batch, a place at a time, and not over places.

    This is what the original's CLIP did: it handed `[N, B, C]` to blocks that expect `[B, N, C]`.
    """

    def _transformer(self, images: Tensor) -> Tokens:
        net, patch = self.network, self.strides[0]
        x = net.norm_pre(net._pos_embed(net.patch_embed(images))).transpose(0, 1)
        tokens = net.blocks(x).transpose(0, 1)[:, net.num_prefix_tokens :]
        return Tokens(tokens, (images.shape[-2] // patch, images.shape[-1] // patch))
