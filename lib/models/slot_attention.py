"""Slot Attention: a set of slots competes for the inputs (Locatello et al. 2020, arXiv:2006.15055, algorithm 1)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

INITIALISATIONS = ("gaussian", "learned")


class Grouping(NamedTuple):
    """What Slot Attention returns."""

    slots: Tensor  # [B, K, D]
    attention: Tensor  # [B, K, N], sums to one over K: which slot explains which input


class SlotAttention(nn.Module):
    """Group `N` inputs into `K` slots by iterated attention whose softmax runs over the slots.

    Introduced in notebooks/ex_slot1.ipynb.

    Args:
        input_dim: channels C of the inputs.
        slot_dim: channels D of a slot.
        num_slots: K; ignored when slots are handed to `forward`.
        iterations: rounds of attention and update.
        hidden_dim: width of the residual MLP.
        init: "gaussian" draws every slot from one learned Gaussian, so slots are exchangeable and the index carries
            no identity; "learned" gives each slot its own learned start, so the index does.
        epsilon: added after the softmax, so that a slot that wins nothing divides by no zero.
    """

    def __init__(
        self,
        input_dim: int,
        slot_dim: int = 64,
        num_slots: int = 5,
        iterations: int = 3,
        hidden_dim: int = 128,
        init: str = "gaussian",
        epsilon: float = 1e-8,
    ):
        super().__init__()
        if init not in INITIALISATIONS:
            raise ValueError(f"init is {init!r}; choose one of {', '.join(INITIALISATIONS)}")
        self.num_slots, self.iterations, self.init, self.epsilon = num_slots, iterations, init, epsilon
        self.norm_inputs = nn.LayerNorm(input_dim)
        self.norm_slots = nn.LayerNorm(slot_dim)
        self.to_q = nn.Linear(slot_dim, slot_dim, bias=False)
        self.to_k = nn.Linear(input_dim, slot_dim, bias=False)
        self.to_v = nn.Linear(input_dim, slot_dim, bias=False)
        self.gru = nn.GRUCell(slot_dim, slot_dim)
        self.mlp = nn.Sequential(
            nn.LayerNorm(slot_dim), nn.Linear(slot_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, slot_dim)
        )
        shape = (1, 1, slot_dim) if init == "gaussian" else (1, num_slots, slot_dim)
        self.init_mean = nn.Parameter(nn.init.xavier_uniform_(torch.empty(shape)))
        if init == "gaussian":
            self.init_log_sigma = nn.Parameter(nn.init.xavier_uniform_(torch.empty(shape)))

    def initial_slots(self, batch: int) -> Tensor:
        """Slots before the first iteration, `[batch, K, D]`; "gaussian" draws them from torch's global generator."""
        mean = self.init_mean.expand(batch, self.num_slots, -1)
        if self.init == "learned":
            return mean
        return mean + self.init_log_sigma.exp() * torch.randn_like(mean)

    def forward(
        self,
        inputs: Tensor,
        slots: Tensor | None = None,
        temperature: float = 1.0,
        iterations: int | None = None,
    ) -> Grouping:
        """Run the iterations.

        Args:
            inputs: `[B, N, C]`.
            slots: start from these, `[B, K, D]`, instead of the initialisation.
            temperature: divides the logits of the softmax over slots; below 1 the competition is harder.
            iterations: overrides the number given at construction (a video uses fewer after its first frame).

        Returns:
            `Grouping(slots [B, K, D], attention [B, K, N])`; the attention is the last iteration's, before its
            renormalisation over inputs.

        Raises:
            ValueError: the temperature is not positive, or there is no iteration.
        """
        iterations = self.iterations if iterations is None else iterations
        if temperature <= 0 or iterations < 1:
            raise ValueError(f"temperature {temperature} and iterations {iterations} must be positive")
        inputs = self.norm_inputs(inputs)
        k, v = self.to_k(inputs), self.to_v(inputs)  # [B, N, D]
        slots = self.initial_slots(inputs.shape[0]) if slots is None else slots
        scale = slots.shape[-1] ** -0.5
        for _ in range(iterations):
            q = self.to_q(self.norm_slots(slots))  # [B, K, D]
            logits = torch.einsum("bkd,bnd->bkn", q, k) * scale
            attention = (logits / temperature).softmax(dim=1)  # over slots: they compete
            weights = attention + self.epsilon
            weights = weights / weights.sum(dim=-1, keepdim=True)  # over inputs: a weighted mean
            updates = torch.einsum("bkn,bnd->bkd", weights, v)
            slots = self.gru(updates.flatten(0, 1), slots.flatten(0, 1)).view_as(slots)
            slots = slots + self.mlp(slots)
        return Grouping(slots, attention)
