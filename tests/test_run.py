"""The runner is strict before it starts, and orderly when things go wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from lib import ROOT, preflight, run

PARAMETERS = """steps: int = 3  # optimiser steps
lr: float = 1.0e-3  # learning rate
name: str = "x"  # a name
seeds: list = [0, 1]  # one run each
fast: bool = False  # skip the slow part"""
RESULT = """import json, os, pathlib
folder = pathlib.Path(os.environ["SLOTS_OUT"]) / "figures" / "results"
folder.mkdir(parents=True, exist_ok=True)
(folder / "NAME.json").write_text(json.dumps({"headline": {"config": "ours", "metric": "fg_ari"},
    "summary": {"ours": {"fg_ari": {"mean": steps / 10, "sd": 0.01, "n": 3}}}}))"""


def notebook(name: str, *cells: str):
    made = new_notebook(cells=[new_markdown_cell(f"# {name}\n\n**Question.** Does {name}\nrun?\n\nMore.")])
    made.cells.append(new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}))
    made.cells += [new_code_cell(c.replace("NAME", name)) for c in cells]
    made.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return made


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A workbook of three small notebooks."""
    (tmp_path / "params").mkdir()
    for name in ("one", "two", "three"):
        nbformat.write(notebook(name, RESULT), tmp_path / f"{name}.ipynb")
    (tmp_path / "params" / "smoke.yaml").write_text("steps: 7\n")
    monkeypatch.setattr(preflight, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(preflight, "ORDER", ("one", "two", "three", "unwritten"))
    monkeypatch.delenv("SLOTS_OUT", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["oen"], "unknown notebook: 'oen'; did you mean one"),
        (["--profile", "smok"], "unknown profile: 'smok'; did you mean smoke"),
        (["-p", "stpes", "3"], "unknown parameter: 'stpes'; did you mean steps"),
        (["-p", "lr", "1e-3"], "lr wants float, got str '1e-3'; YAML reads 1e-3 as text, write 0.001"),
        (["-p", "steps", "3.5"], "steps wants int, got float 3.5"),
        (["-p", "steps", "true"], "steps wants int, got bool True"),
        (["-p", "fast", "1"], "fast wants bool, got int 1"),
        (["-p", "seeds", "0"], "seeds wants list, got int 0"),
        (["-p", "name", "3"], "name wants str, got int 3"),
        (["-p", "name", "[1"], "while parsing"),
    ],
)
def test_refused_before_anything_runs(house, tmp_path, capsys, arguments, message):
    assert run.main([*arguments, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_profile_key_that_no_notebook_takes_is_refused(house, capsys):
    (house / "params" / "smoke.yaml").write_text("steps: 7\nsteep: 3\nlr: 1e-3\n")
    assert run.main(["--profile", "smoke"]) == 2
    error = capsys.readouterr().err
    assert "key in smoke.yaml, no notebook takes: 'steep'; did you mean steps" in error
    assert "lr wants float" in error, "all that is wrong is said at once"


def test_committed_notebooks_are_not_overwritten_by_other_parameters(house, capsys, monkeypatch):
    monkeypatch.setattr(run, "ROOT", house)
    assert run.main(["--profile", "smoke", "--out", str(house)]) == 2
    assert "give another --out" in capsys.readouterr().err


def test_whole_numbers_serve_as_floats(house):
    assert preflight.plan(["one"], "default", {"lr": 1}) == {"one": {"lr": 1.0}}
    assert preflight.plan([], "smoke", {})["two"] == {"steps": 7}


def test_list_shows_questions_parameters_defaults_and_help(house, capsys):
    assert run.main(["--list"]) == 0
    text = capsys.readouterr().out
    assert (
        "Does one run?" in text and "lr: float = 1.0e-3  learning rate" in text and "profiles: default, smoke" in text
    )


def test_one_fails_the_others_keep_their_results(house, tmp_path, capsys):
    nbformat.write(notebook("two", "raise ValueError('slots fell off')"), house / "two.ipynb")
    out = tmp_path / "out"
    assert run.main(["-p", "steps", "5", "--out", str(out)]) == 1
    text = capsys.readouterr().out
    assert "ours fg_ari 0.500 ± 0.010 (n=3)" in text and "ValueError: slots fell off" in text
    assert sorted(p.name for p in (out / "notebooks").iterdir()) == ["one.ipynb", "three.ipynb", "two.failed.ipynb"]
    failed = nbformat.read(out / "notebooks" / "two.failed.ipynb", as_version=4)
    assert any(o.output_type == "error" for c in failed.cells if c.cell_type == "code" for o in c.outputs)
    done = nbformat.read(out / "notebooks" / "one.ipynb", as_version=4)
    assert "papermill" not in done.metadata and all("papermill" not in c.metadata for c in done.cells)
    assert "steps = 5" in "".join(c.source for c in done.cells), "the injected parameters are on record"


def test_a_dead_kernel_and_a_slow_cell_are_told_apart(house, tmp_path, capsys):
    nbformat.write(notebook("one", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"), house / "one.ipynb")
    nbformat.write(notebook("two", "import time\ntime.sleep(60)"), house / "two.ipynb")
    begun = time.monotonic()
    assert run.main(["--out", str(tmp_path / "out"), "--time-limit", "3"]) == 1
    text = capsys.readouterr().out
    assert "DIED" in text and "TIMEOUT" in text and "longer than 3 s" in text and "three" in text
    assert time.monotonic() - begun < 45
    names = sorted(p.name for p in (tmp_path / "out" / "notebooks").iterdir())
    assert names == ["one.failed.ipynb", "three.ipynb", "two.failed.ipynb"]


def test_ctrl_c_keeps_what_is_done_and_leaves_nothing_half_written(house, tmp_path):
    nbformat.write(notebook("two", "print('here')\nimport time\ntime.sleep(60)"), house / "two.ipynb")
    code = (
        "import sys, pathlib; from lib import preflight, run; preflight.NOTEBOOKS = pathlib.Path(sys.argv[1]); "
        "preflight.ORDER = ('one', 'two', 'three'); sys.exit(run.main(['--out', sys.argv[2]]))"
    )
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(house), str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job of a shell ignores it
    )
    deadline = time.monotonic() + 60
    while not (out / "notebooks" / "one.ipynb").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(4)  # two is sleeping in its cell now
    process.send_signal(signal.SIGINT)
    text = process.communicate(timeout=120)[0]
    assert process.returncode == 130
    assert "stopped" in text and "ours fg_ari" in text
    assert [p.name for p in (out / "notebooks").iterdir()] == ["one.ipynb"]


@pytest.mark.parametrize("profile", ["smoke", "gpu", "paper"])
def test_the_real_profiles_fit_the_real_notebooks(profile):
    if profile not in preflight.profiles():
        pytest.skip(f"no {profile} profile yet")
    assert set(preflight.plan([], profile, {})) == set(preflight.series())


def test_every_real_notebook_is_listed():
    written = {p.stem for p in (ROOT / "notebooks").glob("*.ipynb")}
    assert written == set(preflight.series()), "a notebook outside the order of the story"
    assert all(preflight.question(n) for n in preflight.series())


def test_headline_of_a_run_without_results(tmp_path):
    assert run.headline(Path(tmp_path), "x") == ""
    (tmp_path / "figures" / "results").mkdir(parents=True)
    summary = {"a": {"m": {"mean": 1.0, "sd": None, "n": 1}}}
    (tmp_path / "figures" / "results" / "x.json").write_text(
        json.dumps({"headline": {"config": "a", "metric": "m"}, "summary": summary})
    )
    assert run.headline(tmp_path, "x") == "a m 1.000"
