"""A plan follows the code that trains, and says what a run would lack before it starts."""

import ast
from dataclasses import asdict
from functools import partial

import nbformat
import numpy as np
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook

from lib import checkpoints, plan, run
from lib.models.weights import WeightsError
from lib.training import Recipe, State

CODE = """
from lib import sweeps, plots
start = make(width)
nets = [n for n in names]
def train(net, seed):
    return start(net, seed, LATER)
def trial(net, seed):
    return look(train(net, seed))
def rows_of(name, grid):
    return sweeps.rows(name, trial, grid, "data")
LATER = {}
LATER["steps"] = 3
grid = []
for seed in seeds:
    grid.append({"net": nets[0], "seed": seed})
plots.save(draw(nets), "before")
found = table(rows_of("first", grid))
nets = summary(found)
runs += shown(sweeps.rows("second", trial, [{"seed": s} for s in seeds], "data"))
s = "figure"
plots.save(draw(s), "after")
"""


def test_of_a_notebook_is_followed_what_its_sweeps_rest_on():
    kept = [ast.unparse(statement) for statement in plan.followed(ast.parse(CODE))]
    assert [text.splitlines()[0] for text in kept] == [
        "from lib import sweeps, plots",
        "start = make(width)",
        "nets = [n for n in names]",
        "def train(net, seed):",
        "def trial(net, seed):",
        "def rows_of(name, grid):",
        "LATER = {}",
        "LATER['steps'] = 3",
        "grid = []",
        "for seed in seeds:",
        "rows_of('first', grid)",
        "sweeps.rows('second', trial, [{'seed': s} for s in seeds], 'data')",
    ]


@pytest.mark.parametrize("name", run.series())
def test_every_sweep_of_the_real_notebooks_is_followed(name):
    code = "\n".join(c.source for c in nbformat.read(run.NOTEBOOKS / f"{name}.ipynb", 4).cells if c.cell_type == "code")
    kept = "\n".join(ast.unparse(statement) for statement in plan.followed(ast.parse(code)))
    tree = ast.parse(code)
    calls = [ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) == "sweeps.rows"]
    assert calls and all(call in kept for call in calls)
    assert "plots.save" not in kept and "results.write" not in kept


PARAMETERS = """seeds: list = [0, 1]  # one training each
steps: int = 30  # of each
device: str = "cpu"  # one of auto, cpu, cuda
root: str = "data/movi_a"  # of MOVi-A
backbone: str = "pixels"  # one of lib.models.backbones.NAMES
"""
#: A study in one cell: a model, a second one that begins with it, one that is not kept, a control, and a figure.
STUDY = """
import torch
from lib import ROOT, plots, sweeps
from lib.data.movi import MoviDataset
from lib.features import Split
from lib.models import backbones
from lib.training import Recipe, fit, indices, load_or_train

data = Split(MoviDataset(ROOT / root, "train", ("video", "segmentations"), slice(0, 2)),
             backbones.load(backbone), 112, 16)

def loss(recipe):
    def batch(net, step):
        tokens = data.features.batch(indices(recipe, step, data.count))
        return (net(tokens) - tokens).square().mean(), {}
    return batch

def train(name, seed, steps, start=""):
    recipe = Recipe(steps, batch=2, seed=seed)
    how = lambda net, state: fit(net, loss(recipe), recipe, state=state, device=device)
    build = lambda: torch.nn.Linear(data.dim, data.dim)
    return load_or_train(f"{name}-{seed}", build, how, recipe, {"start": start}, "data", device)

def trial(seed, steps):
    first = train("first", seed, steps)
    second = train("second", seed, 2 * steps, first.header["data"])
    return {"error": float(second.model(data.features.batch([0])).sum())}

def passing(seed, steps):
    recipe = Recipe(steps, batch=2, seed=seed)
    net = torch.nn.Linear(data.dim, data.dim)
    fit(net, loss(recipe), recipe, device=device)
    return {"error": float(data.pictures([0]).mean())}

def control(seed):
    return {"error": float(data.ids([0]).sum())}

common = [{"seed": seed, "steps": steps} for seed in seeds]
rows = sweeps.rows("study", trial, common, "data")
others = sweeps.rows("passing", passing, common, "data")
sweeps.rows("control", control, [{"seed": seed} for seed in seeds], "data")
figure = plots.grid(nowhere, rows)
"""


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """Answers to plans of a small study, all of one process: by notebook, and what a run of them would lack."""
    folder = tmp_path_factory.mktemp("plan")
    made = new_notebook(cells=[new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), new_code_cell(STUDY)])
    values = {
        "whole": {},
        "again": {"seeds": [0, 1, 2]},  # of which two are trained by then
        "elsewhere": {"root": "data/nowhere", "steps": 31},
        "published": {"backbone": "dinov2_vits14", "steps": 32},
        "gpu": {"device": "cuda", "steps": 33},
    }
    for name in values:
        nbformat.write(made, folder / f"{name}.ipynb")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "NOTEBOOKS", folder)
        patch.setenv("SLOTS_WEIGHTS", str(folder))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_HOME", str(folder / "hub"))
        answer = run.foreseen(values, folder / "out", full=False)
    assert not (folder / "out").exists()
    return answer


def test_trainings_and_steps_are_counted(planned):
    trainings = planned["trainings"]
    assert trainings["whole"] == [30, 60, 30, 60, 30, 30], "two seeds of first and second, then of what is not kept"
    assert trainings["again"] == [30, 60, 30], "of the third seed alone"
    assert trainings["elsewhere"] == [31, 62] * 2 + [31] * 2 and trainings["gpu"][0] == 33


def test_what_is_missing_is_said_with_what_gets_it(planned):
    said = "\n".join(planned["wrong"])
    assert "movi_a train, counted as the 9,703 scenes that are published" in said
    assert "`python -m lib.data.download movi_a --split train` gets MOVi-A" in said
    assert "weights of dinov2_vits14" in said and "dinov2_vits14_pretrain.pth and set SLOTS_WEIGHTS" in said
    if not torch.cuda.is_available():
        assert "device is cuda, but torch sees no GPU" in said
    assert len(planned["wrong"]) == 3 - torch.cuda.is_available()


@pytest.fixture
def now(monkeypatch):
    """A plan's state of its own in this process."""
    monkeypatch.setattr(plan, "NOW", plan.Needs(measure=False))
    return plan.NOW


def test_a_training_that_was_killed_has_fewer_steps_left(now, tmp_path):
    recipe, state = Recipe(30, batch=2), State(tmp_path / "a.state.safetensors", {"data": "d", "code": "c"})
    checkpoints.save(state.path, {}, {"recipe": asdict(recipe), **state.about, "step": 20})
    for about in (state.about, {"data": "other", "code": "c"}):
        plan.fit(torch.nn.Linear(1, 1), None, recipe, state=State(state.path, about))
    assert [steps for _, steps in now.trainings] == [10, 30]


def test_steps_are_spread_over_a_training_and_timed(now):
    for steps, most, chosen in ((100, 10, 12), (100, 1, 3), (5, 10, 5), (2, 10, 2)):
        visits = plan._Visits(torch.nn.Linear(1, 1), Recipe(steps), most, torch.device("cpu"))
        seen = list(visits(range(steps)))
        assert len(seen) == chosen and seen[:2] == [0, 1] and len(visits.seconds) == max(chosen - 2, 1)
        assert chosen < 12 or (seen[2] == 2 and max(seen) == 99 and sum(s < 60 for s in seen[2:]) == 6)


def test_on_a_cpu_time_and_memory_of_a_few_samples_are_those_of_a_batch(now, monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(plan, "settled", lambda where: next(clock))
    now.few, net = 4, torch.nn.Linear(1000, 1000, bias=False)
    visits = plan._Visits(net, Recipe(30, batch=16), 10, torch.device("cpu"))
    with torch.autograd.graph.saved_tensors_hooks(visits.keep, lambda x: x):
        for _ in visits(range(3)):
            net(torch.zeros(250, 1000, requires_grad=True)).square()
    assert visits.seconds == [4.0], "a second with a quarter of the samples"
    kept = 4 * 2 * 250 * 1000 * 4  # what goes in and what comes out, four times, in single precision
    assert visits.gb == pytest.approx((kept + 16 * 1e6) / 2**30)


def test_what_workers_make_ahead_costs_a_step_no_more_than_they_take(now, monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(plan.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(plan.os, "cpu_count", lambda: 8)
    made = iter(plan.Ahead("abc", None, range(3), 4))
    assert next(made) == "a" and now.ahead == (1, 4)
    assert list(plan.Ahead("abc", None, range(1, 3), 0)) == ["b", "c"]


def test_tokens_that_have_no_room_cost_time_in_every_step(now):
    index = (np.array([[0], [1]]), np.array([[0, 1, 2]]))
    for kept, seconds in ((True, 0.0), (False, 6 * 0.5)):
        now.anew = 0.0
        assert plan._Noise(plan.Tokens((9703, 24, 4, 8), 0.5, kept))[index].shape == (2, 3, 4, 8)
        assert now.anew == seconds
    assert plan.Tokens((9703, 24, 1024, 384), 0.5).gb == pytest.approx(183, abs=0.2)


def test_who_looks_at_what_is_not_measured_is_stopped():
    for look in (lambda d: d["a"], lambda d: d.get("a"), lambda d: "a" in d, lambda d: list(d.items()), bool):
        with pytest.raises(plan.Stopped):
            look(plan.Unmeasured())


def test_a_lack_of_memory_is_told_from_a_failure(now):
    plan._note(RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"), "a step")
    plan._note(RuntimeError("err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"), "a step")
    plan._note(KeyError("slots"), "a trial")
    assert now.tight[0].startswith("a step: RuntimeError: Default") and len(now.tight) == 2
    assert now.failing == ["a trial: KeyError: 'slots'"]


def test_what_is_told(now):
    now.trainings, now.timed = [("a", 3000), ("a", 3000), ("b", 10)], {"a": [0.5, 1.5], "b": [2.0], "c": []}
    now.tokens = {"x": plan.Tokens((100, 24, 256, 40), 0.1), "y": plan.Tokens((1000, 24, 256, 40), 0.1, kept=False)}
    now.measure, now.computed, now.device = True, ["x", "y"], "abacus"
    now.memory, now.there = {"a step": 3.0, "host": 1.25}, {"movi_a train": "9,703 scenes"}
    assert plan.told("one", now) == [
        "one: 3 trainings, 6,010 steps, 1.7 h (1 to 2 s a step; 3 steps of 2 kinds were timed on abacus)",
        "  there: movi_a train, 9,703 scenes",
        "  tokens: 0.0 GB in cache/features, computed in 4.0 min",
        "  tokens: 0.5 GB in cache/features, no room, computed in every step; once would take 40.0 min",
        "  memory: a step 3.0 GB, host 1.2 GB",
    ]


def test_workers_share_notebooks_and_wait_for_the_longest():
    assert plan.together([30.0, 60.0, 30.0], 1) == 120 and plan.together([30.0, 60.0, 30.0], 2) == 60
    assert plan.together([30.0, 90.0, 30.0], 2) == 90 and plan.together([], 2) == 0


def test_what_stands_for_missing_weights_is_always_the_same(monkeypatch):
    """Tokens are known by the weights that made them: a split's would be counted again for each model."""

    def missing(*_):
        raise WeightsError("no route")

    monkeypatch.setitem(plan.REAL, "from_hub", missing)
    monkeypatch.setattr(plan, "NOW", plan.Needs())
    one, other = (plan.from_hub("w", (), partial(torch.nn.Linear, 2, 3), "") for _ in range(2))
    assert torch.equal(one.weight, other.weight) and plan.NOW.missing == {"weights of w": "no route"}
