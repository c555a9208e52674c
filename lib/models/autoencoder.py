"""The object-centric autoencoder on pixels: CNN with position, Slot Attention, spatial broadcast decoder."""

from typing import NamedTuple

from torch import Tensor, nn

from lib.models.decoders import PositionEmbedding, SpatialBroadcastDecoder
from lib.models.slot_attention import SlotAttention


class Output(NamedTuple):
    """What the autoencoder returns for images `[B, 3, H, W]`."""

    reconstruction: Tensor  # [B, 3, H, W]
    masks: Tensor  # [B, K, H, W], the decoder's, sums to one over K
    pictures: Tensor  # [B, K, 3, H, W]
    slots: Tensor  # [B, K, D]
    attention: Tensor  # [B, K, h, w], Slot Attention's, sums to one over K


def linear_temperature(step: int, steps: int, start: float = 1.0, end: float = 0.01) -> float:
    """The temperature at `step` of `steps`: linear from `start` at the first to `end` at the last.

    Introduced in notebooks/ex_slot1.ipynb; `start == end` gives a constant.
    """
    return start + (end - start) * min(step / max(steps - 1, 1), 1.0)


class Autoencoder(nn.Module):
    """Slot Attention on pixels (Locatello et al. 2020), small enough for two CPU cores.

    Introduced in notebooks/ex_slot1.ipynb.

    Args:
        size: side of the image in pixels.
        num_slots: K.
        slot_dim: D, also the channels that Slot Attention reads.
        channels: width of the convolutions of encoder and decoder.
        stride: of the first convolution; inputs to Slot Attention lie on a grid of `size / stride` a side.
        iterations: of Slot Attention.
        init: of the slots, see `SlotAttention`.
        attention_temperature: of Slot Attention's softmax over slots.
        glorot: initialise all layers as the published code does, instead of torch's default.
    """

    def __init__(
        self,
        size: int = 64,
        num_slots: int = 5,
        slot_dim: int = 32,
        channels: int = 32,
        stride: int = 1,
        iterations: int = 3,
        init: str = "gaussian",
        attention_temperature: float = 1.0,
        glorot: bool = True,
    ):
        super().__init__()
        convolutions: list[nn.Module] = [nn.Conv2d(3, channels, 5, stride=stride, padding=2), nn.ReLU()]
        for _ in range(3):
            convolutions += [nn.Conv2d(channels, channels, 5, padding=2), nn.ReLU()]
        self.encoder = nn.Sequential(*convolutions)
        self.position = PositionEmbedding(channels)
        self.project = nn.Sequential(
            nn.LayerNorm(channels), nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, slot_dim)
        )
        self.slot_attention = SlotAttention(slot_dim, slot_dim, num_slots, iterations, 2 * slot_dim, init)
        grid = size
        while grid > 8 and grid % 2 == 0:
            grid //= 2
        self.attention_temperature = attention_temperature
        self.decoder = SpatialBroadcastDecoder(slot_dim, size, grid, channels)
        # Glorot, as in the published TensorFlow code. Torch's own initialisation keeps the slots on the plateau where
        # all paint the mean picture; notebooks/ex_slot1.ipynb measures it.
        for layer in self.modules():
            if glorot and isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor, mask_temperature: float = 1.0, slots: Tensor | None = None) -> Output:
        """Images `[B, 3, H, W]` in 0..1 to an `Output`; `slots [B, K, D]` replaces the initial slots."""
        features = self.position(self.encoder(images))  # [B, C, h, w]
        tokens = self.project(features.flatten(2).transpose(1, 2))  # [B, h*w, D]
        slots, attention, _ = self.slot_attention(tokens, slots, self.attention_temperature)
        painting = self.decoder(slots, mask_temperature)
        return Output(*painting, slots, attention.unflatten(-1, features.shape[-2:]))
