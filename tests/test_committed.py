"""Committed rows stand in for trials; whatever they do not hold is run, and a failure is not passed over."""

import json

import pytest

from lib import committed, results, sweeps

GRID = [{"config": "a", "seed": s, "steps": 3} for s in (0, 1)]


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A workbook whose committed rows of "nb" are those of the grid, for data "abc"."""
    monkeypatch.setenv("SLOTS_OUT", str(tmp_path / "out"))
    monkeypatch.setattr(committed, "ROOT", tmp_path)
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
    found = committed.rows("nb", trial, [p | changed for p in GRID], data)
    assert len(calls) == run and found == ([{"fg_ari": 0.9}] * 2 if run else [{"fg_ari": 0.0}, {"fg_ari": 0.1}])
    written = json.loads((results.out() / "figures" / "results" / "sweep_nb.json").read_text())["rows"]
    assert [row["metrics"] for row in written] == found


def test_a_failed_trial_is_named_and_the_others_are_kept(house):
    grid = [GRID[0] | {"steps": n} for n in (5, 0)]
    with pytest.raises(RuntimeError, match=r"nb: .*'steps': 0.* failed: RuntimeError: no steps"):
        committed.rows("nb", trial, grid, "abc")
    calls.clear()
    assert committed.rows("nb", trial, grid[:1], "abc") == [{"fg_ari": 0.9}] and not calls
