"""`fit` trains, stops in time and resumes to the bit after a real kill; `load_or_train` loads only what matches."""

import io
import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from tqdm.auto import tqdm

from lib import checkpoints, provenance, sweeps, training
from lib.checkpoints import CheckpointError
from lib.models.dinosaur import Dinosaur
from lib.studies.objects.experiment import TrainConfig, objective
from lib.training import Recipe, State, fit, indices, load_or_train

DATA = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 1))


def loss_of(recipe, nap=0.0):
    def loss(net, step):
        time.sleep(nap)
        x = DATA[indices(recipe, step, len(DATA))]
        return (net(x) - x.sum(1, keepdim=True)).pow(2).mean(), {"batch_mean": float(x.mean())}

    return loss


def test_it_learns_and_keeps_a_history(monkeypatch):
    monkeypatch.setattr(training, "LOG_EVERY", 50)
    recipe = Recipe(steps=200, lr=1e-2, warmup=10)
    history = fit(model(), loss_of(recipe), recipe, device="cpu").history
    assert [row["step"] for row in history] == [50, 100, 150, 200]
    assert history[-1]["loss"] < 0.5 * history[0]["loss"] and "batch_mean" in history[0]


@pytest.mark.parametrize(("disabled", "long", "said"), [(False, -1.0, True), (False, 1e9, False), (True, -1.0, False)])
def test_a_long_training_is_told_by_its_first_steps_where_somebody_looks(
    tmp_path, monkeypatch, capsys, disabled, long, said
):
    monkeypatch.setattr(training, "LONG", long)
    monkeypatch.setattr(training, "tqdm", partial(tqdm, disable=disabled, file=io.StringIO()))
    monkeypatch.chdir(tmp_path)
    recipe = Recipe(steps=60, warmup=10)
    fit(model(), loss_of(recipe), recipe, device="cpu", label="this one", state=State(tmp_path / "a" / "x.safetensors"))
    due = "this one: about 0.0 min more, kept every minute in a/x.safetensors; interrupt the kernel and run"
    assert capsys.readouterr().out == f"{due} the cell again to go on\n" * said, "once"
    fit(model(), loss_of(recipe), recipe, device="cpu", label="this one")
    assert (
        "kept at its end; interrupt the kernel and run the cell again to begin anew" in capsys.readouterr().out
    ) == said


def test_the_learning_rate():
    recipe = Recipe(steps=100, lr=1.0, warmup=10)
    assert recipe.lr_at(0) == pytest.approx(0.1) and recipe.lr_at(9) == pytest.approx(1.0)
    assert recipe.lr_at(55) == pytest.approx(0.5) and recipe.lr_at(99) < 0.001
    assert Recipe(steps=100, lr=1.0, warmup=10, schedule="constant").lr_at(99) == 1.0
    with pytest.raises(ValueError, match="cosine or constant"):
        Recipe(steps=1, warmup=0, schedule="linear").lr_at(0)


def test_gradients_are_clipped():
    """A loss a million times too large moves weights no further than Adam's step; without clipping v would explode."""
    seen = []

    class Spy(nn.Linear):
        def __init__(self):
            super().__init__(4, 1)
            self.weight.register_hook(lambda g: seen.append(g.norm().item()))

    spy, recipe = Spy(), Recipe(steps=1, warmup=0, clip=0.5)
    fit(spy, lambda net, s: (1e6 * net(DATA).pow(2).mean(), {}), recipe, device="cpu")
    assert seen[0] > 1e3 and spy.weight.grad.norm() <= 0.5 + 1e-4


def test_a_loss_that_is_not_finite_stops_with_step_and_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SAVE_EVERY", 0)
    recipe = Recipe(steps=20)
    state = tmp_path / "x.state.safetensors"

    def loss(net, step):
        value = net(DATA).pow(2).mean()
        return value * (float("nan") if step == 12 else 1), {}

    with pytest.raises(
        training.Diverged, match=r"nan at step 12; last good checkpoint: .*x.state.safetensors.*step 12"
    ):
        fit(model(), loss, recipe, state=State(state), device="cpu")
    assert checkpoints.load(state)[1]["step"] == 12


def test_the_host_waits_for_numbers_once_every_so_many_steps(monkeypatch):
    """Losses and statistics stay tensors in between, and what is logged is what they were at that step."""
    fetched, fetch = [], training._fetch
    monkeypatch.setattr(training, "_fetch", lambda losses, rest: fetched.append(len(losses)) or fetch(losses, rest))
    recipe = Recipe(steps=50, lr=1e-2, warmup=5)

    def loss(net, step):
        value, statistics = loss_of(recipe)(net, step)
        return value, statistics | {"double": value.double() + 1e-12, "number": 0.1 + step, "three": torch.tensor(3)}

    history = fit(model(), loss, recipe, device="cpu").history
    assert fetched == [20, 20, 10] and [row["step"] for row in history] == [20, 40, 50]
    assert [row["number"] for row in history] == [19.1, 39.1, 49.1] and history[0]["three"] == 3
    assert all(row["double"] == row["loss"] + 1e-12 for row in history)


def test_a_loss_that_is_not_finite_between_two_looks_names_its_step():
    def loss(net, step):
        return net(DATA).pow(2).mean() * (float("inf") if step == 7 else 1), {}

    with pytest.raises(training.Diverged, match="at step 7; last good checkpoint: none yet"):
        fit(model(), loss, Recipe(steps=50), device="cpu")


def test_seconds_are_the_least_of_three_after_one(monkeypatch):
    clock = iter([0, 9, 9, 12, 12, 14, 14, 18])  # 9 s, not counted, then 3, 2 and 4
    monkeypatch.setattr(training, "settled", lambda _: next(clock))
    assert training.seconds(lambda: None, training.place("cpu")) == 2


def test_the_peak_of_memory_is_that_since_the_reset():
    cpu = training.place("cpu")
    if "host_mb" not in training.peak_memory(cpu, reset=True):
        pytest.skip("this system does not forget peaks")
    before = training.peak_memory(cpu)["host_mb"]
    with mmap.mmap(-1, 2**26) as block:  # 64 MB from the system; what was freed before might be used again
        block.write(b"x" * 2**26)
    assert training.peak_memory(cpu)["host_mb"] - before > 50


def test_no_peak_is_told_where_the_system_ignores_the_reset(monkeypatch, tmp_path):
    monkeypatch.setattr(training, "PEAK_RESET", tmp_path / "clear_refs")  # takes what is written and does nothing
    training._peaks_are_forgotten.cache_clear()
    assert training.peak_memory(training.place("cpu"), reset=True) == {}
    training._peaks_are_forgotten.cache_clear()


def test_watching_does_not_disturb():
    recipe = Recipe(steps=30)
    alone, watched = model(), model()
    fit(alone, loss_of(recipe), recipe, device="cpu")

    def watch(net, step):
        assert not net.training and not torch.is_grad_enabled()
        return {"noise": float(torch.rand(())), "step_seen": step, "film": torch.full((2,), step)}

    history, film, _ = fit(watched, loss_of(recipe), recipe, device="cpu", watch=watch, watch_every=7)
    assert [r["step_seen"] for r in history if "step_seen" in r] == [7, 14, 21, 28, 30]
    assert film["film"].tolist() == [[s, s] for s in (7, 14, 21, 28, 30)]
    assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), watched.parameters(), strict=True))


def train_in_this_process(folder: Path, nap: float) -> None:
    """Run by the test below in a process of its own, which is killed once and started again."""
    training.SAVE_EVERY = 0
    recipe, net = Recipe(steps=60, lr=1e-2, warmup=5), model()
    history, film, _ = fit(
        net,
        loss_of(recipe, nap),
        recipe,
        state=State(folder / "state.safetensors"),
        device="cpu",
        watch=lambda _, step: {"film": torch.tensor(step)},
        watch_every=3,
    )
    checkpoints.save(folder / "final.safetensors", net.state_dict() | film, {"history": history})


def test_resume_after_kill_9_is_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SAVE_EVERY", training.SAVE_EVERY)  # set below, and put back
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    straight.mkdir(), killed.mkdir()
    train_in_this_process(straight, nap=0)

    def start(nap):
        code = f"import test_training as t, pathlib; t.train_in_this_process(pathlib.Path({str(killed)!r}), {nap})"
        here = Path(__file__).parent
        path = os.pathsep.join([str(here), str(here.parent)])
        return subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path})

    process = start(nap=0.05)
    deadline = time.monotonic() + 60
    while not (killed / "state.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not (killed / "final.safetensors").exists()
    step = checkpoints.load(killed / "state.safetensors")[1]["step"]
    assert 1 <= step < 60, "it was killed on the way"
    assert start(nap=0).wait() == 0
    (a, head_a), (b, head_b) = (checkpoints.load(f / "final.safetensors") for f in (straight, killed))
    assert all(torch.equal(a[k], b[k]) for k in a) and head_a["history"] == head_b["history"]


@pytest.mark.parametrize(
    "write",
    [
        lambda path: fit(model(), loss_of(Recipe(5)), Recipe(5), state=State(path), device="cpu"),
        lambda path: fit(model(), loss_of(Recipe(9)), Recipe(9), state=State(path, {"data": "b"}), device="cpu"),
        lambda path: checkpoints.save(path, {"model.0.weight": torch.ones(1)}, {"recipe": {"steps": 9}, "step": 3}),
        lambda path: path.write_bytes(b"half a file"),
    ],
    ids=["recipe", "data", "older design", "damaged"],
)
def test_a_state_of_another_run_is_not_gone_on_with(tmp_path, capsys, write):
    """The weights are those of a run that found no state, and one line says that it begins anew."""
    write(tmp_path / "state.safetensors")
    capsys.readouterr()
    resumed, alone, recipe = model(), model(), Recipe(steps=9)
    found = fit(
        resumed, loss_of(recipe), recipe, state=State(tmp_path / "state.safetensors", {"data": "a"}), device="cpu"
    )
    fit(alone, loss_of(recipe), recipe, device="cpu")
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), alone.parameters(), strict=True))
    assert len(found.history) == 1 and "begins anew" in capsys.readouterr().out


def interrupting(step, times=1):
    """A loss that sends SIGINT to its own process in one step, as a user's Ctrl-C would."""

    def loss(net, now):
        if now == step:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)
        return loss_of(Recipe(20))(net, now)

    return loss


def test_an_interrupt_ends_the_step_keeps_it_and_is_one_line(tmp_path):
    recipe, state, before = Recipe(steps=20), State(tmp_path / "x.state.safetensors"), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="interrupted at step 8; run again to go on") as stopped:
        fit(model(), interrupting(7), recipe, state=state, device="cpu", label="x")
    assert stopped.value._render_traceback_() == ["Interrupted: x: interrupted at step 8; run again to go on"]
    assert signal.getsignal(signal.SIGINT) is before  # which ignores interrupts where tests run in the background
    resumed, straight = model(), model()
    fit(resumed, loss_of(recipe), recipe, state=state, device="cpu")
    fit(straight, loss_of(recipe), recipe, device="cpu")
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), straight.parameters(), strict=True))


def test_a_second_interrupt_does_not_wait(tmp_path):
    with pytest.raises(training.Interrupted, match="nothing is kept"):
        fit(model(), interrupting(7, 2), Recipe(20), state=State(tmp_path / "x.safetensors"), device="cpu")
    assert not (tmp_path / "x.safetensors").exists()


TOKENS = torch.randn(4, 16, 6, generator=torch.Generator().manual_seed(1))


def slots(**how):
    """Slots on tokens, trained for four steps: the model and its losses."""
    torch.manual_seed(0)
    net = Dinosaur(6, num_slots=3, slot_dim=8, hidden_dim=8, iterations=1, frames=False)
    loss, recipe = (lambda net, step: objective(net, TOKENS, TrainConfig(sample=4))), Recipe(4, lr=1e-2, warmup=1)
    return net, [row["loss"] for row in fit(net, loss, recipe, device="cpu", **how).history]


@pytest.fixture
def every_step(monkeypatch):
    monkeypatch.setattr(training, "LOG_EVERY", 1)


def test_a_compiled_training_has_the_same_numbers(every_step, monkeypatch):
    eager, losses = slots()
    monkeypatch.setenv("SLOTS_COMPILE", "1")
    compiled, same = slots()
    if not training.compiles():
        pytest.skip("torch.compile does not work on this machine")
    assert losses == pytest.approx(same, rel=1e-5) and losses[0] != pytest.approx(losses[-1], rel=1e-3)
    assert eager.state_dict().keys() == compiled.state_dict().keys()
    torch.manual_seed(0)
    found = eager(TOKENS)
    torch.manual_seed(0)
    torch.testing.assert_close(compiled(TOKENS), found, rtol=1e-4, atol=1e-5)


def test_only_what_trains_is_compiled_and_only_while_it_does(every_step, monkeypatch):
    calls, seen = [], []
    monkeypatch.setattr(torch, "compile", lambda function, **_: lambda *a, **k: calls.append(1) or function(*a, **k))
    net, losses = slots()
    assert not calls, "nobody asked"
    monkeypatch.setenv("SLOTS_COMPILE", "1")
    watch = lambda net, step: seen.append(len(calls)) or (net(TOKENS) and {"calls": len(calls)})  # noqa: E731
    net, same = slots(watch=watch, watch_every=2)
    assert same == losses and len(calls) == 4 and seen == [2, 4]
    net(TOKENS)
    assert len(calls) == 4 and "forward" not in vars(net.attention)
    with training.compiled(net.train()):
        net.attention(net.encode(TOKENS), temperature=0.5)  # as a model of somebody else may call it
    assert len(calls) == 5


def test_a_header_says_compiled_only_of_what_was(house, monkeypatch):
    monkeypatch.setenv("SLOTS_COMPILE", "1")
    assert house().header["compiled"] is False, "nothing in it draws slots"
    net = Dinosaur(6, num_slots=3, slot_dim=8)
    assert training.compiled_parts(net) == [net.attention]
    monkeypatch.setenv("SLOTS_COMPILE", "0")
    assert not training.compiled_parts(net)


def test_what_cannot_be_compiled_trains_as_it_is(every_step, monkeypatch, capsys):
    def broken(function, **_):
        def call(*_):
            raise RuntimeError("no working C++ compiler\nand much more")

        return call

    _, losses = slots()
    monkeypatch.setenv("SLOTS_COMPILE", "1")
    monkeypatch.setattr(torch, "compile", broken)
    assert slots()[1] == losses and not training.compiles()
    assert capsys.readouterr().out == "training: torch.compile failed (RuntimeError); trains without it\n"
    assert slots()[1] == losses and not capsys.readouterr().out, "it is not tried again"


def test_a_state_is_kept_by_the_clock_and_seconds_add_up(tmp_path, monkeypatch):
    kept, clock, real = [], iter(range(0, 10_000, 25)), checkpoints.save
    monkeypatch.setattr(checkpoints, "save", lambda p, t, h: kept.append(h["step"]) or real(p, t, h))
    monkeypatch.setattr(training.time, "monotonic", lambda: next(clock))  # 25 s a step
    state, recipe = State(tmp_path / "x.safetensors"), Recipe(steps=20)
    with pytest.raises(KeyboardInterrupt):
        fit(model(), interrupting(7), recipe, state=state, device="cpu")
    assert kept == [3, 6, 8], "every 60 s, and on the interrupt"
    assert fit(model(), loss_of(recipe), recipe, state=state, device="cpu").seconds == 8 * 25 + 12 * 25 + 25


def test_one_process_trains_whatever_a_scheduler_has_started(monkeypatch):
    for key, value in {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "x", "SLURM_PROCID": "1", "SLURM_LOCALID": "1"}.items():
        monkeypatch.setenv(key, value)
    recipe = Recipe(steps=1)
    assert len(fit(model(), loss_of(recipe), recipe, device="cpu").history) == 1


def test_a_batch_of_one_is_refused_where_it_has_no_statistics():
    norm = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2))
    with pytest.raises(ValueError, match="batch of one.*use a batch of 2"):
        fit(norm, lambda net, s: (net(DATA[:1]).sum(), {}), Recipe(steps=1, batch=1), device="cpu")
    with pytest.raises(ValueError, match="steps is -1"):
        Recipe(steps=-1)


def test_an_apple_gpu_is_refused_by_name_and_never_picked(monkeypatch):
    """Fabric's own "auto" would train there, and results would call it "cpu"."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(ValueError, match="device is 'mps'; choose auto, cpu or cuda"):
        fit(model(), loss_of(Recipe(steps=1)), Recipe(steps=1), device="mps")
    net = model()
    fit(net, loss_of(Recipe(steps=1)), Recipe(steps=1))
    assert next(net.parameters()).device.type in ("cpu", "cuda")


@pytest.mark.parametrize(
    ("device", "message"), [("cuda", "no GPU"), ("gpu", "auto, cpu or cuda"), ("mps", "'mps'; choose")]
)
def test_a_device_that_is_not_there_is_an_error(device, message):
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises((RuntimeError, ValueError), match=message):
        fit(model(), loss_of(Recipe(steps=1)), Recipe(steps=1), device=device)


@pytest.fixture
def house(tmp_path, monkeypatch):
    """An output folder and a workbook without checkpoints; `run(...)` loads or trains "thing" and counts trainings."""
    monkeypatch.setenv("SLOTS_OUT", str(tmp_path / "out"))
    monkeypatch.setattr(training, "ROOT", tmp_path)
    monkeypatch.setattr(provenance, "revision", lambda: "abc")
    trained = []

    def run(seed=0, data="data 1", build=model, steps=20, **config):
        recipe = Recipe(steps=steps, lr=1e-2, seed=seed)

        def train(net, state):
            trained.append(state.path.name)
            found = fit(net, loss_of(recipe), recipe, state=state, device="cpu")
            return found._replace(film={"film": torch.arange(3)})

        return load_or_train("thing", build, train, recipe, config, data)

    run.trained, run.folder = trained, tmp_path / "out" / "checkpoints"
    return run


def test_load_or_train(house, capsys):
    first = house()
    assert "thing: trains 20 steps; there is no checkpoint of that name" in capsys.readouterr().out
    second, x = house(), DATA[:3]
    assert len(house.trained) == 1 and not capsys.readouterr().out, "the second time it is loaded"
    assert torch.equal(first.model(x), second.model(x)), "trained and loaded are the same, to the bit"
    assert second.history == first.history and torch.equal(second.extra["film"], torch.arange(3))
    assert first.header["compiled"] is False
    (file,) = house.folder.iterdir()
    assert file.name.startswith("thing-") and len(file.stem) == len("thing-") + 6, "no state left behind"
    house(seed=1)
    assert "has config.recipe.seed 0, here 1" in capsys.readouterr().out
    house(seed=1, data="data 2")
    house(area=(0.5, 1.0), precision="16-true")
    assert "config.area nothing, here [0.5, 1.0]; config.precision nothing, here 16-true" in capsys.readouterr().out
    house(area=(0.5, 1.0), precision="16-true")
    assert len(house.trained) == 4 and len(set(house.trained)) == 4, "another configuration has another state"
    assert len(list(house.folder.iterdir())) == 4, "and another file"


def test_who_comes_while_another_trains_waits_and_loads(house):
    """As where notebooks that share a model run at once."""
    both = threading.Barrier(2)

    def build():
        both.wait(timeout=60)
        return model()

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda _: house(build=build), range(2))
    told = [{k: v for k, v in run.header.items() if k != "revision"} for run in (one, other)]  # `save` adds that
    assert len(house.trained) == 1 and told[0] == told[1]
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True))


def test_a_killed_run_goes_on_only_with_the_same_configuration(house, monkeypatch, capsys):
    real = training.Fitted

    def killed(*_):
        raise OSError("killed")

    monkeypatch.setattr(training, "Fitted", killed)
    for settings in ({"area": 0.0}, {"area": 1.0}):
        with pytest.raises(OSError, match="killed"):
            house(**settings)
    monkeypatch.setattr(training, "Fitted", real)
    states = sorted(p.name for p in house.folder.glob("*.state.safetensors"))
    assert len(states) == 2, "each its own"
    capsys.readouterr()
    house(area=1.0)
    assert capsys.readouterr().out == "thing: goes on from step 20 of 20\n"
    assert len(list(house.folder.glob("*.state.safetensors"))) == 1


class Scaled(nn.Linear):
    """Stands for a model of `lib`: its settings are part of what it is."""

    def __init__(self, scale):
        super().__init__(4, 1)
        self.scale = scale

    def forward(self, x):
        return self.scale * super().forward(x)


Scaled.__module__ = "lib.models.pixel_autoencoder"  # whose code it is said to be of


def test_other_code_of_the_model_trains_anew_and_says_why(house, capsys, monkeypatch):
    house(build=lambda: Scaled(1.0))
    house(build=lambda: Scaled(1.0))
    assert len(house.trained) == 1
    capsys.readouterr()
    house(build=lambda: Scaled(25.0))
    assert len(house.trained) == 2 and "was trained by other code of the model" in capsys.readouterr().out


def test_other_code_of_the_training_is_loaded_and_told_until_all_is_measured_anew(house, monkeypatch):
    house()
    (path,) = house.folder.iterdir()
    tensors, header = checkpoints.load(path)
    checkpoints.save(path, tensors, header | {"code": header["code"] | {"training": "other"}})

    def trial(a):
        return {"loss": house().history[-1]["loss"]}

    (row,) = sweeps.run(trial, [{"a": 1}], name="s", data="d")
    assert len(house.trained) == 1 and row["note"] == "measured by other code" and row["code"].endswith("+")
    monkeypatch.setenv("SLOTS_REMEASURE", "1")
    (row,) = sweeps.run(trial, [{"a": 1}], name="s", data="d")
    assert len(house.trained) == 2 and not row["code"].endswith("+")
    assert checkpoints.load(path)[1]["code"]["training"] != "other"


def test_a_checkpoint_that_is_not_of_this_model_is_named(house):
    house()
    (path,) = house.folder.iterdir()
    tensors, header = checkpoints.load(path)
    checkpoints.save(path, tensors | {"model.0.weight": torch.ones(2, 2)}, header)
    with pytest.raises(CheckpointError, match=rf"{path.name} holds no weights of this model .*0.weight.*delete it"):
        house()


def test_no_steps_are_refused(house):
    with pytest.raises(ValueError, match="thing: steps is 0; train at least one"):
        house(steps=0)


def test_half_precision_keeps_what_it_cannot_hold():
    large = {"w": torch.ones(2), "v": torch.tensor([1.0, 7e4]), "n": torch.tensor(2**24 + 1), "none": torch.empty(0)}
    made = training.half(large)
    assert [made[k].dtype for k in large] == [torch.float16, torch.float32, torch.int64, torch.float16]
    counted = nn.BatchNorm1d(2)
    checkpoints.fill(counted, counted.state_dict() | {"num_batches_tracked": torch.tensor(2**24 + 1)}, Path("x"))
    assert counted.num_batches_tracked == 2**24 + 1


def test_numbers_of_numpy_are_kept_with_the_weights(house, monkeypatch):
    monkeypatch.setitem(
        globals(), "loss_of", lambda recipe: lambda net, s: (net(DATA).pow(2).mean(), {"a": np.float32(0.5)})
    )
    house()
    assert house().history[-1]["a"] == 0.5
