"""Two processes train as one: the same losses but for the order of sums, interrupted and resumed."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from lib import ROOT, checkpoints, parallel, run, sweeps, training

TRAIN = """
import os, signal, sys
from types import SimpleNamespace

import numpy as np
import torch

from lib import parallel, training
from lib.data import shapes
from lib.features import Features
from lib.studies import pixels
from lib.studies.objects import experiment, tracking
from lib.training import Recipe

training.LOG_EVERY = 2
RECIPE = Recipe(12, batch=4, lr=1e-2, warmup=2)
tokens = np.random.default_rng(0).normal(size=(3, 6, 64, 12)).astype(np.float16)


class Interrupting(Features):
    asked = 0

    def batch(self, index):
        Interrupting.asked += 1
        if Interrupting.asked == 5 and parallel.rank() == 1:  # only one of two is told
            os.kill(os.getpid(), signal.SIGINT)
        return super().batch(index)


known = Interrupting(tokens, (8, 8), torch.zeros(12), torch.ones(12), {"grid": 8})
data = SimpleNamespace(features=known, dim=12, count=18, about={"grid": 8}, fingerprint="noise")
small = {"num_slots": 3, "slot_dim": 16}


def slots():
    return experiment.train("slots", data, experiment.ImageConfig(model=small, sample=8), RECIPE, device="cpu")


def clips():
    return tracking.train("clips", data, tracking.ClipConfig(model=small, sample=8), RECIPE, device="cpu")


def colours():
    squares = shapes.Shapes(8, size=16, seed=0)
    held_out = {"held_out": (squares.tensors[0], None), "data": "shapes", "device": "cpu"}
    return pixels.train("colours", squares, pixels.Config(slots=3, jitter=1.0), RECIPE, **held_out)


if __name__ == "__main__":
    parallel.wait(torch.device("cpu"))
    rank = parallel.rank()  # one thing of 1, and three of 4
    average = parallel.average(torch.tensor([1.0, 12.0][rank]), torch.tensor([1, 3][rank]))
    print(f"rank {rank}: mean {parallel.mean(average):.2f}", flush=True)
    try:
        slots()
    except training.Interrupted as interrupted:
        print(f"rank {parallel.rank()}: {interrupted}", flush=True)
    slots()
    clips()
    colours()
"""


@pytest.fixture
def second(monkeypatch):
    """As the second of two processes, without the first."""
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": "1"}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.slow  # several processes: `make rehearse`
def test_two_processes_train_as_one(tmp_path, monkeypatch):
    path = tmp_path / "train.py"
    path.write_text(TRAIN)
    own = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]), "OMP_NUM_THREADS": "1"}
    own |= {"SLOTS_OUT": str(tmp_path / "two"), "TQDM_DISABLE": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(path)]
    said = subprocess.run(command, env=os.environ | own, capture_output=True, text=True, timeout=500)
    assert said.returncode == 0, said.stderr
    for rank in (0, 1):  # no lines: what two processes print at once may share one
        assert f"rank {rank}: slots: interrupted at step 6; run again to go on" in said.stdout, "both after one step"
        assert f"rank {rank}: mean 3.25" in said.stdout
    assert said.stdout.count("slots: goes on from step 6 of 12") == 1

    monkeypatch.setenv("SLOTS_OUT", str(tmp_path / "one"))
    script = {"__name__": "script", "__file__": str(path)}
    exec(compile(TRAIN, str(path), "exec"), script)
    monkeypatch.setattr(training, "LOG_EVERY", 2)
    for name in ("slots", "clips", "colours"):
        one = script[name]()
        (kept,) = (tmp_path / "two" / "checkpoints").glob(f"{name}-*.safetensors")
        header = checkpoints.about(kept)
        assert header["processes"] == 2 and len(header["history"]) == 6 and one.header["processes"] == 1
        for a, b in zip(one.history, header["history"], strict=True):
            assert a == pytest.approx(b, rel=1e-4), name
    assert not list((tmp_path / "two").rglob("*.state.safetensors"))


def test_noise_of_a_share_is_that_of_the_whole_batch(second):
    draw = {
        "randn": lambda n: torch.randn(n, 3),
        "rand": lambda n: torch.rand(torch.Size([n, 3]), dtype=torch.float64),
        "dropout": lambda n: nn.Dropout(0.5)(torch.arange(3.0 * n).view(n, 3) + 1 + 3 * (4 - n)),
        "dropout2d": lambda n: nn.Dropout2d(0.5)(torch.ones(n, 3, 2, 2)),
        "paths": lambda n: torch.empty(n, 1).bernoulli_(0.5),
    }
    for name, make in draw.items():
        torch.manual_seed(0)
        whole = make(4)
        torch.manual_seed(0)
        with parallel.draws(4):
            part = make(2)
            other = torch.rand(5)
        assert torch.equal(part, whole[2:]), name
        assert torch.equal(other, torch.rand(5)) is False and len(other) == 5
    torch.manual_seed(0)
    alone = torch.randn(2, 3)
    torch.manual_seed(0)
    assert torch.equal(torch.randn(2, 3), alone) and parallel.shared([0, 1, 2, 3]) == [2, 3]


def test_what_cannot_be_shared_is_refused(second):
    with pytest.raises(ValueError, match="a batch of 5 has no equal parts for 2 processes"):
        parallel.shared(range(5))
    with pytest.raises(ValueError, match="BatchNorm has statistics of the whole batch on GPUs alone"):
        parallel.joined(nn.Sequential(nn.BatchNorm1d(3)), torch.device("cpu"))
    joined = parallel.joined(nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1)), torch.device("cuda"))
    assert isinstance(joined[0], nn.SyncBatchNorm)
    with pytest.raises(RuntimeError, match="rows are shared by the workers of lib.run"):
        sweeps.run(lambda a: {}, [{"a": 1}], name="t", data="d")


def test_notebooks_are_not_started_by_torchrun(second, capsys):
    assert run.main([]) == 2
    assert "notebooks share devices with --workers" in capsys.readouterr().err
