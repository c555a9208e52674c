"""`fit` trains, stops in time and resumes to the bit after a real kill; `load_or_train` loads only what matches."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from lib import checkpoints, training
from lib.checkpoints import CheckpointError
from lib.training import Recipe, fit, indices, load_or_train

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


def test_it_learns_and_keeps_a_history():
    recipe = Recipe(steps=200, lr=1e-2, warmup=10)
    history, _ = fit(model(), loss_of(recipe), recipe, log_every=50, device="cpu")
    assert [row["step"] for row in history] == [50, 100, 150, 200]
    assert history[-1]["loss"] < 0.5 * history[0]["loss"] and "batch_mean" in history[0]


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


def test_a_loss_that_is_not_finite_stops_with_step_and_checkpoint(tmp_path):
    recipe = Recipe(steps=20)
    state = tmp_path / "x.state.safetensors"

    def loss(net, step):
        value = net(DATA).pow(2).mean()
        return value * (float("nan") if step == 12 else 1), {}

    with pytest.raises(
        training.Diverged, match=r"nan at step 12; last good checkpoint: .*x.state.safetensors.*step 10"
    ):
        fit(model(), loss, recipe, state=state, save_every=5, device="cpu")
    assert checkpoints.load(state)[1]["step"] == 10


def test_watching_does_not_disturb():
    recipe = Recipe(steps=30)
    alone, watched = model(), model()
    fit(alone, loss_of(recipe), recipe, device="cpu")

    def watch(net, step):
        assert not net.training and not torch.is_grad_enabled()
        return {"noise": float(torch.rand(())), "step_seen": step, "film": torch.full((2,), step)}

    history, film = fit(watched, loss_of(recipe), recipe, device="cpu", watch=watch, watch_every=7)
    assert [r["step_seen"] for r in history if "step_seen" in r] == [7, 14, 21, 28, 30]
    assert film["film"].tolist() == [[s, s] for s in (7, 14, 21, 28, 30)]
    assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), watched.parameters(), strict=True))


def train_in_this_process(folder: Path, nap: float) -> None:
    """Run by the test below in a process of its own, which is killed once and started again."""
    recipe, net = Recipe(steps=60, lr=1e-2, warmup=5), model()
    history, film = fit(
        net,
        loss_of(recipe, nap),
        recipe,
        state=folder / "state.safetensors",
        save_every=7,
        device="cpu",
        watch=lambda _, step: {"film": torch.tensor(step)},
        watch_every=3,
    )
    checkpoints.save(folder / "final.safetensors", net.state_dict() | film, {"history": history})


def test_resume_after_kill_9_is_bit_for_bit(tmp_path):
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
    assert 7 <= step < 60, "it was killed on the way"
    assert start(nap=0).wait() == 0
    (a, head_a), (b, head_b) = (checkpoints.load(f / "final.safetensors") for f in (straight, killed))
    assert all(torch.equal(a[k], b[k]) for k in a) and head_a["history"] == head_b["history"]


def test_a_state_of_another_recipe_is_refused(tmp_path):
    state = tmp_path / "state.safetensors"
    fit(model(), loss_of(Recipe(steps=5)), Recipe(steps=5), state=state, device="cpu")
    with pytest.raises(CheckpointError, match="another recipe.*delete it"):
        fit(model(), loss_of(Recipe(steps=9)), Recipe(steps=9), state=state, device="cpu")


@pytest.mark.parametrize(("device", "message"), [("cuda", "no GPU"), ("gpu", "auto, cpu or cuda")])
def test_a_device_that_is_not_there_is_an_error(device, message):
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises((RuntimeError, ValueError), match=message):
        fit(model(), loss_of(Recipe(steps=1)), Recipe(steps=1), device=device)


def test_load_or_train(tmp_path, monkeypatch):
    monkeypatch.setenv("SLOTS_OUT", str(tmp_path))
    trained = []

    def train(net, state):
        trained.append(1)
        recipe = Recipe(steps=20, lr=1e-2)
        history, _ = fit(net, loss_of(recipe), recipe, state=state, device="cpu")
        return history, {"film": torch.arange(3)}

    def run(seed=0, data="data 1"):
        return load_or_train("thing", model, train, {"seed": seed, "steps": 20}, data)

    first, second = run(), run()
    assert len(trained) == 1, "the second time it is loaded"
    x = DATA[:3]
    assert torch.equal(first.model(x), second.model(x)), "trained and loaded are the same, to the bit"
    assert second.history == first.history and torch.equal(second.extra["film"], torch.arange(3))
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["thing.safetensors"], "no state left behind"
    run(seed=1)
    run(seed=1, data="data 2")
    assert len(trained) == 3, "another configuration or other data is trained"
