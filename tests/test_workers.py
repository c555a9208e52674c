"""The series on two workers of dask, one of them killed: the same rows, none measured twice, nobody else hurt."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import dask
import nbformat
import pytest
from distributed.scheduler import KilledWorker
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from lib import ROOT, run, workers

#: Processes that start processes take minutes on a busy machine: `make rehearse`.
pytestmark = pytest.mark.slow
LONG = 1200  # seconds, where the machine is busy
MEASURE = """import os, time
from lib import results, sweeps

log = results.out() / "log"
log.mkdir(exist_ok=True)


def trial(seed, name):
    begun, own = time.time(), log / f"{name} {seed} {os.getpid()}"
    about = {"kernel": os.getpid(), "worker": os.getppid(), "threads": os.environ.get("OMP_NUM_THREADS")}
    own.write_text(__import__("json").dumps(about | {"begun": begun}))
    time.sleep(nap)
    own.write_text(__import__("json").dumps(about | {"begun": begun, "ended": time.time()}))
    return {"score": seed * 1.5}


rows = sweeps.rows("NAME", trial, [{"seed": s, "name": "NAME"} for s in seeds], "d")
runs = [{"config": "ours", "seed": r["params"]["seed"], "metrics": r["metrics"]} for r in rows]
results.write("NAME", runs, params={}, data={"name": "none"}, headline=("ours", "score"))"""


@pytest.fixture
def house(tmp_path):
    """A copy of `lib` with two small notebooks of its own."""
    shutil.copytree(ROOT / "lib", tmp_path / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    notebooks = tmp_path / "notebooks"
    (notebooks / "params").mkdir(parents=True)
    for name in ("one", "two"):
        made = new_notebook(cells=[new_markdown_cell(f"# {name}")])
        parameters = "seeds: list = [0, 1, 2]  # one run each\nnap: float = 2.0  # seconds; an orphan lives one"
        made.cells.append(new_code_cell(parameters, metadata={"tags": ["parameters"]}))
        made.cells.append(new_code_cell(MEASURE.replace("NAME", name)))
        made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(made, notebooks / f"{name}.ipynb")
    (notebooks / "index.md").write_text("[1](one.ipynb), [2](two.ipynb)")
    return tmp_path


@pytest.fixture
def start(house):
    """`python -m lib.run` there; what still runs at the end is killed."""
    begun = []
    yield lambda *arguments: begun.append(_start(house, *arguments)) or begun[-1]
    for process in begun:
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)


def _start(house, *arguments):
    path = os.pathsep.join(filter(None, [str(house), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "lib.run", *arguments],
        cwd=house, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip


def logged(out: Path) -> dict[str, list[dict]]:
    """Of each row when it ran, and where; a kernel that was killed leaves no end."""
    found: dict[str, list[dict]] = {}
    for path in (out / "log").glob("*"):
        name, seed, _ = path.name.split()
        found.setdefault(f"{name} {seed}", []).append(json.loads(path.read_text() or "{}"))
    return found


def rows(out: Path) -> dict[str, list]:
    """What was measured."""
    files = sorted((out / "figures" / "results").glob("*.json"))
    kept = {p.name: json.loads(p.read_text()) for p in files}
    same = {"seconds", "date"}
    return {
        name: [{k: v for k, v in row.items() if k not in same} for row in document.get("rows", [])]
        if name.startswith("sweep")
        else document["summary"]
        for name, document in kept.items()
    }


def status(said: str) -> dict[str, str]:
    """Of each notebook, from the table."""
    return dict(line.split()[:2] for line in said.splitlines() if line.startswith(("one ", "two ")))


def alive(process: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def until(what, seconds=LONG):
    end = time.monotonic() + seconds
    while not (found := what()) and time.monotonic() < end:
        time.sleep(0.05)
    return found


JOBS = """import os, signal, time

def work(name, folder):
    about = {"gpu": os.environ.get("CUDA_VISIBLE_DEVICES"), "threads": os.environ["OMP_NUM_THREADS"]}
    begun, mark = time.monotonic(), folder / name
    if name == "kills" or (name == "killed" and not mark.exists()):
        mark.touch()
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "slow":
        mark.write_text(str(os.getpid()))
        time.sleep(600)
    if name == "fails":
        raise ValueError("on its own")
    time.sleep(2 if name == "alone" else 0.3)
    return about | {"begun": begun, "ended": time.monotonic()}

def join(name, folder):
    time.sleep(0.1)
    with open(folder / f"joined {name}", "a") as file:
        file.write("x")
"""


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "jobs.py").write_text(JOBS)
    monkeypatch.delitem(sys.modules, "jobs", raising=False)
    import jobs

    return jobs


def test_a_gpu_has_one_run_and_a_run_that_kills_its_workers_hurts_no_other(jobs, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setattr(workers, "CPU_COUNT", 7)
    calls = {name: (name, tmp_path) for name in ("kills", "a", "killed", "b", "fails", "c", "d")}
    with dask.config.set({"distributed.scheduler.allowed-failures": 1}), workers.local(2) as client:
        found = dict(workers.spread(client, jobs.work, jobs.join, calls))
        monkeypatch.setattr(workers, "_room", lambda client: 5)  # as where others use the workers too
        more = dict(workers.spread(client, jobs.work, jobs.join, {name: (name, tmp_path) for name in "efghi"}))
    assert isinstance(found.pop("kills"), KilledWorker)
    assert isinstance(failure := found.pop("fails"), ValueError) and "on its own" in str(failure)
    assert found.keys() == {"a", "killed", "b", "c", "d"} and {row["threads"] for row in found.values()} == {"3"}
    assert {row["gpu"] for row in found.values()} <= {"3", "5"}
    for one, other in itertools.combinations([*found.values(), *more.values()], 2):
        if one["gpu"] == other["gpu"]:
            assert one["ended"] <= other["begun"] or other["ended"] <= one["begun"]


def test_who_has_nothing_to_do_joins_a_run_once(jobs, tmp_path):
    with workers.local(2) as client:
        assert [name for name, _ in workers.spread(client, jobs.work, jobs.join, {"alone": ("alone", tmp_path)})]
    assert (tmp_path / "joined alone").read_text() == "x"


def test_workers_that_somebody_has_started_are_left_without_a_run(jobs, tmp_path, monkeypatch):
    with workers.local(2) as own, workers.remote(own.scheduler.address) as client:
        found = workers.spread(client, jobs.work, jobs.join, {"slow": ("slow", tmp_path), "a": ("a", tmp_path)})
        assert next(found)[0] == "a"
        busy = int((tmp_path / "slow").read_text())
        assert alive(busy)
        found.close()  # as an interrupt does
        assert until(lambda: not alive(busy), 120)
        assert dict(workers.spread(client, jobs.work, jobs.join, {"b": ("b", tmp_path)}))["b"]["threads"]
    monkeypatch.setattr(workers, "RUN", {})
    with workers.local(1) as own, pytest.raises(ValueError, match="1 workers at .*, none with the resource run; start"):
        workers.remote(own.scheduler.address).__enter__()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "3"], "--workers is 3 and there are 2 GPUs, one for a run; give at most 2"),
        (["--scheduler", "tcp://127.0.0.1:9"], "no scheduler answers at tcp://127.0.0.1:9"),
    ],
)
def test_workers_that_are_not_there(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr(workers, "PATIENCE", 1)
    assert run.main(["ex_slot1", *arguments, "--out", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--workers", "0"], ["--workers", "2", "--scheduler", "tcp://127.0.0.1:9"]])
def test_workers_that_cannot_be(arguments, capsys):
    with pytest.raises(SystemExit) as refused:
        run.main(arguments)
    assert refused.value.code == 2 and "--workers" in capsys.readouterr().err


def test_two_workers_one_killed_give_the_rows_of_one_process(house, start):
    alone = start("--out", "alone")
    assert "FAILED" not in alone.communicate(timeout=LONG)[0] and alone.returncode == 0
    out = house / "both"
    both = start("--out", "both", "--workers", "2")
    victim = until(lambda: [row for row in logged(out).get("one 1", []) if row])[0]
    os.kill(victim["worker"], signal.SIGKILL)
    said = both.communicate(timeout=LONG)[0]
    assert both.returncode == 0, said
    assert status(said) == {"one": "ok", "two": "ok"}, said
    assert rows(out) == rows(house / "alone")
    ran = logged(out)
    assert len(ran.pop("one 1")) == 2 and {len(times) for times in ran.values()} == {1}, "only what was killed, again"
    assert not alive(victim["kernel"])
    assert not list((out / "notebooks").glob(".*")) and len(list((out / "notebooks").iterdir())) == 2


def test_who_is_interrupted_leaves_nothing_at_work(house, start):
    out = house / "stopped"
    running = start("one", "two", "--out", "stopped", "--workers", "2", "-p", "nap", "60")
    began = until(lambda: len(logged(out)) == 2 and all(row for (row,) in logged(out).values()) and logged(out))
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does
    said = running.communicate(timeout=LONG)[0]
    assert running.returncode == 130 and "Traceback" not in said, said
    assert status(said) == {"one": "stopped", "two": "stopped"}, said
    assert not list((out / "notebooks").iterdir())
    for (row,) in began.values():
        assert until(lambda row=row: not alive(row["kernel"]) and not alive(row["worker"]))
