"""The object-centric autoencoder on pixels: CNN with position, Slot Attention, spatial broadcast decoder."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle

from lib.models.slot_attention import SlotAttention
from lib.models.token_decoders import ConvDecoder, Decoded


class Painting(NamedTuple):
    """What a decoder returns; `H` and `W` are the size of the image."""

    reconstruction: Tensor  # [B, 3, H, W]
    masks: Tensor  # [B, K, H, W], sums to one over K
    images: Tensor  # [B, K, 3, H, W], what each slot would paint everywhere


class PositionEmbedding(nn.Module):
    """Add a learned linear map of the four distances to the borders (Locatello et al. 2020, appendix E.2)."""

    def __init__(self, channels: int):
        super().__init__()
        self.project = nn.Linear(4, channels)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` to the same shape; a pixel's coordinates run from 0 to 1, corner to corner."""
        rows = torch.linspace(0, 1, x.shape[-2], device=x.device)
        columns = torch.linspace(0, 1, x.shape[-1], device=x.device)
        y, x_ = torch.meshgrid(rows, columns, indexing="ij")
        grid = torch.stack([y, x_, 1 - y, 1 - x_], dim=-1)  # [H, W, 4]
        return x + self.project(grid).permute(2, 0, 1)


class SpatialBroadcastDecoder(nn.Module):
    """Copy each slot to every cell of a small grid, add position, convolve up to the image (Watters et al. 2019).

    Two layers of each cell's own come first, where they cost least. The last doubling spreads channels over pixels
    (Shi et al. 2016, arXiv:1609.05158): no convolution has the size of the image, for about a third of the time.

    Introduced in notebooks/ex_slot1.ipynb.

    Args:
        slot_dim: channels D of a slot.
        size: side of the image in pixels; `size / grid` must be a power of two.
        grid: side of the grid that slots are copied to.
        channels: width of the convolutions.
    """

    def __init__(self, slot_dim: int, size: int, grid: int = 8, channels: int = 32):
        super().__init__()
        doublings = (size // grid).bit_length() - 1
        if doublings < 1 or grid * 2**doublings != size:
            raise ValueError(f"an image of {size} px cannot be reached from a grid of {grid} by doubling")
        self.grid = grid
        self.position = PositionEmbedding(slot_dim)
        width = 2 * channels
        layers: list[nn.Module] = [nn.Conv2d(slot_dim, width, 1), nn.ReLU(), nn.Conv2d(width, width, 1), nn.ReLU()]
        for _ in range(doublings - 1):
            layers += [nn.ConvTranspose2d(width, channels, 5, stride=2, padding=2, output_padding=1), nn.ReLU()]
            width = channels
        layers += [nn.Conv2d(width, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, 16, 3, padding=1)]
        layers.append(nn.PixelShuffle(2))
        self.layers = nn.Sequential(*layers)

    def forward(self, slots: Tensor, temperature: float = 1.0, behind: tuple[Tensor, Tensor] | None = None) -> Painting:
        """`[B, K, D]` to a `Painting`; the temperature divides the mask logits before the softmax over slots.

        Args:
            behind: a colour `[B, 3]` and a logit `[]`: one layer more, the last, that is the same at every pixel.
        """
        batch, num_slots, _ = slots.shape
        x = slots.flatten(0, 1)[:, :, None, None].expand(-1, -1, self.grid, self.grid)
        x = self.layers(self.position(x)).unflatten(0, (batch, num_slots))  # [B, K, 4, H, W]
        images, logits = x[:, :, :3], x[:, :, 3]
        if behind is not None:
            colour, logit = behind
            images = torch.cat([images, colour[:, None, :, None, None].expand_as(images[:, :1])], 1)
            logits = torch.cat([logits, logit.to(logits.dtype).expand_as(logits[:, :1])], 1)
        masks = (logits.float() / temperature).softmax(dim=1)  # float32: 1/0.01 amplifies bfloat16's rounding
        return Painting((masks[:, :, None] * images).sum(1), masks, images)


class Output(NamedTuple):
    """What the autoencoder returns for images `[B, 3, H, W]`."""

    reconstruction: Tensor  # [B, 3, H, W]
    masks: Tensor  # [B, K, H, W], the decoder's, sums to one over K; K + 1 with a layer, which is the last
    images: Tensor  # [B, K, 3, H, W], likewise
    slots: Tensor  # [B, K, D]
    attention: Tensor  # [B, K, h, w], Slot Attention's, sums to one over K


WIDTH = 32  # D, and channels of all convolutions of the autoencoder


class Autoencoder(nn.Module):
    """Slot Attention on pixels (Locatello et al. 2020), small enough for two CPU cores.

    Introduced in notebooks/ex_slot1.ipynb.

    Args:
        size: side of the image in pixels.
        num_slots: K.
        stride: of the first convolution; inputs to Slot Attention lie on a grid of `size / stride` a side.
        attention_temperature: of Slot Attention's softmax over slots.
        glorot: initialise all layers as the published code does, instead of torch's default.
        layer: paint one layer behind all slots, of one colour that is read from the mean of the inputs. It takes no
            part in Slot Attention, and its mask is the last. `presence`, a buffer, is its mask logit.
    """

    def __init__(
        self,
        size: int = 64,
        num_slots: int = 5,
        stride: int = 1,
        attention_temperature: float = 1.0,
        glorot: bool = True,
        layer: bool = False,
    ):
        super().__init__()
        convolutions: list[nn.Module] = [nn.Conv2d(3, WIDTH, 5, stride=stride, padding=2), nn.ReLU()]
        for _ in range(3):
            convolutions += [nn.Conv2d(WIDTH, WIDTH, 5, padding=2), nn.ReLU()]
        self.encoder = nn.Sequential(*convolutions)
        self.position = PositionEmbedding(WIDTH)
        self.project = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))
        self.slot_attention = SlotAttention(WIDTH, WIDTH, num_slots, hidden_dim=2 * WIDTH)
        grid = size
        while grid > 8 and grid % 2 == 0:
            grid //= 2
        self.attention_temperature = attention_temperature
        self.decoder = SpatialBroadcastDecoder(WIDTH, size, grid, WIDTH)
        self.colour = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.ReLU(), nn.Linear(2 * WIDTH, 3)) if layer else None
        self.register_buffer("presence", torch.zeros(()), persistent=layer)
        # Glorot, as in the published TensorFlow code. Torch's own initialisation keeps the slots on the plateau where
        # all paint the mean image; notebooks/ex_slot1.ipynb measures it.
        for part in self.modules():
            if glorot and isinstance(part, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                nn.init.xavier_uniform_(part.weight)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    def forward(self, images: Tensor, mask_temperature: float = 1.0, slots: Tensor | None = None) -> Output:
        """Images `[B, 3, H, W]` in 0..1 to an `Output`; `slots [B, K, D]` replaces the initial slots."""
        features = self.position(self.encoder(images))  # [B, C, h, w]
        tokens = self.project(features.flatten(2).transpose(1, 2))  # [B, h*w, D]
        slots, attention, _ = self.slot_attention(tokens, slots, self.attention_temperature)
        behind = None if self.colour is None else (self.colour(tokens.mean(1)), self.presence)
        painting = self.decoder(slots, mask_temperature, behind)
        return Output(*painting, slots, attention.unflatten(-1, features.shape[-2:]))


SIZE, PATCH = 224, 8  # px: side of an image and of a patch


class Convolutions(nn.Module):
    """In place of a `Dinosaur`'s projection: patches `[B, N, 192]` to the inputs of Slot Attention `[B, N, D]`.

    Three 5x5 convolutions with stride 2 and one without, of colours and coordinates, as the original's.
    """

    def __init__(self, channels: int, slot_dim: int, glorot: bool):
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, stride in ((5, 2), (channels, 2), (channels, 2), (channels, 1)):
            layers += [nn.Conv2d(inputs, channels, 5, stride, 2), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.to_inputs = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, slot_dim))
        for layer in self.modules():
            if glorot and isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(layer.weight)

    def forward(self, patches: Tensor) -> Tensor:
        images = pixel_shuffle(patches.transpose(1, 2).unflatten(2, (SIZE // PATCH, SIZE // PATCH)), PATCH)
        line = torch.linspace(-1, 1, SIZE, device=patches.device)
        places = torch.stack(torch.meshgrid(line, line, indexing="xy")).expand(len(images), -1, -1, -1)
        return self.to_inputs(self.layers(torch.cat([images, places], 1)).flatten(2).transpose(1, 2))


class Painter(ConvDecoder):
    """The original's decoder with few channels, whose mixture a linear layer turns into the colours of patches."""

    def __init__(self, slot_dim: int, channels: int):
        super().__init__(slot_dim, channels)
        self.colours = nn.Linear(channels, 3 * PATCH**2)

    def forward(self, *args: Any) -> Decoded:
        found = super().forward(*args)
        return found._replace(reconstruction=self.colours(found.reconstruction))
