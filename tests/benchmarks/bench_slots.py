"""Slot Attention and training

Numbers are equal where that is said: the competitors have the same weights and the same first slots.
"""

import os

import pytest
import torch
from torch import nn

from lib import ROOT, checkpoints, results
from lib.models.dinosaur import ORIGINAL, Dinosaur
from lib.models.slot_attention import SlotAttention
from lib.models.token_decoders import positions_of
from lib.models.video import VideoModel
from lib.studies.objects.experiment import TrainConfig, fitted
from lib.studies.objects.tracking import ClipConfig
from lib.training import Recipe, compiles

BATCH, DIM, SLOTS = 32, 64, 9
CHANNELS = 40  # of the stand-in's tokens


def paper(m, inputs):
    """Algorithm 1 of Locatello et al. 2020, with the weights of `m`: attention [B, N, K], softmax over slots."""
    inputs, slots = m.norm_inputs(inputs), m.initial_slots(len(inputs))
    k, v = m.to_k(inputs), m.to_v(inputs)
    for _ in range(m.iterations):
        q = m.to_q(m.norm_slots(slots))
        weights = (k @ q.mT / DIM**0.5).softmax(-1) + 1e-8
        updates = (weights / weights.sum(1, keepdim=True)).mT @ v
        slots = m.gru(updates.flatten(0, 1), slots.flatten(0, 1)).view_as(slots)
        slots = slots + m.mlp(slots)
    return slots


def original(m, inputs):
    """What the original study did, from its description: sums over indices, attention [B, K, N], epsilon after it."""
    inputs, slots = m.norm_inputs(inputs), m.initial_slots(len(inputs))
    k, v = m.to_k(inputs), m.to_v(inputs)
    for _ in range(m.iterations):
        before, slots = slots, m.norm_slots(slots)
        weights = (torch.einsum("bid,bjd->bij", m.to_q(slots), k) * DIM**-0.5).softmax(1) + 1e-8
        weights = weights / weights.sum(-1, keepdim=True)
        updates = torch.einsum("bjd,bij->bid", v, weights)
        slots = m.gru(updates.reshape(-1, DIM), before.reshape(-1, DIM)).reshape(len(inputs), -1, DIM)
        slots = slots + m.mlp(slots)
    return slots


def packaged(m):
    """The package's module with the weights of `m`; it has biases that ours lacks."""
    other = pytest.importorskip("slot_attention").SlotAttention(SLOTS, DIM, m.iterations, 1e-8, 2 * DIM)
    state = {k: torch.zeros_like(v) for k, v in other.state_dict().items()}
    names = {"norm_inputs": "norm_input", "mlp.0": "norm_pre_ff", "mlp.1": "mlp.0", "mlp.3": "mlp.2"}
    names |= {"init_mean": "slots_mu", "init_log_sigma": "slots_logsigma"}
    for key, value in m.state_dict().items():
        stem = next((name for name in names if key.startswith(name)), "")
        state[names.get(stem, "") + key.removeprefix(stem)] = value
    other.load_state_dict(state)
    return other


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("count", [256, 1024])
def test_slot_attention(compare, difference, count, precision):
    """Forward and backward of Slot Attention alone: 32 images, 64 channels, 9 slots, 3 iterations. How many times as
    fast as the package slot-attention: this workbook's module, eager and compiled; the paper's algorithm 1 written
    down; the original study's module. With reference frames ours does more than all others.
    """
    torch.manual_seed(0)
    inputs = torch.randn(BATCH, count, DIM, requires_grad=True)
    plain = SlotAttention(DIM, DIM, SLOTS, hidden_dim=2 * DIM)
    framed = SlotAttention(DIM, DIM, SLOTS, hidden_dim=2 * DIM, frames=True)
    framed.load_state_dict(plain.state_dict(), strict=False)
    nn.init.normal_(framed.to_place.weight, std=0.1)
    places = positions_of((round(count**0.5),) * 2)
    compiled = {net: torch.compile(net, dynamic=False) for net in (plain, framed)}
    # Slots are drawn outside of what is compiled: there they would be other ones.
    calls = {
        "package slot-attention": (packaged(plain), lambda net: net(inputs)),
        "ours": (plain, lambda net: net(inputs).slots),
        "ours, compiled": (plain, lambda net: compiled[net](inputs, net.initial_slots(BATCH)).slots),
        "ours with frames": (framed, lambda net: net(inputs, positions=places).slots),
        "ours with frames, compiled": (
            framed,
            lambda net: compiled[net](inputs, net.initial_slots(BATCH), positions=places).slots,
        ),
        "the paper's algorithm": (plain, lambda net: paper(net, inputs)),
        "the original's module": (plain, lambda net: original(net, inputs)),
    }

    def step(net, call):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            slots = call(net)
        torch.autograd.grad(slots.float().square().mean(), [inputs, *net.parameters()], allow_unused=True)
        return slots.float()

    found = {}
    for name, pair in list(calls.items()):
        try:
            found[name] = step(*pair)
        except Exception as error:  # a machine without a compiler for C++
            if "compiled" not in name:
                raise
            print(f"{name}: left out ({type(error).__name__})")
            del calls[name]
    same = [difference(found["ours"], slots) for name, slots in found.items() if "frames" not in name]
    assert max(same) < (1e-5 if precision == "float32" else 0.1)
    facts = {"largest relative difference of slots, without frames, from ours": max(same)}
    compare(f"{count:,} tokens, {precision}", {k: lambda p=p: step(*p) for k, p in calls.items()}, facts)


def trained(net, config, tokens, precision, steps=2, compiled=False):
    """Optimiser steps of the studies' own loop, on the same tokens every time."""
    recipe = Recipe(steps, len(tokens), precision=precision)

    def run():
        os.environ["SLOTS_COMPILE"] = str(int(compiled))  # 0 again where it fails
        fitted(net, None, lambda step: tokens, None, config, recipe, device="cpu")

    return run


OURS, THEIRS = TrainConfig(), TrainConfig(area=0.0, diversity=0.01, sample=0)


@pytest.mark.parametrize("side", [16, 32])
def test_training(compare, side):
    """Optimiser steps of whole models on the same 16 images of tokens of 40 channels, through `lib.training.fit`: ours
    (11 slots with frames, 128 positions decoded) against the original study's (5 slots, 5 iterations, a convolutional
    decoder of every position, which is the first). "bf16-mixed" is autocast to bfloat16; "compiled" is Slot Attention,
    as with `SLOTS_COMPILE=1`, once it is compiled.
    """
    torch.manual_seed(0)
    tokens, functions = torch.randn(16, side**2, CHANNELS), {}
    for precision in ("32-true", "bf16-mixed"):
        functions[f"original, {precision}"] = trained(Dinosaur(CHANNELS, **ORIGINAL), THEIRS, tokens, precision)
        functions[f"ours, {precision}"] = trained(Dinosaur(CHANNELS), OURS, tokens, precision)
        fast = trained(Dinosaur(CHANNELS), OURS, tokens, precision, compiled=True)
        fast()
        if compiles():  # else on a machine without a compiler for C++
            functions[f"ours, compiled, {precision}"] = fast
    facts = reached() if side == 32 else {}
    compare(f"{side} x {side} tokens", functions, facts, rounds=5)


def reached():
    """When the committed training of ex_dino4 first passed two marks on what was held out."""
    path = next((ROOT / "checkpoints").glob("ex_dino4-ours-0-*.safetensors"))
    history = [row for row in checkpoints.about(path)["history"] if "mbo" in row]
    other = results.read("ex_dino4", ROOT)["summary"]["original"]
    facts = {"steps of the committed training of ex_dino4 in all": history[-1]["step"]}
    for key, name, mark in (("mbo", "mBO", 0.4), ("fg_ari", "FG-ARI", 0.5)):
        first = next(row["step"] for row in history if row[key] >= mark)
        facts[f"first of its watched steps with {name} of at least {mark}"] = first
        facts[f"{name} of the original's configuration at its end"] = other[key]["mean"]
    return facts


@pytest.mark.parametrize("what", ["slots", "tokens", "frames"])
def test_scaling(compare, what):
    """How an optimiser step of ours grows, from 8 images of 256 tokens and 8 slots: with slots; with tokens; and with
    frames, of the video model on 4 clips. The exponent is that of a power law, fitted to all sizes of each round.
    """
    torch.manual_seed(0)
    sizes = {"slots": (4, 8, 16, 32), "tokens": (256, 1024, 4096), "frames": (2, 4, 8, 16)}[what]
    functions = {}
    for size in sizes:
        net = Dinosaur(CHANNELS, num_slots=size if what == "slots" else 8)
        tokens, config = torch.randn(8, size if what == "tokens" else 256, CHANNELS), OURS
        if what == "frames":
            net, config, tokens = VideoModel(net), ClipConfig(), torch.randn(4, size, 256, CHANNELS)
        functions[str(size)] = trained(net, config, tokens, "32-true")
    compare(f"{what}, a step", functions, sizes=sizes, rounds=5, unit=what)
