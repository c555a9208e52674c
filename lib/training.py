"""Training loops: one `fit` for every model, resumable to the bit, and `load_or_train`, the hinge of every notebook.

Randomness of step `s` comes from `(seed, s)` alone: batches and noise are functions of the step, so a run that was
killed and resumed needs no generator state to go on exactly where it would have been.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from tqdm.auto import tqdm

from lib import ROOT, checkpoints, results
from lib.checkpoints import CheckpointError


class Diverged(RuntimeError):
    """The loss is not finite. The message names the step and the last good checkpoint."""


@dataclass(frozen=True)
class Recipe:
    """How to train; recorded with every checkpoint.

    Args:
        steps: optimiser steps.
        batch: samples a step.
        lr: the optimiser's peak learning rate.
        warmup: steps of linear warm-up.
        schedule: "cosine" to zero, "poly" (power 0.9) to zero or "constant" after the warm-up.
        clip: largest gradient norm.
        precision: Lightning Fabric's names, such as "32-true" or "bf16-mixed".
        seed: of the initial weights, of the batches and of the noise.
    """

    steps: int
    batch: int = 32
    lr: float = 4e-4
    warmup: int = 100
    schedule: str = "cosine"
    clip: float = 1.0
    precision: str = "32-true"
    seed: int = 0

    def lr_at(self, step: int) -> float:
        """The learning rate at `step`, counted from 0."""
        if self.schedule not in ("poly", "cosine", "constant"):
            raise ValueError(f"schedule is {self.schedule!r}; choose poly, cosine or constant")
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        if self.schedule == "constant":
            return self.lr
        progress = (step - self.warmup) / max(self.steps - self.warmup, 1)
        if self.schedule == "poly":
            return self.lr * (1 - progress) ** 0.9
        return self.lr * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass
class Run:
    """A finished training: the model, and what is known of it."""

    model: nn.Module
    header: dict[str, Any]  # configuration, seed, data fingerprint, history, metrics, seconds, device
    extra: dict[str, Tensor]  # recorded on the way, such as masks for a film strip

    @property
    def history(self) -> list[dict[str, float]]:
        """One row a logged step: step, loss and whatever the loss function reported."""
        return self.header["history"]


def indices(recipe: Recipe, step: int, n: int) -> Tensor:
    """Which samples of `n` make the batch of `step`: `[batch]`, drawn with replacement from `(seed, step)`."""
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    return torch.randint(n, (recipe.batch,), generator=generator)


def fit(
    model: nn.Module,
    loss: Callable[[nn.Module, int], tuple[Tensor, dict[str, float]]],
    recipe: Recipe,
    *,
    state: Path | None = None,
    save_every: int = 200,
    log_every: int = 20,
    device: str = "auto",
    watch: Callable[[nn.Module, int], dict[str, float | Tensor]] | None = None,
    watch_every: int = 0,
    label: str = "training",
    optimiser: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """Train `model` in place; returns its history and the tensors that were watched, stacked over time.

    Introduced in notebooks/ex_slot1.ipynb.

    Args:
        model: moved to the device by Lightning Fabric, and left there.
        loss: `loss(model, step)` draws the batch of that step (see `indices`) and returns the loss and statistics to
            show, such as the entropy of the masks.
        recipe: steps, rates, precision, seed.
        state: where to keep what a resumed run needs, every `save_every` steps; a state that is there is resumed.
        device: "auto", "cpu" or "cuda"; a named device that is missing is an error, never a silent fallback.
        watch: `watch(model, step)` every `watch_every` steps and at the end, in eval mode without gradients: slower
            measures on held-out data, joined to the history row of that step, and tensors such as masks for a film.

        optimiser: `optimiser(parameters, lr)`; not part of what a resumed state is compared by.

    Raises:
        Diverged: the loss is not finite.
        CheckpointError: `state` belongs to another configuration.
    """
    fabric = Fabric(accelerator=_accelerator(device), devices=1, precision=recipe.precision)
    wrapped, optimiser = fabric.setup(model, optimiser(model.parameters(), recipe.lr))
    start, history, film = _resume(state, model, optimiser, recipe) if state else (0, [], {})
    last_good = f"{state} (step {start})" if start else "none yet"
    bar = tqdm(range(start, recipe.steps), initial=start, total=recipe.steps, desc=label, leave=False)
    for step in bar:
        torch.manual_seed(recipe.seed * 1_000_003 + step)
        optimiser.param_groups[0]["lr"] = recipe.lr_at(step)
        value, statistics = loss(wrapped, step)
        if not torch.isfinite(value):
            raise Diverged(
                f"{label}: the loss is {value.item()} at step {step}; last good checkpoint: {last_good}. "
                f"Lower lr ({recipe.lr}) or clip ({recipe.clip}), or train in 32-true"
            )
        optimiser.zero_grad()
        fabric.backward(value)
        fabric.clip_gradients(wrapped, optimiser, max_norm=recipe.clip, error_if_nonfinite=False)
        optimiser.step()
        done = step + 1
        row = {"step": done, "loss": value.item(), **statistics}
        watched = watch is not None and ((watch_every and done % watch_every == 0) or done == recipe.steps)
        if watched:
            for key, seen in _watch(watch, wrapped, done).items():
                if isinstance(seen, Tensor):
                    film[key] = torch.cat([film[key], seen[None].cpu()]) if key in film else seen[None].cpu()
                else:
                    row[key] = seen
        if watched or done % log_every == 0 or done == recipe.steps:
            history.append(row)
            bar.set_postfix({k: f"{v:.4g}" for k, v in row.items() if k != "step"})
        if state and (done % save_every == 0 or done == recipe.steps):
            _save_state(state, model, optimiser, recipe, done, history, film)
            last_good = f"{state} (step {done})"
    return history, film


def load_or_train(
    name: str,
    build: Callable[[], nn.Module],
    train: Callable[[nn.Module, Path], tuple[list[dict[str, float]], dict[str, Tensor]]],
    config: dict[str, Any],
    data: str,
) -> Run:
    """Load the checkpoint `name` when its recorded configuration and data match; otherwise train and keep it.

    Introduced in notebooks/ex_slot1.ipynb. Looked for in the run's output folder first, then among the committed ones.
    A committed checkpoint is never overwritten by a run with other settings: new ones go to the output folder.

    Args:
        build: makes the model, from torch's generator, which is seeded with `config["seed"]` here.
        train: `train(model, state)` trains in place, resuming from the path `state`, and returns the history and
            tensors worth keeping.
        config: everything that makes the run what it is, JSON-able; compared exactly.
        data: fingerprint of the data.
    """
    torch.manual_seed(config["seed"])
    model = build()
    wanted = {"config": config, "data": data}
    for folder in (results.out() / "checkpoints", ROOT / "checkpoints"):
        path = folder / f"{name}.safetensors"
        if not path.exists():
            continue
        tensors, header = checkpoints.load(path)
        if {k: header.get(k) for k in wanted} == wanted:
            model.load_state_dict({k[6:]: v.float() for k, v in tensors.items() if k.startswith("model.")})
            return Run(model.eval(), header, {k[6:]: v for k, v in tensors.items() if k.startswith("extra.")})
    path = results.out() / "checkpoints" / f"{name}.safetensors"
    state = path.with_suffix(".state.safetensors")
    begun = time.monotonic()
    history, extra = train(model, state)
    header = wanted | {
        "seed": config["seed"],
        "history": history,
        "metrics": history[-1],
        "seconds": round(time.monotonic() - begun, 1),
        "device": results.device_name(next(model.parameters()).device),
        "versions": results.versions(),
    }
    # What is measured from here on is what is on disk: weights pass through half precision in both branches.
    weights = checkpoints.half(model.cpu().state_dict())
    checkpoints.save(
        path, {f"model.{k}": v for k, v in weights.items()} | {f"extra.{k}": v for k, v in extra.items()}, header
    )
    state.unlink(missing_ok=True)
    model.load_state_dict({k: v.float() for k, v in weights.items()})
    return Run(model.eval(), header, extra)


def _accelerator(device: str) -> str:
    if device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("device is cuda, but torch sees no GPU; install a CUDA build, or set device to cpu or auto")
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device is {device!r}; choose auto, cpu or cuda")
    return device


def _watch(watch: Callable[[nn.Module, int], dict], model: nn.Module, step: int) -> dict[str, float | Tensor]:
    model.eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        row = watch(model, step)
    model.train()
    return row


def _save_state(path: Path, model: nn.Module, optimiser, recipe: Recipe, step: int, history: list, film: dict) -> None:
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()} | {f"film.{k}": v for k, v in film.items()}
    for i, values in optimiser.state_dict()["state"].items():
        tensors |= {f"adam.{i}.{k}": torch.as_tensor(v) for k, v in values.items()}
    checkpoints.save(path, tensors, {"recipe": asdict(recipe), "step": step, "history": history})


def _resume(path: Path, model: nn.Module, optimiser, recipe: Recipe) -> tuple[int, list, dict[str, Tensor]]:
    if not path.exists():
        return 0, [], {}
    tensors, header = checkpoints.load(path)
    if header.get("recipe") != asdict(recipe):
        raise CheckpointError(f"{path} was written by another recipe ({header.get('recipe')}); delete it to start over")
    model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("adam."):
            _, i, name = key.split(".")
            state.setdefault(int(i), {})[name] = value
    optimiser.load_state_dict(optimiser.state_dict() | {"state": state})
    return header["step"], header["history"], {k[5:]: v for k, v in tensors.items() if k.startswith("film.")}
