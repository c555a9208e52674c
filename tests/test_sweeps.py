"""Sweeps: each configuration once, by whichever process is free; failures and interrupts cost nothing else."""

import functools
import io
import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
from tqdm.auto import tqdm

from lib import ROOT, provenance, sweeps

#: A module as a user's would be: what it ran is on disk, because a second process may be the one that runs it.
JOB = """
import os, pathlib, sys, time

def train(a, seed=0, log=None):
    with open(log, "a") as file:
        file.write(f"{a} {seed} {os.getpid()}\\n")
    if a == "slow":
        time.sleep(600)
    if a == "fails":
        raise RuntimeError("this one\\ncannot work")
    time.sleep(float(os.environ.get("PAUSE", 0)))
    return {"score": seed + len(a), "nothing": float("nan")}

if __name__ == "__main__":
    import job
    from lib import sweeps
    folder, log = map(pathlib.Path, sys.argv[1:3])
    grid = sweeps.product({"a": sys.argv[3].split(","), "seed": [0, 1, 2], "log": [str(log)]})
    log.with_name(f"ready {os.getpid()}").touch()
    while len(list(log.parent.glob("ready *"))) < int(sys.argv[4]):
        time.sleep(0.01)
    os.environ["SLOTS_OUT"] = str(folder)
    rows = sweeps.run(job.train, grid, name="shared", data="d")
    assert [row["params"] for row in rows] == grid and all(row["metrics"] for row in rows)
"""


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    """A tree without changes, whatever is being worked on, and a folder of its own."""
    monkeypatch.setenv("SLOTS_OUT", str(tmp_path / "out"))
    monkeypatch.setattr(provenance, "revision", lambda: "abc")


@pytest.fixture
def job(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "job.py").write_text(JOB)
    monkeypatch.delitem(sys.modules, "job", raising=False)
    import job

    return job


@pytest.fixture
def sweep(job, tmp_path):
    """The sweep of `job.train`, and what it has run."""

    def run(values, data="d", **options):
        grid = sweeps.product({"a": values, "log": [str(tmp_path / "log")]})
        return sweeps.run(job.train, grid, name="test", data=data, **options)

    run.ran = lambda: [line.split()[0] for line in (tmp_path / "log").read_text().splitlines()]
    return run


def test_a_finished_configuration_is_never_run_twice(sweep):
    first = sweep(["x", "yy"])
    assert sweep(["x", "yy"]) == first, "what was read is what was measured"
    assert [row["metrics"] for row in first] == [{"score": 1, "nothing": None}, {"score": 2, "nothing": None}]
    assert all(row["revision"] and row["seconds"] >= 0 and row["data"] == "d" for row in first)
    assert [row["params"]["a"] for row in sweep(["zzz", "x"])] == ["zzz", "x"], "rows are in the order of the grid"
    assert sweep.ran() == ["x", "yy", "zzz"]


def test_parameters_and_data_make_it_another_result(sweep, tmp_path):
    for options in ({}, {"data": "e"}, {"data": lambda a, log: f"of {a}"}):
        sweep(["x"], **options)
        sweep(["x"], **options)
    assert sweep.ran() == ["x"] * 3
    assert sweep(["x"], data=lambda a, log: f"of {a}")[0]["data"] == "of x"


def test_other_code_marks_a_result_and_measures_it_anew_on_demand(sweep, tmp_path, capsys, monkeypatch):
    (first,) = sweep(["x"])
    assert "note" not in first and len(first["code"]) == 12
    assert "test: 1 rows: 0 committed, 0 of earlier runs, 1 measured now" in capsys.readouterr().out
    (tmp_path / "job.py").write_text(JOB + "\n# only a comment\n")
    assert "note" not in sweep(["x"])[0]
    (tmp_path / "job.py").write_text(JOB + "\n\nLAYERS = 2\n")
    assert sweep(["x"])[0] == first | {"note": "measured by other code"} and sweep.ran() == ["x"]
    assert "1 of earlier runs (1 measured by other code), 0 measured now" in capsys.readouterr().out
    monkeypatch.setenv("SLOTS_REMEASURE", "1")
    rows = sweep(["x", "yy"])
    assert sweep.ran() == ["x", "x", "yy"] and not any("note" in row for row in rows)
    sweep(["x", "yy"])
    assert len(sweep.ran()) == 3, "only what is marked"


def test_a_tree_with_changes_is_told_and_measured_anew_once_it_is_clean(sweep, monkeypatch):
    monkeypatch.setenv("SLOTS_REMEASURE", "1")
    for revision, ran in (("abc+", 1), ("abc+", 1), ("def", 2), ("def", 2)):
        monkeypatch.setattr(provenance, "revision", lambda revision=revision: revision)
        (row,) = sweep(["x"])
        assert len(sweep.ran()) == ran and ("with uncommitted changes" in row.get("note", "")) == (revision == "abc+")


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_parameter_that_is_not_finite_is_refused(value, tmp_path):
    """JSON has none of the three; as None they would be one configuration."""
    with pytest.raises(ValueError, match="configuration 0 of sweep t is not JSON"):
        sweeps.run(lambda a: {}, [{"a": value}], name="t", data="d")


def test_a_failure_is_reported_stops_nothing_and_is_tried_again(sweep, tmp_path, capsys):
    rows = sweep(["x", "fails", "yy"])
    assert [bool(row["metrics"]) for row in rows] == [True, False, True]
    assert rows[1]["error"] == "cannot work" and rows[1]["params"]["a"] == "fails"
    assert "test: {'a': 'fails'" in (said := capsys.readouterr().out) and "cannot work" in said
    (kept,) = (tmp_path / "out" / "sweeps" / "test").glob("*.failed.txt")
    assert "RuntimeError: this one" in kept.read_text() and kept.name in said
    sweep(["x", "fails", "yy"])
    assert sweep.ran() == ["x", "fails", "yy", "fails"]


def test_a_failure_that_is_mended_leaves_no_trace(tmp_path):
    broken = []

    def train(a):
        return {"score": 1 / len(broken)}

    assert "ZeroDivisionError" in sweeps.run(train, [{"a": 1}], name="t", data="d")[0]["error"]
    broken.append(1)
    assert sweeps.run(train, [{"a": 1}], name="t", data="d")[0]["metrics"] == {"score": 1}
    assert not list(tmp_path.rglob("*.txt"))


def test_an_interrupt_keeps_what_is_finished(tmp_path):
    ran = []

    def train(a):
        ran.append(a)
        if ran == [1, 2]:
            raise KeyboardInterrupt
        return {"score": a}

    grid = sweeps.product({"a": [1, 2, 3]})
    with pytest.raises(KeyboardInterrupt):
        sweeps.run(train, grid, name="t", data="d")
    assert [row["metrics"]["score"] for row in sweeps.run(train, grid, name="t", data="d")] == [
        1,
        2,
        3,
    ]
    assert ran == [1, 2, 2, 3]


def test_a_result_is_whole_or_not_there(sweep, tmp_path):
    sweep(["x"])
    (path,) = (tmp_path / "out" / "sweeps" / "test").glob("*.json")
    path.write_text(path.read_text()[:20])
    assert sweep(["x"])[0]["metrics"]["score"] == 1 and json.loads(path.read_text())["metrics"]
    assert sweep.ran() == ["x", "x"]
    assert not [p for p in path.parent.rglob("*") if "tmp" in p.name]


@pytest.mark.parametrize("bad", [{"a": {1, 2}}, {"a": object()}, ["a"]])
def test_what_is_not_json_is_an_error_that_says_where(bad, tmp_path):
    with pytest.raises(ValueError, match="configuration 1 of sweep t"):
        sweeps.run(lambda a: {}, [{"a": 1}, bad], name="t", data="d")


@pytest.mark.parametrize("returned", [None, 0.5, {"masks": object()}])
def test_a_function_that_returns_no_metrics_has_failed(returned, tmp_path):
    def train(a):
        return returned

    (row,) = sweeps.run(train, [{"a": 1}], name="t", data="d")
    assert "train returned" in row["error"] and not list(tmp_path.rglob("*.json"))


def test_product():
    assert sweeps.product({"lr": [1, 2], "seed": [0, 1]}) == [
        {"lr": 1, "seed": 0},
        {"lr": 1, "seed": 1},
        {"lr": 2, "seed": 0},
        {"lr": 2, "seed": 1},
    ]


def test_committed_rows_stand_in_for_runs_whatever_the_code_is(sweep, tmp_path, capsys, monkeypatch):
    path = tmp_path / "figures" / "sweep.json"
    assert [r["metrics"]["score"] for r in sweep(["x"], committed=path)] == [1], "nothing is committed yet"
    measured = sweep(["x", "yy", "fails"])
    sweeps.save([row | {"revision": "abc"} for row in measured], path)
    before = sweep.ran()
    (tmp_path / "job.py").write_text(JOB + "\n\nCHANGED = True\n")
    rows = sweep(["yy", "fails"], committed=path)
    assert sweep.ran() == before, "neither the result nor the failure is tried again"
    assert rows[0]["metrics"] == measured[1]["metrics"] and rows[1]["error"] == measured[2]["error"]
    assert all(row["revision"] == "abc" and row["note"] == "measured by other code" for row in rows)
    assert (
        "1 committed (1 measured by other code, 1 failed), 1 of earlier runs (1 measured by other code)"
        in capsys.readouterr().out
    )
    assert "note" not in sweep(["yy", "new"], data="e", committed=path)[0], "other data are another result"
    assert len(sweep.ran()) == len(before) + 2


def test_committed_files_are_strict_json_without_paths_of_this_machine(sweep, tmp_path):
    row = {"params": {"a": 1}, "data": "d", "revision": "r", "metrics": {}, "error": f"see {ROOT / 'runs' / 'x'}"}
    sweeps.save([row], tmp_path / "c.json")
    assert json.loads((tmp_path / "c.json").read_text())["rows"][0]["error"] == f"see {os.path.join('runs', 'x')}"
    with pytest.raises(ValueError):
        sweeps.save([row | {"seconds": math.nan}], tmp_path / "d.json")
    assert not (tmp_path / "d.json").exists()
    (tmp_path / "c.json").write_text('{"runs": []}')
    with pytest.raises(ValueError, match=r"c\.json is no file of sweeps\.save"):
        sweep(["x"], committed=tmp_path / "c.json")


def _start(tmp_path, values, number, pause):
    arguments = [str(tmp_path / "kept"), str(tmp_path / "log"), values, str(number)]
    path = os.pathsep.join([str(ROOT), str(tmp_path)])
    environment = os.environ | {"PYTHONPATH": path, "PAUSE": str(pause), "TQDM_DISABLE": "1"}
    return subprocess.Popen([sys.executable, str(tmp_path / "job.py"), *arguments], env=environment)


def test_two_processes_share_a_sweep_and_one_may_be_killed(job, tmp_path):
    """Both start together and halve the work; a third, killed in the middle, leaves nothing that blocks a fourth."""
    both = [_start(tmp_path, "x,yy", 2, 0.3) for _ in range(2)]
    assert [process.wait(timeout=50) for process in both] == [0, 0], "each has all rows"
    ran = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert sorted((a, seed) for a, seed, _ in ran) == sorted((a, s) for a in ("x", "yy") for s in "012"), "once each"
    assert {int(pid) for *_, pid in ran} == {process.pid for process in both}, "both have worked"

    killed = _start(tmp_path, "slow", 1, 0)
    try:
        until = time.monotonic() + 40
        while "slow" not in (tmp_path / "log").read_text() and time.monotonic() < until:
            time.sleep(0.05)
        params = {"a": "slow", "seed": 0, "log": str(tmp_path / "log")}
        head = {"params": params, "data": "d", "revision": "r", "code": "c"}
        key = sweeps.key(params, "d")
        claim = functools.partial(
            sweeps._measure, lambda **_: {"score": 1}, head, tmp_path / "kept" / "sweeps" / "shared" / f"{key}.json"
        )
        assert claim(False, False) is None, "it is taken"
    finally:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    assert claim(False, False)["metrics"] == {"score": 1}, "and free again"


@pytest.mark.parametrize("disabled", [False, True])
def test_what_is_measured_is_told_before_where_somebody_looks(sweep, tmp_path, monkeypatch, capsys, disabled):
    monkeypatch.setattr(sweeps, "tqdm", functools.partial(tqdm, disable=disabled, file=io.StringIO()))
    monkeypatch.chdir(tmp_path)
    again = "kept in out/sweeps/test; interrupt the kernel and run the cell again to go on"
    first = sweep(["x"])
    assert (f"test: measures 1 rows, {again}\n" in capsys.readouterr().out) != disabled
    sweeps.save([row | {"seconds": 90.0, "params": {"a": "other"}} for row in first], tmp_path / "rows.json")
    (tmp_path / "out" / "sweeps" / "test").rename(tmp_path / "away")
    sweep(["x", "yy"], committed=tmp_path / "rows.json")
    told = f"test: measures 2 rows, about 3.0 min by the others' times, {again}\n"
    assert (told in capsys.readouterr().out) != disabled
    sweep(["x"])
    assert "measures" not in capsys.readouterr().out, "nothing is due"


def test_numbers_are_close_where_both_have_them():
    now = {"a": 1.0, "b": float("nan"), "mine": 2.0}
    assert sweeps.close(now, {"a": 1.009, "b": float("nan"), "theirs": 3.0}, 0.01)
    assert not sweeps.close(now, {"a": 1.011, "b": float("nan")}, 0.01), "a differs"
    assert not sweeps.close(now, {"a": 1.0, "b": 0.5}, 0.01), "what is not measured now and was once"
    assert not sweeps.close({"a": 0.5}, {"a": float("nan")}, 0.01), "what was measured once and is not now"


def test_what_could_not_be_measured_is_nan_in_the_rows_of_a_notebook(job, tmp_path):
    """Kept as null; a notebook computes with it."""
    for _ in ("measured", "read"):
        [row] = sweeps.rows("test", job.train, [{"a": "x", "log": str(tmp_path / "log")}], "data")
        assert math.isnan(row["metrics"]["nothing"]) and row["metrics"]["score"] == 1
    assert '"nothing":null' in (tmp_path / "out" / "figures" / "results" / "sweep_test.json").read_text()
