"""DINOSAUR: Slot Attention on frozen tokens, trained to predict them (Seitzer et al. 2023, arXiv:2209.14860).

Grids are square here: N tokens are `side` x `side`, row-major. Introduced in notebooks/ex_dino1.ipynb.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, layer_norm

from lib.models.slot_attention import Grouping, SlotAttention
from lib.models.token_decoders import ConvDecoder, Decoded, Given, MLPDecoder, TransformerDecoder, positions_of, waves

NORMS = ("none", "scale", "dataset", "token", "image")
DECODERS = ("mlp", "conv", "conv_linear", "autoregressive", "permuted")
PROJECTIONS = ("mlp", "original", "linear")


class Found(NamedTuple):
    """What the model returns; P is N, or the number of positions that were asked for."""

    slots: Tensor  # [B, K, D]
    attention: Tensor  # [B, K, N], sums to one over K
    masks: Tensor  # [B, K, P], the decoder's, sums to one over K
    reconstruction: Tensor  # [B, P, C], of the normalised target
    frames: Tensor | None  # [B, K, 3], see Grouping


def normalise(tokens: Tensor, how: str, mean: Tensor, std: Tensor) -> Tensor:
    """Tokens `[B, N, C]` on a common footing.

    Args:
        how: "none"; "scale", one number for the whole data set; "dataset", mean and deviation of each channel over
            the data set; "token", over the channels of each token (LayerNorm); "image", over the places of each
            image, a channel at a time: the original study's, which lifts channels that say nothing to unit noise.
        mean, std: of the data set, `[C]`.

    Raises:
        ValueError: another name.
    """
    if how == "none":
        return tokens
    if how == "scale":
        spread = (std.square().mean() + mean.var(correction=0)).sqrt()
        return (tokens - mean.mean()) / spread
    if how == "dataset":
        return (tokens - mean) / std.clamp(min=1e-6)
    if how == "token":
        return layer_norm(tokens, tokens.shape[-1:])
    if how == "image":
        return (tokens - tokens.mean(1, keepdim=True)) / (tokens.std(1, keepdim=True) + 1e-6)
    raise ValueError(f"normalisation is {how!r}; choose one of {', '.join(NORMS)}")


class Dinosaur(nn.Module):
    """Tokens to slots to tokens.

    Args:
        feature_dim: channels C of a token.
        mean, std: of the tokens over the training set, `[C]`; kept with the weights.
        num_slots, slot_dim, iterations, init: see `SlotAttention`.
        input_norm, target_norm: see `normalise`; what Slot Attention reads, and what the decoder predicts.
        projection: "mlp" is LayerNorm and two layers; "original" the original study's later one, as wide as a token;
            "linear" its first, a single layer with nothing before it.
        position: add position to the inputs. Needed where the backbone's tokens carry none, harmless where they do.
        frames: slots have a place and a width, see `SlotAttention`, and the MLP decoder sees with them.
        decoder: "mlp", "conv" and "conv_linear" (the original's, after two layers or one), or a transformer,
            "autoregressive" or "permuted".
        hidden_dim: width of the MLP decoder.
        attention_temperature, mask_temperature: divide the logits of attention and of the decoder's masks.
        glorot: initialise every linear layer so, biases with zero; False is torch's default.

    Raises:
        ValueError: a name that is not in `NORMS`, `DECODERS`, `PROJECTIONS`, or frames with another decoder than mlp.
    """

    def __init__(
        self,
        feature_dim: int,
        mean: Tensor | None = None,
        std: Tensor | None = None,
        *,
        num_slots: int = 11,
        slot_dim: int = 64,
        iterations: int = 3,
        init: str = "gaussian",
        input_norm: str = "dataset",
        target_norm: str = "dataset",
        projection: str = "mlp",
        position: bool = True,
        frames: bool = True,
        decoder: str = "mlp",
        hidden_dim: int = 192,
        attention_temperature: float = 0.5,
        mask_temperature: float = 1.0,
        glorot: bool = True,
    ):
        super().__init__()
        for name, value, known in (
            ("input_norm", input_norm, NORMS),
            ("target_norm", target_norm, NORMS),
            ("projection", projection, PROJECTIONS),
            ("decoder", decoder, DECODERS),
        ):
            if value not in known:
                raise ValueError(f"{name} is {value!r}; choose one of {', '.join(known)}")
        if frames and decoder != "mlp":
            raise ValueError(f"decoder {decoder!r} sees no frames; set frames=False or choose mlp")
        self.num_slots, self.slot_dim = num_slots, slot_dim
        self.input_norm, self.target_norm = input_norm, target_norm
        self.attention_temperature, self.mask_temperature = attention_temperature, mask_temperature
        self.register_buffer("mean", torch.zeros(feature_dim) if mean is None else mean.float().clone())
        self.register_buffer("std", torch.ones(feature_dim) if std is None else std.float().clone())
        self.projection = _projection(projection, feature_dim, slot_dim)
        self.position = nn.Linear(18, slot_dim) if position else None
        self.attention = SlotAttention(
            slot_dim, slot_dim, num_slots, iterations, hidden_dim=2 * slot_dim, init=init, frames=frames
        )
        self.decoder = _decoder(decoder, slot_dim, feature_dim, hidden_dim, frames)
        if glorot:
            for name, module in self.named_modules():
                if isinstance(module, nn.Linear) and not name.endswith("to_place"):
                    nn.init.xavier_uniform_(module.weight)
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)

    def target(self, tokens: Tensor) -> Tensor:
        """What the decoder is to predict for tokens `[B, N, C]`: the same shape, frozen."""
        return normalise(tokens, self.target_norm, self.mean, self.std).detach()

    def encode(self, tokens: Tensor) -> Tensor:
        """Frozen tokens `[B, N, C]` to the inputs of Slot Attention `[B, N, D]`."""
        inputs = self.projection(normalise(tokens, self.input_norm, self.mean, self.std))
        if self.position is None:
            return inputs
        return inputs + self.position(waves(positions_of(_square(tokens.shape[1]), tokens.device)))

    def group(
        self, inputs: Tensor, slots: Given = None, iterations: int | None = None, frames: Given = None
    ) -> Grouping:
        """Inputs `[B, N, D]` to slots, starting from slots `[B, K, D]` and frames `[B, K, 3]` where they are given."""
        places = positions_of(_square(inputs.shape[1]), inputs.device)
        return self.attention(inputs, slots, self.attention_temperature, iterations, places, frames)

    def decode(self, slots: Tensor, tokens: Tensor, frames: Given = None, positions: Given = None) -> Decoded:
        """Slots `[B, K, D]` to masks and a reconstruction of the target of `tokens [B, N, C]`, on their grid.

        The MLP decoder uses frames, and is asked at `positions [B, P, 2]` alone where they are given; the transformers
        see the true tokens before each.
        """
        given = {}
        if isinstance(self.decoder, MLPDecoder):
            given = {"frames": frames, "positions": positions}
        elif isinstance(self.decoder, TransformerDecoder):
            given = {"target": self.target(tokens)}
        return self.decoder(slots, _square(tokens.shape[1]), self.mask_temperature, **given)

    def forward(self, tokens: Tensor, positions: Given = None) -> Found:
        """Tokens `[B, N, C]` to `Found`, decoded everywhere, or at `positions [B, P, 2]` by the MLP decoder."""
        slots, attention, frames = self.group(self.encode(tokens))
        reconstruction, masks = self.decode(slots, tokens, frames, positions)
        return Found(slots, attention, masks, reconstruction, frames)


#: The original study's model, its later form; `Dinosaur(feature_dim, mean, std, **ORIGINAL)`. Its loss adds 0.01 times
#: the mean cosine between slots; its first form had projection "linear", decoder "conv_linear" and init "uniform".
ORIGINAL = {
    "num_slots": 5,
    "slot_dim": 64,
    "iterations": 5,
    "init": "xavier",
    "input_norm": "none",
    "target_norm": "none",
    "projection": "original",
    "position": False,
    "frames": False,
    "decoder": "conv",
    "attention_temperature": 1.0,
    "mask_temperature": 0.5,
    "glorot": False,
}


def on_image(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks at token resolution `[B, K, N]` to the image, `[B, K, H, W]`, bilinear; they still sum to one."""
    return interpolate(
        masks.float().unflatten(-1, _square(masks.shape[-1])), size, mode="bilinear", align_corners=False
    )


def _square(count: int) -> tuple[int, int]:
    side = math.isqrt(count)
    if side * side != count:
        raise ValueError(f"{count} tokens make no square grid; crop or pad the images to a square")
    return side, side


def _projection(kind: str, feature_dim: int, slot_dim: int) -> nn.Module:
    if kind == "linear":
        return nn.Linear(feature_dim, slot_dim)
    hidden = feature_dim if kind == "original" else 2 * slot_dim
    return nn.Sequential(
        nn.LayerNorm(feature_dim), nn.Linear(feature_dim, hidden), nn.ReLU(), nn.Linear(hidden, slot_dim)
    )


def _decoder(kind: str, slot_dim: int, feature_dim: int, hidden_dim: int, frames: bool) -> nn.Module:
    if kind == "mlp":
        return MLPDecoder(slot_dim, feature_dim, hidden_dim, frames=frames)
    if kind in ("conv", "conv_linear"):
        return ConvDecoder(slot_dim, feature_dim, deep=kind == "conv")
    return TransformerDecoder(slot_dim, feature_dim, order="raster" if kind == "autoregressive" else "permuted")
