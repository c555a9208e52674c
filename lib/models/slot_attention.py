"""Slot Attention: a set of slots competes for the inputs (Locatello et al. 2020, arXiv:2006.15055, algorithm 1)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

INITIALISATIONS = ("gaussian", "learned", "uniform", "xavier")
#: A slot's frame is no wider than half the image and no narrower than a fortieth of it.
WIDEST, NARROWEST = 1.0, 0.05
EPSILON = 1e-8  # added after the softmax, so that a slot that wins nothing divides by no zero
FAR = 25.0  # squared distance, in widths of a slot, from which on being farther away changes nothing


class Grouping(NamedTuple):
    """What Slot Attention returns."""

    slots: Tensor  # [B, K, D]
    attention: Tensor  # [B, K, N], sums to one over K: which slot explains which input
    frames: Tensor | None = None  # [B, K, 3]: column, row and width of what the slot attends to, in -1..1


class SlotAttention(nn.Module):
    """Group `N` inputs into `K` slots by iterated attention whose softmax runs over the slots.

    Introduced in notebooks/ex_slot1.ipynb; frames in notebooks/ex_dino4.ipynb.

    Args:
        input_dim: channels C of the inputs.
        slot_dim: channels D of a slot.
        num_slots: K; ignored when slots are handed to `forward`.
        iterations: rounds of attention and update.
        hidden_dim: width of the residual MLP.
        init: "gaussian" draws every slot from one learned Gaussian, so slots are exchangeable and the index carries
            no identity; "learned" gives each slot its own learned start, so the index does. "uniform" and "xavier"
            are the original study's: a learned mean a slot and one learned spread, which start that way.
        frames: give every slot a place and a width, measured from its attention after each iteration; the next one
            adds to the logits a learned quadratic function of the distance in that frame. After invariant slot
            attention (Biza et al. 2023, arXiv:2302.04973), whose keys and values are reduced here to the terms that
            cost no more than the logits themselves.
    """

    def __init__(
        self,
        input_dim: int,
        slot_dim: int = 64,
        num_slots: int = 5,
        iterations: int = 3,
        hidden_dim: int = 128,
        init: str = "gaussian",
        frames: bool = False,
    ):
        super().__init__()
        if init not in INITIALISATIONS:
            raise ValueError(f"init is {init!r}; choose one of {', '.join(INITIALISATIONS)}")
        self.num_slots, self.iterations, self.init = num_slots, iterations, init
        self.norm_inputs = nn.LayerNorm(input_dim)
        self.norm_slots = nn.LayerNorm(slot_dim)
        self.to_q = nn.Linear(slot_dim, slot_dim, bias=False)
        self.to_k = nn.Linear(input_dim, slot_dim, bias=False)
        self.to_v = nn.Linear(input_dim, slot_dim, bias=False)
        self.gru = nn.GRUCell(slot_dim, slot_dim)
        self.mlp = nn.Sequential(
            nn.LayerNorm(slot_dim), nn.Linear(slot_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, slot_dim)
        )
        self.init_mean = nn.Parameter(_start(init, (1, 1 if init == "gaussian" else num_slots, slot_dim)))
        if init != "learned":
            self.init_log_sigma = nn.Parameter(_start(init, (1, 1, slot_dim)))
        self.to_place = nn.Linear(slot_dim, 3) if frames else None
        if frames:
            nn.init.zeros_(self.to_place.weight)

    def initial_slots(self, batch: int) -> Tensor:
        """Slots before the first iteration, `[batch, K, D]`; all but "learned" draw from torch's global generator."""
        mean = self.init_mean.expand(batch, self.num_slots, -1)
        if self.init == "learned":
            return mean
        noise = torch.randn(mean.shape, dtype=mean.dtype)  # drawn on the CPU: the same on every device
        return mean + self.init_log_sigma.exp() * noise.to(mean.device)

    def forward(
        self,
        inputs: Tensor,
        slots: Tensor | None = None,
        temperature: float = 1.0,
        iterations: int | None = None,
        positions: Tensor | None = None,
        frames: Tensor | None = None,
    ) -> Grouping:
        """Run the iterations.

        Args:
            inputs: `[B, N, C]`.
            slots: start from these, `[B, K, D]`, instead of the initialisation.
            temperature: divides the logits of the softmax over slots; below 1 the competition is harder.
            iterations: overrides the number given at construction (a video uses fewer after its first frame).
            positions: `[N, 2]`, column and row of every input in -1..1; needed for frames.
            frames: start from these, `[B, K, 3]` (a video's slots know where they were); None: the first iteration
                looks everywhere alike.

        Returns:
            `Grouping(slots [B, K, D], attention [B, K, N], frames [B, K, 3] or None)`; the attention is the last
            iteration's, before its renormalisation over inputs, and the frames are measured from it.

        Raises:
            ValueError: the temperature is not positive, there is no iteration, or frames lack positions.
        """
        iterations = self.iterations if iterations is None else iterations
        if temperature <= 0 or iterations < 1:
            raise ValueError(f"temperature {temperature} and iterations {iterations} must be positive")
        if self.to_place is not None and positions is None:
            raise ValueError("slots with frames need the positions of the inputs, [N, 2]")
        inputs = self.norm_inputs(inputs)
        slots = self.initial_slots(inputs.shape[0]) if slots is None else slots
        if torch.is_autocast_enabled(where := inputs.device.type):  # once, not in every iteration
            inputs = inputs.to(torch.get_autocast_dtype(where))
        scale = slots.shape[-1] ** -0.5 / temperature
        for _ in range(iterations):
            normed = self.norm_slots(slots)
            # K queries go through the weights of the keys, and K means through those of the values: N inputs need not.
            logits = (self.to_q(normed) * scale) @ self.to_k.weight @ inputs.mT  # [B, K, N]
            if self.to_place is not None and frames is not None:
                logits = logits + self._nearness(normed, positions, frames) / temperature
            attention = logits.softmax(dim=1)  # over slots: they compete
            weights = attention + EPSILON
            weights = weights / weights.sum(dim=-1, keepdim=True)  # over inputs: a weighted mean
            if self.to_place is not None:
                frames = measure_frames(weights, positions)
            updates = self.to_v(weights @ inputs)
            with torch.autocast("cuda", enabled=False):  # CUDA's alone would bring slots to half precision
                slots = self.gru(*(x.flatten(0, 1).to(self.gru.bias_ih.dtype) for x in (updates, slots))).view_as(slots)
            slots = slots + self.mlp(slots)
        return Grouping(slots, attention, frames)

    def _nearness(self, slots: Tensor, positions: Tensor, frames: Tensor) -> Tensor:
        """What place adds to the logits, `[B, K, N]`: a slope and a pull to the centre, both read from the slot.

        Both are polynomials in the position, so they are products of coefficients `[B, K, 4]` with `powers`.
        """
        terms, places = self.to_place(slots), powers(positions).mT  # [B, K, 3] and [4, N]
        with torch.autocast(slots.device.type, enabled=False):
            centre, width = frames.double().split((2, 1), -1)
            one, slope = torch.ones_like(width), terms[..., :2] / width
            along = torch.cat([-(slope * centre).sum(-1, keepdim=True), slope, 0 * one], -1) @ places
            apart = torch.cat([centre.square().sum(-1, keepdim=True), -2 * centre, one], -1) / width**2 @ places
            pull = 0.1 * softplus(terms[..., 2:].to(frames.dtype))
            return along.to(frames.dtype) - pull * apart.to(frames.dtype).clamp(max=FAR)


def powers(positions: Tensor) -> Tensor:
    """One, column, row and the sum of their squares of positions `[N, 2]`: `[N, 4]`, double, since squares cancel."""
    places = positions.double()
    return torch.cat([torch.ones_like(places[:, :1]), places, places.square().sum(-1, keepdim=True)], -1)


def measure_frames(weights: Tensor, positions: Tensor) -> Tensor:
    """Centre and width (standard deviation in both directions together) of weights `[B, K, N]`: `[B, K, 3]`.

    Exact under autocast too, and in the precision of the positions; the weights need not sum to one.
    """
    with torch.autocast(weights.device.type, enabled=False):
        sums = weights.double() @ powers(positions)  # [B, K, 4]
        centre, square = (sums[..., 1:] / sums[..., :1]).split((2, 1), -1)
        variance = (square - centre.square().sum(-1, keepdim=True)) / 2
        width = (variance + 1e-4).sqrt().clamp(NARROWEST, WIDEST)
        return torch.cat([centre, width], -1).to(positions.dtype)


def in_frame(positions: Tensor, frames: Tensor) -> Tensor:
    """Positions `[N, 2]` or `[B, N, 2]` as seen from every frame, in its widths: `[B, K, N, 2]`."""
    positions = positions if positions.ndim == 3 else positions[None]
    return (positions[:, None] - frames[:, :, None, :2]) / frames[:, :, None, 2:]


def _start(init: str, shape: tuple[int, ...]) -> Tensor:
    values = torch.empty(shape)
    return values.uniform_(-0.1, 0.1) if init == "uniform" else nn.init.xavier_uniform_(values)
