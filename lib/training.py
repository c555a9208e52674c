"""The training loop: one `fit` for every model, resumable to the bit.

Randomness of step `s` comes from `(seed, s)` alone: batches and noise are functions of the step, so a run that was
killed and resumed needs no generator state to go on exactly where it would have been.
"""

import math
import mmap
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pandas import json_normalize
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm.auto import tqdm

from lib import ROOT, checkpoints, files, parallel, provenance, results
from lib.checkpoints import CheckpointError, OneLine

SAVE_EVERY = 60.0  # seconds between two states of a run
LOG_EVERY = 20  # steps between two rows of its history
LONG = 30.0  # seconds of training that are said before they are spent


class Diverged(OneLine, RuntimeError):
    """The loss is not finite. The message names the step and the last good checkpoint."""


class Interrupted(OneLine, KeyboardInterrupt):
    """A training was interrupted; the message says where it goes on."""


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

    def __post_init__(self):
        if self.steps < 0 or self.batch < 1:
            raise ValueError(
                f"steps is {self.steps} and batch {self.batch}; train at least 0 steps of at least 1 sample"
            )

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


@dataclass(frozen=True)
class State:
    """Where a run keeps what it needs to go on, and what it must equal to be gone on with, in JSON."""

    path: Path
    about: dict[str, Any] = field(default_factory=dict)


class Fitted(NamedTuple):
    """What `fit` returns."""

    history: list[dict[str, float]]  # one row a logged step: step, loss and whatever the loss function reported
    film: dict[str, Tensor]  # what was watched, stacked over time
    seconds: float  # of training, over all resumed parts


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


def check_batch(model: nn.Module, batch: int) -> None:
    """Raises ValueError: a batch of one for a model with BatchNorm, which has no statistics of one value."""
    if batch == 1 and any(isinstance(m, _BatchNorm) for m in model.modules()):
        raise ValueError("a batch of one has no statistics for BatchNorm; use a batch of 2 or more")


def fit(
    model: nn.Module,
    loss: Callable[[nn.Module, int], tuple[Tensor, dict[str, float | Tensor]]],
    recipe: Recipe,
    *,
    state: State | None = None,
    device: str = "auto",
    watch: Callable[[nn.Module, int], dict[str, float | Tensor]] | None = None,
    watch_every: int = 0,
    label: str = "training",
    optimiser: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
) -> Fitted:
    """Train `model` in place.

    Introduced in notebooks/ex_slot1.ipynb. Under `torchrun` each process trains on its share of every batch, see
    `parallel`: they look, keep a state and stop together, at steps that are logged, and the first one writes.

    Args:
        model: moved to the device by Lightning Fabric, and left there.
        loss: `loss(model, step)` draws the batch of that step (see `indices`) and returns the loss and statistics to
            show, such as the entropy of the masks; tensors, which the host waits for no more than every `LOG_EVERY`
            steps.
        recipe: steps, rates, precision, seed.
        state: where to keep what a resumed run needs, every `SAVE_EVERY` seconds, on an interrupt and at the end; one
            that is there is resumed if it is of the same run.
        device: see `place`.
        watch: `watch(model, step)` every `watch_every` steps and at the end, in eval mode without gradients: slower
            measures on held-out data, joined to the history row of that step, and tensors such as masks for a film.
        optimiser: `optimiser(parameters, lr)`.

    Raises:
        Diverged: the loss is not finite.
        Interrupted: by the user, after the step that was under way; a second interrupt does not wait for its end.
        ValueError: a batch of one for a model with BatchNorm, or one that the processes cannot share.
    """
    check_batch(model, recipe.batch)
    fabric, alone = parallel.fabric(where := place(device), recipe.precision), parallel.size() == 1
    model = parallel.joined(model, where)
    wrapped, optimiser = fabric.setup(model, optimiser(model.parameters(), recipe.lr))
    about = {"recipe": asdict(recipe)} | (state.about if state else {})
    start, history, film, before = _resume(state.path, model, optimiser, about) if state else (0, [], {}, 0.0)
    begun = kept_at = time.monotonic()
    kept, losses, stop = start, [], False  # losses: since the host last waited for the device
    quiet = {"disable": True} if parallel.rank() else {}
    bar = tqdm(range(start, recipe.steps), initial=start, total=recipe.steps, desc=label, leave=False, **quiet)
    told = bar.disable  # headless there is nobody to tell
    try:
        with _patient() as asked, compiled(model, label):
            for step in bar:
                torch.manual_seed(recipe.seed * 1_000_003 + step)
                optimiser.param_groups[0]["lr"] = recipe.lr_at(step)
                with parallel.draws(recipe.batch):
                    value, statistics = loss(wrapped, step)
                optimiser.zero_grad()
                fabric.backward(value)
                fabric.clip_gradients(wrapped, optimiser, max_norm=recipe.clip, error_if_nonfinite=False)
                optimiser.step()
                done, now = step + 1, time.monotonic()
                losses.append(value.detach())
                watched = watch is not None and ((watch_every and done % watch_every == 0) or done == recipe.steps)
                logged = watched or done % LOG_EVERY == 0 or done == recipe.steps
                stop, late = bool(asked), now - kept_at >= SAVE_EVERY
                if not alone:
                    stop, late = logged and parallel.agreed(stop, where), logged and late
                due = state and (stop or late or done == recipe.steps)
                if logged or due:
                    seen, statistics = _fetch(losses, statistics)
                    if wrong := [i for i, x in enumerate(seen, done - len(seen)) if not math.isfinite(x)]:
                        raise Diverged(
                            f"{label}: the loss is {seen[wrong[0] - done]} at step {wrong[0]}; last good checkpoint: "
                            f"{f'{state.path} (step {kept})' if kept else 'none yet'}. "
                            f"Lower lr ({recipe.lr}) or clip ({recipe.clip}), or train in 32-true"
                        )
                    losses, row = [], {"step": done, "loss": seen[-1], **statistics}
                if watched:
                    for key, seen in _watch(watch, wrapped, done).items():
                        if isinstance(seen, Tensor):
                            film[key] = torch.cat([film[key], seen[None].cpu()]) if key in film else seen[None].cpu()
                        else:
                            row[key] = seen
                if logged:
                    history.append(row)
                    bar.set_postfix({k: f"{v:.4g}" for k, v in row.items() if k != "step"})
                    if not told and (left := (now - begun) / (done - start) * (recipe.steps - done)) > LONG:
                        bar.write(_ahead(label, left, state))
                    told = True
                if due:
                    header = about | {"step": done, "history": history, "seconds": before + now - begun}
                    if parallel.rank() == 0:
                        _save_state(state.path, model, optimiser, header, film)
                    kept, kept_at = done, now
                if stop:
                    break
            if stop or (alone and asked):
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        again = f"at step {kept}; run again to go on" if kept else "and nothing is kept; run again to begin anew"
        raise Interrupted(f"{label}: interrupted {again}") from None
    return Fitted(history, film, before + time.monotonic() - begun)


def _ahead(label: str, left: float, state: State | None) -> str:
    """What a training costs, and that it can be interrupted; by the first steps, so it is a guess."""
    kept = f"kept every minute in {os.path.relpath(state.path)}" if state else "kept at its end"
    again = "go on" if state else "begin anew"
    return f"{label}: about {left / 60:.1f} min more, {kept}; interrupt the kernel and run the cell again to {again}"


def place(device: str) -> torch.device:
    """The device by its name: "cpu", "cuda", or "auto", a GPU of CUDA where torch sees one and else the CPU.

    Raises:
        RuntimeError: there is no GPU; a named device that is missing is never replaced.
        ValueError: another name. Apple's MPS is not supported: it has no double precision, which measures need.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device is {device!r}; choose auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("device is cuda, but torch sees no GPU; install a CUDA build, or set device to cpu or auto")
    if device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ["LOCAL_RANK"])) if parallel.size() > 1 else torch.device("cuda")


def settled(device: torch.device, timer: Callable[[], float] = time.perf_counter) -> float:
    """The time, once the device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return timer()


def seconds(what: Callable[[], Any], device: torch.device) -> float:
    """Seconds that a call takes on a device: the least of three, after one that is not counted."""
    times = []
    for _ in range(4):
        begun = settled(device)
        what()
        times.append(settled(device) - begun)
    return min(times[1:])


def peak_memory(device: torch.device, reset: bool = False) -> dict[str, float]:
    """Peaks since the last reset: `host_mb`, resident and with mapped files; of a GPU `device_mb`.

    Without `host_mb` where the system counts no peak or does not forget it on demand, as in some containers.
    """
    found = {}
    if device.type == "cuda":
        found["device_mb"] = round(torch.cuda.max_memory_allocated(device) / 2**20)
        if reset:
            torch.cuda.reset_peak_memory_stats(device)
    if _peaks_are_forgotten():
        found["host_mb"] = _peak() // 2**20
        if reset:
            PEAK_RESET.write_text("5")
    return found


PEAK_RESET = Path("/proc/self/clear_refs")


def _peak() -> int:
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024


@lru_cache
def _peaks_are_forgotten() -> bool:
    """Tried with a block of 32 MB, because a system may take the reset and ignore it."""
    try:
        block = mmap.mmap(-1, 2**25)  # from the system, not from what is kept for reuse
        block.write(bytes(2**25))
        before = _peak()
        block.close()
        PEAK_RESET.write_text("5")
        return _peak() < before - 2**24
    except (OSError, IndexError):
        return False


def half(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Floats in half precision, but for tensors with values that it cannot hold; the rest as it is."""
    largest = torch.finfo(torch.float16).max
    small = {k for k, v in tensors.items() if v.is_floating_point() and (not v.numel() or v.abs().max() <= largest)}
    return {k: v.to(torch.float16) if k in small else v for k, v in tensors.items()}


def compiles() -> bool:
    """Whether trainings compile Slot Attention: `SLOTS_COMPILE=1`, set by `lib.run --compile`."""
    return os.environ.get("SLOTS_COMPILE") == "1"


def compiled_parts(model: nn.Module) -> list[nn.Module]:
    """The parts of a model that a training compiles: those that draw `initial_slots`, if `compiles()`."""
    return [part for part in model.modules() if hasattr(part, "initial_slots")] if compiles() else []


@contextmanager
def compiled(model: nn.Module, label: str = "training") -> Iterator[None]:
    """Within, `compiled_parts` of a model run as torch.compile makes them, where they train.

    The numbers are the same up to rounding: first slots are drawn outside of what is compiled,
    where they would be others. What cannot be compiled, one line says, and this process tries no more.
    """
    parts = compiled_parts(model)
    for part in parts:
        part.forward = partial(_compiled, part, part.forward, torch.compile(part.forward, dynamic=False), label)
    try:
        yield
    finally:
        for part in parts:
            del part.forward  # the class's own is seen again


def _compiled(
    part: nn.Module, eager: Callable, fast: Callable, label: str, inputs: Tensor, slots: Any = None, *rest: Any, **named
) -> Any:
    if not (part.training and compiles()):
        return eager(inputs, slots, *rest, **named)
    slots = part.initial_slots(len(inputs)) if slots is None else slots
    try:
        return fast(inputs, slots, *rest, **named)
    except Exception as error:
        found = eager(inputs, slots, *rest, **named)  # says what is wrong with the arguments, if it was they
        os.environ["SLOTS_COMPILE"] = "0"
        parallel.say(f"{label}: torch.compile failed ({type(error).__name__}); trains without it")
        return found


@contextmanager
def _patient() -> Iterator[list]:
    """Within, a first interrupt only makes the list non-empty, so that a step is whole; a second one interrupts."""
    asked: list[int] = []

    def later(*_: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(1)

    if threading.current_thread() is not threading.main_thread():  # no other is interrupted
        yield asked
        return
    usual = signal.signal(signal.SIGINT, later)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, usual or signal.default_int_handler)


def _fetch(losses: list[Tensor], statistics: dict[str, float | Tensor]) -> tuple[list[float], dict[str, float]]:
    """Numbers of what may lie on a device, means over processes; it is waited for once."""
    where = losses[0].device
    if parallel.size() > 1:
        statistics = {k: torch.as_tensor(v, dtype=torch.float64, device=where) for k, v in statistics.items()}
    tensors = {k: v.detach().to(where) for k, v in statistics.items() if isinstance(v, Tensor)}
    numbers = parallel.mean(torch.stack([*losses, *tensors.values()])).tolist()
    return numbers[: len(losses)], statistics | dict(zip(tensors, numbers[len(losses) :], strict=True))


def _watch(watch: Callable[[nn.Module, int], dict], model: nn.Module, step: int) -> dict[str, float | Tensor]:
    model.eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        row = watch(model, step)
    model.train()
    return row


def _save_state(path: Path, model: nn.Module, optimiser, header: dict[str, Any], film: dict[str, Tensor]) -> None:
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()} | {f"film.{k}": v for k, v in film.items()}
    for i, values in optimiser.state_dict()["state"].items():
        tensors |= {f"adam.{i}.{k}": torch.as_tensor(v) for k, v in values.items()}
    checkpoints.save(path, tensors, header)


def _resume(path: Path, model: nn.Module, optimiser, about: dict) -> tuple[int, list, dict[str, Tensor], float]:
    """Step, history, film and seconds so far; all begins anew, with a line that says so, if the state is another's."""
    fresh = (0, [], {}, 0.0)
    if not path.exists():
        return fresh
    try:
        tensors, header = checkpoints.load(path)
    except CheckpointError as error:
        parallel.say(f"{error}; training begins anew")
        return fresh
    if {k: header.get(k) for k in about} != about or not {"step", "history", "seconds"} <= header.keys():
        parallel.say(f"{path.name} is of another configuration, other data or other code; training begins anew")
        return fresh
    model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("adam."):
            _, i, name = key.split(".")
            state.setdefault(int(i), {})[name] = value
    optimiser.load_state_dict(optimiser.state_dict() | {"state": state})
    film = {k[5:]: v for k, v in tensors.items() if k.startswith("film.")}
    return header["step"], header["history"], film, header["seconds"]


def load_or_train(
    name: str,
    build: Callable[[], nn.Module],
    train: Callable[[nn.Module, State], Fitted],
    recipe: Recipe,
    config: dict[str, Any],
    data: str,
    device: str = "auto",
) -> Run:
    """Load the checkpoint of this configuration and these data if today's code gives its masks; else train and keep it.

    Introduced in notebooks/ex_slot1.ipynb. Its file is named after `name` and a hash of recipe, configuration and data,
    so no two runs share one, nor the state of one that was killed. Looked for in the run's output folder first, then
    among the committed ones, which a run elsewhere never overwrites. One line says what is trained, and why.

    Args:
        build: makes the model, from torch's generator, which is seeded with the recipe's seed here.
        train: `train(model, state)` trains in place, resuming from `state`.
        recipe: how it is trained.
        config: everything else that makes the run what it is, JSON-able.
        data: fingerprint of all data that enter, those that are only watched included.
        device: where the model is left, see `place`; `train` trains it there.

    Raises:
        CheckpointError: the file is damaged, or holds another model.
        ValueError: no steps, or a configuration that is not JSON.
    """
    if recipe.steps < 1:
        raise ValueError(f"{name}: steps is {recipe.steps}; train at least one")
    torch.manual_seed(recipe.seed)
    model = build()
    wanted = provenance.as_json(
        {"config": {"recipe": asdict(recipe), **config}, "data": data}, f"the configuration of {name}"
    )
    stamps = {"model": provenance.code_of_model(model, build), "training": provenance.code(train)}
    file = f"{name}-{provenance.short(wanted)[:6]}.safetensors"
    folders = (results.out() / "checkpoints", ROOT / "checkpoints")
    where, path, why = place(device), folders[0] / file, ""

    def kept() -> Run | None:
        nonlocal why
        of_backbones = folders[1] / f"{name}.safetensors"
        for path in (*(folder / file for folder in folders), of_backbones):
            header = checkpoints.about(path) if path.exists() else {}
            if path.exists() and not header:
                checkpoints.load(path)  # says what is wrong with it
            if {k: header.get(k) for k in wanted} != wanted:
                continue
            made = header["code"] if isinstance(header.get("code"), dict) else {}
            if made.get("model") != stamps["model"]:
                why = f"{path.name} was trained by other code of the model"
            elif made.get("training") != stamps["training"] and provenance.remeasure():
                why = f"{path.name} was trained by other code"
            else:
                if made.get("training") != stamps["training"] and provenance.FOREIGN.get() is not None:
                    provenance.FOREIGN.get().append(path.name)
                tensors, header = checkpoints.load(path)
                checkpoints.fill(model, {k[6:]: v for k, v in tensors.items() if k.startswith("model.")}, path)
                extra = {k[6:]: v for k, v in tensors.items() if k.startswith("extra.")}
                return Run(model.to(where).eval(), header, extra)
        return None

    if parallel.size() == 1 and (found := kept()):
        return found
    lock = files.lock(results.out() / "sweeps" / "locks" / file, wait=True) if parallel.rank() == 0 else nullcontext()
    with lock:  # another process may be training it
        parallel.wait(where)
        if found := kept():
            return found
        state = State(path.with_suffix(".state.safetensors"), wanted | {"code": stamps})
        begun = checkpoints.about(state.path)
        if begun.items() >= state.about.items():
            parallel.say(f"{name}: goes on from step {begun['step']} of {recipe.steps}")
        else:
            parallel.say(f"{name}: trains {recipe.steps} steps; {why or _nearest(name, folders, wanted)}")
        peak_memory(where, reset=True)
        history, extra, spent = train(model, state)
        header = wanted | {
            "code": stamps,
            "seed": recipe.seed,
            "history": history,
            "metrics": history[-1],
            "seconds": round(spent, 1),
            "device": results.device_name(next(model.parameters()).device),
            "processes": parallel.size(),
            "compiled": bool(compiled_parts(model)),
            **peak_memory(where),
            "versions": results.versions(),
        }
        # What is measured from here on is what is on disk: weights pass through half precision in both branches.
        weights = half({k: v.cpu() for k, v in model.state_dict().items()})
        if parallel.rank() == 0:
            tensors = {f"model.{k}": v for k, v in weights.items()} | {f"extra.{k}": v for k, v in extra.items()}
            checkpoints.save(path, tensors, header)
            state.path.unlink(missing_ok=True)
        parallel.wait(where)  # all find it from here on
        checkpoints.fill(model, weights, path)
        return Run(model.to(where).eval(), header, extra)


def _nearest(name: str, folders: tuple[Path, ...], wanted: dict[str, Any]) -> str:
    """In what the most similar checkpoint of that name differs."""
    found = {p: checkpoints.about(p) for f in folders for p in sorted(f.glob(f"{name}-??????.safetensors"))}
    differences = {}
    for path, header in found.items():
        a, b = (json_normalize({k: h.get(k) for k in wanted}).iloc[0].to_dict() for h in (header, wanted))
        keys = [k for k in {**a, **b} if a.get(k) != b.get(k)]
        differences[path] = [f"{k} {a.get(k, 'nothing')!s:.40}, here {b.get(k, 'nothing')!s:.40}" for k in keys]
    if not differences:
        return "there is no checkpoint of that name"
    path = min(differences, key=lambda p: len(differences[p]))
    more = len(differences[path]) - 3
    return f"{path.name} has {'; '.join(differences[path][:3])}{f' and {more} more' if more > 0 else ''}"
