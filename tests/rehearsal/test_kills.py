"""Random kills: whatever is killed, wherever it is, is begun again and ends with the same bits, and leaves nothing.

Children are forked, which takes milliseconds where a start of Python takes seconds, so that many can be killed.
"""

import functools
import hashlib
import io
import json
import multiprocessing
import os
import random
import shutil
import signal
import tarfile
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lib import ROOT, checkpoints, features, files, sweeps, training
from lib.data import download, fetch
from lib.features import Split
from lib.training import Recipe

KILLS = 40  # of each kind, five kinds
fork = multiprocessing.get_context("fork")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads of a pool do not come along into a forked child."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def quietly(work, *arguments):
    """Run in a child that is a session of its own, so that nobody else is killed."""
    os.setsid()
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        work(*arguments)
    os._exit(0)


def survive(work, look, kills=KILLS, seed=0):
    """Kill `work()` at random moments until it was hit `kills` times, then let it end.

    `look(ended)` is called after each; where the work ended it removes what was made, so that it is begun anew.

    A kill may come at any moment from the start to a little after the end of what is left to do, which is timed first.
    """
    draw, hit, begun = random.Random(seed), 0, time.monotonic()
    end(work)
    longest = time.monotonic() - begun
    look(True)
    while hit < kills:
        child = fork.Process(target=quietly, args=(work,))
        child.start()
        child.join(draw.uniform(0, 1.1 * longest))
        if child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
            hit += 1
        child.join()
        assert child.exitcode in (0, -signal.SIGKILL), child.exitcode
        look(child.exitcode == 0)
    end(work)


def end(work):
    """Let a child do the work undisturbed: who forks has no threads of its own, not those of torch either."""
    child = fork.Process(target=quietly, args=(work,))
    child.start()
    child.join(300)
    if child.is_alive():
        os.kill(child.pid, signal.SIGKILL)
    assert child.exitcode == 0


def left_over(folder):
    """Files that have no business there when all is done; locks are kept."""
    names = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    return [n for n in names if ".tmp" in n or n.endswith((".part", ".state.safetensors"))]


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.slow
def test_a_training(tmp_path, monkeypatch):
    """State at every step, and the checkpoint at the end: same weights and history as of a run that nobody killed."""
    monkeypatch.setattr(training, "SAVE_EVERY", 0)
    monkeypatch.setenv("SLOTS_OUT", str(tmp_path / "undisturbed"))
    recipe, inputs = Recipe(30, batch=4, lr=1e-2, warmup=5), torch.randn(64, 16, generator=torch.manual_seed(1))

    def build():
        return torch.nn.Sequential(torch.nn.Linear(16, 64), torch.nn.Dropout(0.5), torch.nn.Linear(64, 16))

    def loss(net, step):
        batch = inputs[training.indices(recipe, step, len(inputs))]
        return (net(batch) - batch).square().mean(), {}

    def train(net, state):
        return training.fit(net, loss, recipe, state=state, device="cpu", label="killed")

    def work():
        training.load_or_train("killed", build, train, recipe, {}, "data")

    def finished():
        return list((ROOT / os.environ["SLOTS_OUT"] / "checkpoints").glob("killed-??????.safetensors"))

    end(work)
    (whole,) = finished()
    monkeypatch.setenv("SLOTS_OUT", str(tmp_path / "killed"))
    folder, seen = tmp_path / "killed" / "checkpoints", []

    def look(ended):
        for path in folder.glob("*.safetensors"):
            checkpoints.load(path)  # whole
        if ended:
            (path,) = finished()
            seen.append(load_file(path))
            path.unlink()

    survive(work, look)
    (path,) = finished()
    wanted, header = checkpoints.load(whole)
    assert checkpoints.load(path)[1]["history"] == header["history"]
    for tensors in (*seen, load_file(path)):
        assert tensors.keys() == wanted.keys() and all(torch.equal(tensors[k], wanted[k]) for k in wanted)
    assert not left_over(tmp_path / "killed")


def measure(a, seed):
    time.sleep(0.002)
    return {"score": a * seed, "list": list(range(200))}


@pytest.mark.slow
def test_a_sweep(tmp_path, monkeypatch):
    """Rows that were measured stay, each whole; in the end there are all of them and nothing else."""
    monkeypatch.setenv("SLOTS_OUT", str(tmp_path))
    grid, folder = sweeps.product({"a": list(range(6)), "seed": [0, 1, 2]}), tmp_path / "sweeps" / "killed"
    work = functools.partial(sweeps.run, measure, grid, name="killed", data="d")

    def look(ended):
        rows = [json.loads(p.read_text()) for p in folder.glob("*.json")]
        assert all(row["metrics"]["score"] == row["params"]["a"] * row["params"]["seed"] for row in rows)
        if ended:
            for path in folder.glob("*.json"):
                path.unlink()

    survive(work, look)
    assert len(list(folder.glob("*.json"))) == len(grid) and not left_over(folder)


class Patches(torch.nn.Module):
    """A stand-in for a backbone: the mean colours of 8 px patches."""

    name, strides, dim = "patches", (8,), 3

    def __init__(self):
        super().__init__()
        self.register_buffer("place", torch.ones(1))  # says on which device it is

    def forward(self, images):
        return torch.nn.functional.avg_pool2d(images, 8).flatten(2).mT, (images.shape[-2] // 8,) * 2


class Scenes:
    """Scenes of noise, as a dataset of MOVi-A gives them."""

    name, split, frames, fingerprint = "noise", "train", None, "abc"

    def __len__(self):
        return 12

    def __getitem__(self, i):
        video = np.random.default_rng(i).integers(0, 256, (4, 64, 64, 3), np.uint8)
        return type("Scene", (), {"video": video, "masks": video[..., 0]})


@pytest.mark.slow
def test_cached_tokens(tmp_path, monkeypatch):
    """The file of tokens is there whole, with its description, or not at all."""
    monkeypatch.setattr(features, "FOLDER", tmp_path / "undisturbed")
    work = lambda: Split(Scenes(), Patches(), 64, 8).features  # noqa: E731
    end(work)
    wanted = digest(next((tmp_path / "undisturbed").glob("*.npy")))
    monkeypatch.setattr(features, "FOLDER", tmp_path / "killed")

    def look(ended):
        for path in (tmp_path / "killed").glob("*.npy"):
            assert digest(path) == wanted and path.with_suffix(".json").exists()
            if ended:
                path.unlink()

    survive(work, look)
    (path,) = (tmp_path / "killed").glob("*.npy")
    names = {p.name for p in (tmp_path / "killed").iterdir()}
    assert digest(path) == wanted and names <= {path.with_suffix(s).name for s in (".npy", ".json", ".lock")}


@pytest.mark.slow
def test_a_download(tmp_path, monkeypatch, server):
    """An archive that is fetched and unpacked: its folder appears whole, and no part stays."""
    content, buffer = {f"{i}.png": random.Random(i).randbytes(60_000) for i in range(24)}, io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for kind in ("images", "annotations"):
            for name, data in content.items():
                info = tarfile.TarInfo(f"train/{kind}/{name}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    data = buffer.getvalue()
    server.content["streethazards_train.tar"] = data
    monkeypatch.setattr(fetch, "WAIT", 0.01)
    monkeypatch.setattr(download, "STREET_PARTS", {"train": (hashlib.md5(data).hexdigest(), len(data))})
    monkeypatch.setattr(download, "STREET_SERVER", server.address)
    target = tmp_path / "streethazards" / "train"

    def work():
        download.download_streethazards(("train",), tmp_path)

    def whole():
        return all((target / k / n).read_bytes() == d for k in ("images", "annotations") for n, d in content.items())

    def look(ended):
        assert not target.exists() or whole()
        if ended:
            assert whole()
            shutil.rmtree(target)

    survive(work, look)
    names = [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()]
    assert whole() and [n for n in names if not n.startswith("streethazards/train/")] in ([], [".streethazards.lock"])


@pytest.mark.slow
def test_a_result_file(tmp_path):
    """Whoever reads sees an old file or a new one."""
    path = tmp_path / "results" / "x.json"
    versions = [{"version": i, "rows": [i] * 20_000} for i in range(5)]

    def work():
        for version in versions:
            files.write(path, version)

    survive(work, lambda ended: not path.exists() or json.loads(path.read_text()) in versions or pytest.fail("half"))
    assert json.loads(path.read_text()) == versions[-1] and [p.name for p in path.parent.iterdir()] == ["x.json"]
