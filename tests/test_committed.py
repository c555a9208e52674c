"""Committed rows stand in for trials; whatever they do not hold is run, and a failure is not passed over."""

import json

import pytest

from lib import provenance, results, sweeps

GRID = [{"config": "a", "seed": s, "steps": 3} for s in (0, 1)]


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A workbook whose committed rows of "nb" are those of the grid, for data "abc"."""
    monkeypatch.setenv("SLOTS_OUT", str(tmp_path / "out"))
    monkeypatch.setattr(sweeps, "ROOT", tmp_path)
    monkeypatch.setattr(provenance, "revision", lambda: "abc")
    rows = [{"params": p, "data": "abc", "revision": "1", "metrics": {"fg_ari": p["seed"] / 10}} for p in GRID]
    sweeps.save(rows, tmp_path / "figures" / "results" / "sweep_nb.json")
    return tmp_path


calls = []


def trial(config, seed, steps):
    calls.append((config, seed, steps))
    if steps == 0:
        raise RuntimeError("no steps")
    return {"fg_ari": 0.9}


@pytest.mark.parametrize(
    ("changed", "data", "run"),
    [({}, "abc", 0), ({"steps": 4}, "abc", 2), ({}, "other", 2), ({"config": "b"}, "abc", 2)],
)
def test_rows_are_read_where_all_matches_and_run_otherwise(house, changed, data, run):
    calls.clear()
    found = sweeps.rows("nb", trial, [p | changed for p in GRID], data)
    metrics = [row["metrics"] for row in found]
    assert len(calls) == run and metrics == ([{"fg_ari": 0.9}] * 2 if run else [{"fg_ari": 0.0}, {"fg_ari": 0.1}])
    assert all(("note" in row) == (not run) for row in found), "nobody knows what code measured the committed ones"
    assert [row["metrics"] for row in written()] == metrics


def written():
    return json.loads((results.out() / "figures" / "results" / "sweep_nb.json").read_text())["rows"]


def test_a_failed_trial_is_named_and_the_others_are_shown(house, capsys):
    grid = [GRID[0] | {"steps": n} for n in (5, 0)]
    (row,) = sweeps.rows("nb", trial, grid, "abc")
    assert row["params"]["steps"] == 5 and row["metrics"] == {"fg_ari": 0.9}
    said = capsys.readouterr().out
    assert "'steps': 0} failed: RuntimeError: no steps" in said and "2 measured now (1 failed)" in said
    assert [row.get("error") for row in written()] == [None, "RuntimeError: no steps"]
    calls.clear()
    assert sweeps.rows("nb", trial, grid[:1], "abc")[0]["metrics"] == {"fg_ari": 0.9} and not calls


@pytest.mark.parametrize(
    ("grid", "message"),
    [([], "nothing to measure; give at least one seed"), ([GRID[0] | {"steps": 0}], "every trial failed; .*no steps")],
)
def test_nothing_to_show_is_one_clear_error(house, grid, message):
    with pytest.raises(RuntimeError, match=rf"nb: {message}") as stopped:
        sweeps.rows("nb", trial, grid, "abc")
    assert len(stopped.value._render_traceback_()) == 1


def test_rows_are_written_beside_those_that_are_there(house, monkeypatch):
    """Also where the committed file itself is written, and a notebook asks for its rows in several calls."""
    monkeypatch.setenv("SLOTS_OUT", str(house))
    calls.clear()
    for grid in ([GRID[0]], [GRID[0] | {"steps": 7}], [GRID[1]]):
        sweeps.rows("nb", trial, grid, "abc")
    assert [(row["params"]["steps"], row["params"]["seed"]) for row in written()] == [(3, 0), (3, 1), (7, 0)]
    assert len(calls) == 1 and not any("note" in row for row in written())


def test_one_row_is_found_by_its_parameters_never_by_its_place(house):
    rows = sweeps.rows("nb", trial, GRID, "abc")
    assert sweeps.one(rows, seed=1) == {"fg_ari": 0.1} == sweeps.one(rows[::-1], config="a", seed=1)
    with pytest.raises(sweeps.NothingMeasured, match=r"no row with {'seed': 2}: it failed"):
        sweeps.one(rows, seed=2)


def test_seeds_of_which_a_trial_failed_are_not_complete():
    rows = [{"params": {"config": c, "seed": s}} for s in (0, 1, 2) for c in "ab"]
    assert sweeps.complete(rows) == [0, 1, 2]
    assert sweeps.complete(rows[1:]) == [1, 2]
