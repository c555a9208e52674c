"""The runner is strict before it starts, and orderly when things go wrong."""

import ast
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from lib import ROOT, run

PARAMETERS = """steps: int = 3  # optimiser steps
lr: float = 1.0e-3  # learning rate
name: str = "x"  # a name
device: str = "cpu"  # one of auto, cpu
parts: list = ["a"]  # some of PARTS
network: str = "own"  # one of lib.models.segmenters.NETWORKS
batch: int = 4  # at least 2
seeds: list = [0, 1]  # one run each
fast: bool = False  # skip the slow part"""
MEASURED = "FG-ARI is 0.30 ± 0.01<!-- ours/fg_ari -->, 0.1<!-- theirs/fg_ari --> before."
#: Names that the runner reads without running this.
TABLE = """PARTS = {"a": print, "b": steps}
MORE = {"aa": {}}
PARTS |= {f"{name}, long": MORE[name] for name in MORE}"""
RESULT = """import json, os, pathlib
folder = pathlib.Path(os.environ["SLOTS_OUT"]) / "figures" / "results"
folder.mkdir(parents=True, exist_ok=True)
(folder / "NAME.json").write_text(json.dumps({"headline": {"config": "ours", "metric": "fg_ari"},
    "profile": os.environ["SLOTS_PROFILE"], "data": {"name": "cubes"}, "device": "abacus", "date": "today",
    "summary": {"ours": {"fg_ari": {"mean": steps / 10, "sd": 0.01, "n": 3}}}}))"""


def notebook(name: str, *cells: str):
    asks = f"# {name}\n\n**Question.** Does {name}\nrun?\n\n{MEASURED}"
    made = new_notebook(cells=[new_markdown_cell(asks)])
    made.cells.append(new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}))
    made.cells += [new_code_cell(c.replace("NAME", name)) for c in cells]
    made.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    made.metadata["language_info"] = {"name": "python", "version": "3.0.0"}
    return made


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A workbook of three small notebooks."""
    (tmp_path / "params").mkdir()
    for name in ("one", "two", "three"):
        nbformat.write(notebook(name, RESULT, TABLE), tmp_path / f"{name}.ipynb")
    (tmp_path / "params" / "smoke.yaml").write_text("steps: 7\n")
    monkeypatch.setattr(run, "NOTEBOOKS", tmp_path)
    (tmp_path / "index.md").write_text("[1](one.ipynb), [2](two.ipynb), [3](three.ipynb), [4](unwritten.ipynb)")
    monkeypatch.delenv("SLOTS_OUT", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["oen"], "unknown notebook: 'oen'; did you mean one"),
        (["--profile", "smok"], "unknown profile: 'smok'; did you mean smoke"),
        (["-p", "stpes", "3"], "unknown parameter: 'stpes'; did you mean steps"),
        (["-p", "lr", "1e-3x"], "lr wants float, got str '1e-3x'"),
        (["-p", "steps", "3.5"], "steps wants int, got float 3.5"),
        (["-p", "steps", "true"], "steps wants int, got bool True"),
        (["-p", "fast", "1"], "fast wants bool, got int 1"),
        (["-p", "seeds", "0"], "seeds wants list, got int 0"),
        (["-p", "name", "3"], "name wants str, got int 3"),
        (["-p", "name", "[1"], "-p name: while parsing"),
        (["-p", "name", "2024-13-45", "-p", "lr", "2024-01-01"], "lr wants float, got str '2024-01-01'"),
        (["-p", "steps", "0x_"], "steps wants int, got str '0x_'"),
        (["-p", "steps", "010"], "steps wants int, got str '010'"),
        (["-p", "steps", "1:30"], "steps wants int, got str '1:30'"),
        (["-p", "steps", "9" * 5000], "steps wants int, got str '999"),
        (["-p", "steps", '!!int "0x_"'], "steps wants int, got str '0x_'"),
        (["-p", "steps", "0"], "steps wants more than 0, got 0"),
        (["-p", "lr", "1e400"], "lr wants float, got float inf"),
        (["-p", "lr", "NaN"], "lr wants float, got float nan"),
        (["-p", "lr", "-1.0e-3"], "lr wants more than 0, got -0.001"),
        (["-p", "seeds", '["0"]'], "seeds wants int, got str '0'"),
        (["-p", "seeds", "[1e-3]"], "seeds wants int, got float 0.001"),
        (["-p", "seeds", "[null]"], "seeds wants int, got NoneType None"),
        (["-p", "seeds", "[]"], "seeds wants at least one item"),
        (["-p", "seeds", "[&a [1], *a]"], "-p seeds: anchors are not taken"),
        (["-p", "name", "[" * 1000], "-p name: "),
        (["-p", "name", "[" * 10001], "-p name: more than 10,000 characters"),
        (["-p", "device", "x"], "one, two, three: device has an unknown name: 'x'; there are: auto, cpu"),
        (["-p", "device", "cpi", "one"], "one: device has an unknown name: 'cpi'; did you mean cpu?"),
        (["-p", "parts", '["a", "ab, long", "aa, long"]'], "parts has an unknown name: 'ab, long'; did you mean"),
        (["-p", "network", "segformer"], "network has an unknown name: 'segformer'; did you mean segformer_b5"),
        (["-p", "batch", "1"], "batch wants at least 2, got 1"),
        (["/elsewhere/one.ipynb"], "unknown notebook: '/elsewhere/one.ipynb'"),
        (["one.txt"], "unknown notebook: 'one.txt'; did you mean one"),
    ],
)
def test_refused_before_anything_runs(house, tmp_path, capsys, arguments, message):
    assert run.main([*arguments, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- 1\n- 2", "smoke.yaml: [1, 2] is no list of `name: value`"),
        (b"steps", "smoke.yaml: 'steps' is no list"),
        (b"3", "smoke.yaml: 3 is no list"),
        (b"3: 4", "smoke.yaml: {3: 4} is no list"),
        ("name: é".encode("latin-1"), "smoke.yaml: "),
        (b"steps: " + b"9" * 5000, "steps wants int, got str '999"),
        (b"seeds: &a [1]\n" + b"seeds: [*a, *a]\n" * 30, "smoke.yaml: anchors are not taken"),
        (b"steps: 1\n  lr: 2", "smoke.yaml: mapping values"),
    ],
)
def test_parameter_files_that_cannot_be_read(house, capsys, content, message):
    (house / "params" / "smoke.yaml").write_bytes(content)
    assert run.main(["--profile", "smoke"]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error) < 400


@pytest.mark.parametrize("out", ["", "file", "file/below", "/proc/nowhere"])
def test_an_output_folder_that_cannot_be_written_is_refused(house, tmp_path, capsys, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    assert run.main(["--out", out]) == 2
    error = capsys.readouterr().err
    assert "--out" in error and "Traceback" not in error and Path("file").read_text() == "mine"


def test_a_notebook_may_be_named_by_its_path(house, monkeypatch):
    monkeypatch.chdir(house)
    assert list(run.plan(["./one.ipynb", str(house / "two.ipynb"), "three"], "default", {})) == [
        "one", "two", "three"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "folder", "profile", "limit"),
    [
        ([], "default", "default", 300),
        (["--profile", "smoke"], "smoke", "smoke", 300),
        (["-p", "steps", "5", "-p", "seeds", "[1]"], "default-seeds-steps-", "default with seeds=[1], steps=5", None),
        (["--profile", "smoke", "-p", "steps", "5"], "smoke-steps-", "smoke with steps=5", None),
        (["-p", "steps", "5", "--time-limit", "9"], "default-steps-", "default with steps=5", 9),
        (["--remeasure"], "default", "default", None),
        (["--compile"], "default", "default", 300),
    ],
)
def test_other_parameters_have_a_folder_a_name_and_time(house, monkeypatch, arguments, folder, profile, limit):
    seen = []
    monkeypatch.setattr(run, "ROOT", house)
    monkeypatch.setenv("SLOTS_REMEASURE", "")
    monkeypatch.setenv("SLOTS_COMPILE", "")
    monkeypatch.setattr(run, "execute", lambda *given: seen.append(given) or {"notebook": "one", "status": "ok",
        "seconds": 0, "says": ""})  # fmt: skip
    assert run.main(["one", *arguments]) == 0
    (_, _, told, out, allowed) = seen[0]
    assert (told, out.parent, allowed) == (profile, house / "runs", limit)
    assert out.name == folder or (folder.endswith("-") and out.name.startswith(folder))
    assert os.environ["SLOTS_REMEASURE"] == "1" * ("--remeasure" in arguments)
    assert os.environ["SLOTS_COMPILE"] == "1" * ("--compile" in arguments)


def test_the_order_of_parameters_makes_no_other_folder(house, monkeypatch, capsys):
    monkeypatch.setattr(run, "ROOT", house)
    monkeypatch.setattr(run, "execute", lambda name, *_: {"notebook": name, "status": "ok", "seconds": 0,
        "says": ""})  # fmt: skip
    for given in (("steps", "5", "-p", "lr", "0.1"), ("lr", "0.1", "-p", "steps", "5")):
        run.main(["one", "-p", *given])
    assert len(list((house / "runs").iterdir())) == 1


NO_NUMBER = '{"headline": {"config": "a", "metric": "m"}, "summary": {"a": {"m": {"mean": null, "sd": null, "n": 0}}}}'


@pytest.mark.parametrize("content", ["null", "[]", NO_NUMBER[:20], '{"headline": null}', "{}", NO_NUMBER])
def test_damaged_results_have_no_headline(tmp_path, content):
    (tmp_path / "figures" / "results").mkdir(parents=True)
    (tmp_path / "figures" / "results" / "x.json").write_text(content)
    assert run.headline(tmp_path, "x").startswith("no number in figures/results/x.json: ")


def test_what_one_notebook_leaves_behind_stops_no_other(house, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run, "headline", lambda out, name: name if name == "two" else {}["headline"])
    assert run.main(["one", "two", "--out", str(tmp_path / "out")]) == 1
    one, two = capsys.readouterr().out.splitlines()[2:4]
    assert "FAILED" in one and "KeyError: 'headline'" in one and two.split()[:2] == ["two", "ok"]


def test_a_kernel_that_does_not_start_is_a_row_of_the_table(house, tmp_path, capsys, monkeypatch):
    spec = {"argv": [sys.executable, "-c", "raise SystemExit(3)"], "display_name": "x", "language": "python"}
    (tmp_path / "kernels" / "python3").mkdir(parents=True)
    (tmp_path / "kernels" / "python3" / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    assert run.main(["one", "two", "--out", str(tmp_path / "out")]) == 1
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in table[2:4]] == [["one", "FAILED"], ["two", "FAILED"]]


def test_a_missing_package_is_one_line():
    run_it = subprocess.run([sys.executable, "-S", "-m", "lib.run", "--list"], cwd=ROOT, capture_output=True, text=True)
    assert run_it.returncode == 2 and len(run_it.stderr.splitlines()) == 1
    assert "No module named" in run_it.stderr and ".venv/bin/python -m lib.run" in run_it.stderr


def test_a_profile_key_that_no_notebook_takes_is_refused(house, capsys):
    (house / "params" / "smoke.yaml").write_text("steps: 7\nsteep: 3\nlr: fast\n")
    assert run.main(["--profile", "smoke"]) == 2
    error = capsys.readouterr().err
    assert "key in smoke.yaml, no notebook takes: 'steep'; did you mean steps" in error
    assert "lr wants float" in error, "all that is wrong is said at once"


def test_a_section_is_for_one_notebook_and_comes_before_what_is_shared(house):
    (house / "params" / "smoke.yaml").write_text("steps: 7\nlr: 0.5\none: {steps: 8}\ntwo:\n  seeds: [3]\n")
    assert run.plan([], "smoke", {"lr": 0.25}) == {
        "one": {"steps": 8, "lr": 0.25},
        "two": {"steps": 7, "lr": 0.25, "seeds": [3]},
        "three": {"steps": 7, "lr": 0.25},
    }


def test_what_sections_cannot_hold_is_refused(house, capsys):
    changed = notebook("two", RESULT)
    changed.cells[1].source = changed.cells[1].source.replace("learning rate", "rate of decay")
    nbformat.write(changed, house / "two.ipynb")
    text = "lr: 0.5\nonee: {steps: 1}\none: {stepz: 1, 3: 4}\ntwo: {lr: fast}\n"
    (house / "params" / "smoke.yaml").write_text(text)
    assert run.main(["--profile", "smoke"]) == 2
    error = capsys.readouterr().err
    assert "unknown section in smoke.yaml: 'onee'; did you mean one" in error
    assert "unknown key in smoke.yaml, one does not take: 'stepz'; did you mean steps" in error
    assert "unknown key in smoke.yaml, one does not take: '3'" in error and "two: lr wants float" in error
    said = "lr is not one thing (three: learning rate, two: rate of decay); write it into the notebooks' sections"
    assert said in error


def test_steps_of_one_notebook_reach_no_other():
    """In the real profiles nothing is shared that the notebooks do not call by the same words."""
    for profile in run.profiles()[1:]:
        text = (run.NOTEBOOKS / "params" / f"{profile}.yaml").read_text()
        shared = {k for k, v in run.read(text, profile).items() if not isinstance(v, dict)}
        assert shared and not shared & {"steps", "lr", "batch", "seeds", "every"}
    paper = run.plan([], "paper", {})
    assert paper["ex_dino1"]["steps"] == paper["ex_dino3"]["image_steps"], "whose image models are those of ex_dino1"
    assert all(paper[f"ex_slot{i}"]["photo_steps"] == paper["ex_slot2"]["photo_steps"] for i in (4, 5))


@pytest.fixture
def asked(monkeypatch):
    """What a plan was asked for; it finds that one would take two days, and that two lacks its data."""
    found = []

    def foreseen(plans, out, full, workers):
        found.append((list(plans), full, workers))
        return {"wrong": ["missing: data of two"] if "two" in plans else [], "seconds": dict.fromkeys(plans, 2 * 86400)}

    monkeypatch.setattr(run, "foreseen", foreseen)
    return found


@pytest.mark.parametrize(
    ("arguments", "planned"),
    [
        (["--plan"], (["one", "two", "three"], True, 1)),
        (["--plan", "--workers", "3"], (["one", "two", "three"], True, 3)),
        (["--profile", "smoke", "two", "--plan"], (["two"], True, 1)),
        (["--profile", "large"], (["one", "two", "three"], True, 1)),
        (["-p", "network", "fpn_lite0", "two"], (["two"], False, 1)),
        (["-p", "device", "cuda", "two"], (["two"], False, 1)),
    ],
)
def test_what_cannot_run_here_does_not_start(house, tmp_path, capsys, monkeypatch, asked, arguments, planned):
    monkeypatch.setattr(run, "execute", lambda *_: pytest.fail("a notebook was started"))
    cuda = [c.replace("one of auto, cpu", "one of auto, cpu, cuda") for c in [PARAMETERS]]
    for name in ("one", "two", "three"):
        made = notebook(name, RESULT, TABLE)
        made.cells[1].source = cuda[0]
        nbformat.write(made, house / f"{name}.ipynb")
    (house / "params" / "large.yaml").write_text("steps: 9\n")
    assert run.main([*arguments, "--out", str(tmp_path / "out")]) == 2
    assert asked == [planned] and not (tmp_path / "out").exists()
    assert "this cannot be run here\nmissing: data of two" in capsys.readouterr().err


def test_a_plan_starts_nothing_and_a_run_that_is_long_has_time(house, tmp_path, monkeypatch, asked):
    limits = []
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "")
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_")  # and what a run sets is undone
    monkeypatch.setattr(run, "execute", lambda name, *given: limits.append(given[-1]) or {"notebook": name,
        "status": "ok", "seconds": 0, "says": ""})  # fmt: skip
    (house / "params" / "large.yaml").write_text("steps: 9\n")
    for arguments in (["--plan"], [], ["--time-limit", "5"], ["-p", "steps", "3"]):
        assert run.main(["one", "--profile", "large", "--out", str(tmp_path / "out"), *arguments]) == 0
        assert (tmp_path / "out").exists() == bool(limits)
    assert limits == [8 * 86400, 5, None]
    assert os.environ["MALLOC_MMAP_THRESHOLD_"] == "1048576", "kernels of large runs give arrays back to the system"
    assert not run.outside("one", {"steps": 3, "network": "own", "parts": ["b"]}), "no plan is made where all is here"


def test_committed_notebooks_are_not_overwritten_by_other_parameters(house, capsys, monkeypatch):
    monkeypatch.setattr(run, "ROOT", house)
    assert run.main(["--profile", "smoke", "--out", str(house)]) == 2
    assert "give another --out" in capsys.readouterr().err


def test_whole_numbers_serve_as_floats(house):
    assert run.plan(["one"], "default", {"lr": 1}) == {"one": {"lr": 1.0}}
    assert run.plan([], "smoke", {})["two"] == {"steps": 7}


@pytest.mark.parametrize("name", run.series())
def test_every_choice_of_the_real_notebooks_can_be_read(name):
    """And holds what a profile or the default chooses."""
    for about in run.parameters(name).values():
        if " of " in about["help"] and (said := re.search("(?:one|some) of (.+)", about["help"])):
            value, known = ast.literal_eval(about["default"]), run._names(said[1], name)
            assert value == ["all"] or {*(value if isinstance(value, list) else [value])} <= {*known}


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
    page = (out / "index.html").read_text()
    assert "ValueError: slots fell off" in page and "Does one run?" in page
    assert re.search(r'<td class="n">0\.\d</td><td class="n">0\.[1-9]</td>', page)  # minutes and GB of a kernel
    failed = nbformat.read(out / "notebooks" / "two.failed.ipynb", as_version=4)
    assert any(o.output_type == "error" for c in failed.cells if c.cell_type == "code" for o in c.outputs)
    done = nbformat.read(out / "notebooks" / "one.ipynb", as_version=4)
    assert done.cells[0].source.startswith("> **profile default with steps=5; data cubes; device abacus; today.**")
    assert "0.50 ± 0.01<!-- ours/fg_ari -->, n/a<!-- theirs/fg_ari --> before" in done.cells[0].source
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


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_who_is_stopped_keeps_what_is_done_and_leaves_nothing_half_written(house, tmp_path, how):
    nbformat.write(notebook("two", "print('here')\nimport time\ntime.sleep(60)"), house / "two.ipynb")
    code = (
        "import sys, pathlib; from lib import run; run.NOTEBOOKS = pathlib.Path(sys.argv[1]); "
        "sys.exit(run.main(['--out', sys.argv[2]]))"
    )
    out = tmp_path / "out"
    (out / "notebooks").mkdir(parents=True)
    (out / "notebooks" / ".three.partial.ipynb").write_text("of a run that was killed")
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
    process.send_signal(how)
    text = process.communicate(timeout=120)[0]
    assert process.returncode == 130
    assert "stopped" in text and "ours fg_ari" in text
    assert [p.name for p in (out / "notebooks").iterdir()] == ["one.ipynb"]


@pytest.mark.parametrize("profile", ["smoke", "gpu", "paper"])
def test_the_real_profiles_fit_the_real_notebooks(profile):
    if profile not in run.profiles():
        pytest.skip(f"no {profile} profile yet")
    assert set(run.plan([], profile, {})) == set(run.series())


def test_every_real_notebook_is_listed():
    written = {p.stem for p in (ROOT / "notebooks").glob("*.ipynb")}
    assert written == set(run.series()), "a notebook outside the order of the story"
    assert all(run.question(n) for n in run.series())


def test_headline_of_a_run_without_results(tmp_path):
    assert run.headline(Path(tmp_path), "x") == ""
    (tmp_path / "figures" / "results").mkdir(parents=True)
    summary = {"a": {"m": {"mean": 1.0, "sd": None, "n": 1}}}
    (tmp_path / "figures" / "results" / "x.json").write_text(
        json.dumps({"headline": {"config": "a", "metric": "m"}, "summary": summary})
    )
    assert run.headline(tmp_path, "x") == "a m 1.000"
