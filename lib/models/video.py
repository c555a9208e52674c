"""An image model becomes a video model by wrapping: slots of one frame, predicted, are the start of the next.

After SAVi (Kipf et al. 2022, arXiv:2111.12594); the loss between frames is that of SlotContrast (Manasyan et al. 2025,
arXiv:2412.14295). Introduced in notebooks/ex_dino3.ipynb.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from lib.models.dinosaur import Dinosaur
from lib.models.slot_attention import Grouping
from lib.models.token_decoders import Given

PREDICTORS = ("transformer", "mlp", "none")

#: The original study's; `VideoModel(image_model, **ORIGINAL)`. Its mlp ends in a LayerNorm over slot and change.
ORIGINAL = {"predictor": "mlp", "output_norm": True, "iterations": (5, 5)}


class Tracked(NamedTuple):
    """What the video model returns; P is N, or the number of positions that were asked for."""

    slots: Tensor  # [B, T, K, D], after Slot Attention has seen the frame
    attention: Tensor  # [B, T, K, N], sums to one over K
    masks: Tensor  # [B, T, K, P], the decoder's, sums to one over K
    reconstruction: Tensor  # [B, T, P, C], of the normalised target
    places: Tensor | None  # [B, T, K, 3], column, row and width of each slot; Grouping calls them frames


class VideoModel(nn.Module):
    """Carry slots through T frames: Slot Attention corrects what a predictor made of the previous frame's slots.

    Corrected slots are decoded, predicted ones are passed on. A frame sees none that come after it.

    Args:
        image_model: encodes, groups and decodes single frames, such as `Dinosaur`.
        predictor: "transformer", one pre-norm block of four heads in which slots see each other; "mlp", a residual MLP
            a slot, the original study's; "none" passes slots on as they are.
        iterations: of Slot Attention, in a first frame and in a later one.
        stop_gradient: detach what the predictor reads, so that no gradient crosses from one frame to another.
        output_norm: LayerNorm over what is passed on.
        refresh: every so many frames slots are drawn anew, as in a first frame; 0 is never.

    Raises:
        ValueError: an unknown predictor, or a negative refresh.
    """

    def __init__(
        self,
        image_model: Dinosaur,
        predictor: str = "transformer",
        iterations: tuple[int, int] = (3, 2),
        stop_gradient: bool = False,
        output_norm: bool = False,
        refresh: int = 0,
    ):
        super().__init__()
        if predictor not in PREDICTORS:
            raise ValueError(f"predictor is {predictor!r}; choose one of {', '.join(PREDICTORS)}")
        if refresh < 0:
            raise ValueError(f"refresh is {refresh}; give a number of frames, or 0 for never")
        self.image_model, self.iterations = image_model, iterations
        self.stop_gradient, self.refresh = stop_gradient, refresh
        self.predictor = _predictor(predictor, image_model.slot_dim)
        self.output_norm = nn.LayerNorm(image_model.slot_dim) if output_norm else nn.Identity()

    def target(self, tokens: Tensor) -> Tensor:
        """What the decoder is to predict for tokens `[B, T, N, C]`: the same shape, frozen."""
        return self.image_model.target(tokens.flatten(0, 1)).unflatten(0, tokens.shape[:2])

    def forward(self, tokens: Tensor, positions: Given = None) -> Tracked:
        """Tokens `[B, T, N, C]` to `Tracked`, decoded at `positions [B, T, P, 2]` or everywhere.

        Initial slots come from torch's global generator where the image model draws them.
        """
        batch, flat = tokens.shape[:2], tokens.flatten(0, 1)
        inputs = self.image_model.encode(flat).unflatten(0, batch)
        steps: list[Grouping] = []
        for t in range(batch[1]):
            if t == 0 or (self.refresh and t % self.refresh == 0):
                steps.append(self.image_model.group(inputs[:, t], iterations=self.iterations[0]))
            else:
                slots, places = self._predict(steps[-1])
                steps.append(self.image_model.group(inputs[:, t], slots, self.iterations[1], places))
        slots, attention, places = (None if x[0] is None else torch.stack(x, 1) for x in zip(*steps, strict=True))
        given = (None if x is None else x.flatten(0, 1) for x in (places, positions))
        reconstruction, masks = self.image_model.decode(slots.flatten(0, 1), flat, *given)
        return Tracked(slots, attention, masks.unflatten(0, batch), reconstruction.unflatten(0, batch), places)

    def _predict(self, step: Grouping) -> tuple[Tensor, Tensor | None]:
        """What the next frame starts from: slots `[B, K, D]` and, unchanged, their places."""
        slots, places = step.slots, step.frames
        if self.stop_gradient:
            slots, places = slots.detach(), None if places is None else places.detach()
        return self.output_norm(self.predictor(slots)), places


def slot_contrast(slots: Tensor, temperature: float = 0.1) -> Tensor:
    """How badly a slot is told, one frame later, from all other slots of all videos of the batch (InfoNCE).

    Each slot at t is to be closest, by cosine, to the slot of the same index and video at t + 1 among the B x K there.

    Args:
        slots: `[B, T, K, D]`.
        temperature: divides the cosines.

    Returns:
        A scalar: mean cross-entropy over slots and pairs of frames; log(B x K) where all slots are alike.

    Raises:
        ValueError: there is no second frame.
    """
    if slots.shape[1] < 2:
        raise ValueError(f"slots of {slots.shape[1]} frame have no next frame; give [B, T, K, D] with T of 2 or more")
    unit = normalize(slots, dim=-1).transpose(0, 1).flatten(1, 2)  # [T, B * K, D]
    logits = unit[:-1] @ unit[1:].transpose(1, 2) / temperature  # [T - 1, B * K, B * K]
    same = torch.arange(logits.shape[-1], device=slots.device).repeat(len(logits))
    return cross_entropy(logits.flatten(0, 1), same)


class _ResidualMLP(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.layers = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim))

    def forward(self, slots: Tensor) -> Tensor:
        return slots + self.layers(slots)


def _predictor(kind: str, dim: int) -> nn.Module:
    if kind == "none":
        return nn.Identity()
    if kind == "mlp":
        return _ResidualMLP(dim)
    return nn.TransformerEncoderLayer(dim, 4, 4 * dim, dropout=0.0, batch_first=True, norm_first=True)
