"""The set-up cell of every notebook: it fetches the workbook where only the notebook is, and does nothing elsewhere."""

import os
import subprocess
import sys

import nbformat
import pytest

from lib import ROOT, run

CELLS = {
    name: [c for c in nbformat.read(run.NOTEBOOKS / f"{name}.ipynb", 4).cells if c.cell_type == "code"]
    for name in run.series()
}
CELL = next(iter(CELLS.values()))[0]
#: Stands in for pip: it notes what it was asked for, and "clones" a library that knows where it is.
PIP = """
import pathlib, sys
pathlib.Path("asked").write_text(" ".join(sys.argv[1:]))
if "nowhere" in sys.argv[-1]:
    sys.exit(1)
home = pathlib.Path("slots-and-streets/lib")
home.mkdir(parents=True)
(home / "__init__.py").write_text("ROOT = __file__")
"""


@pytest.mark.parametrize("name", CELLS)
def test_all_notebooks_begin_with_the_same_cell(name):
    first, others = CELLS[name][0], CELLS[name][1:]
    assert first == CELL and "setup" in CELL.metadata.tags
    assert "parameters" in others[0].metadata.tags and not [c for c in others if "setup" in c.metadata.get("tags", [])]


def executed(folder, python: list[str], answer: str = "", **environment: str) -> subprocess.CompletedProcess:
    (folder / "pip").mkdir()
    (folder / "pip" / "__init__.py").touch()  # without it the real one would come first
    (folder / "pip" / "__main__.py").write_text(PIP)
    code = f"{CELL.source}\nimport os\nos.chdir('pip')\nimport lib\nprint(lib.ROOT)"  # wherever one goes afterwards
    own = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | environment
    return subprocess.run([*python, "-c", code], cwd=folder, env=own, input=answer, capture_output=True, text=True)


def test_where_lib_is_not_there_it_is_fetched(tmp_path):
    address = "https://example.org/workbook"
    (tmp_path / "lib").mkdir()  # as in / of Linux: a mere folder, nothing that can be used
    done = executed(tmp_path, [sys.executable, "-S"], f"{address}\n")  # -S: no packages
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith(str(tmp_path / "slots-and-streets" / "lib" / "__init__.py"))
    due = f"install --quiet --src . --editable git+{address}#egg=slots-and-streets"
    assert (tmp_path / "asked").read_text() == due
    assert f'name = "{due.split("=")[-1]}"' in (ROOT / "pyproject.toml").read_text(), "pip compares the two"


def test_a_repository_that_is_not_there_stops_the_cell(tmp_path):
    done = executed(tmp_path, [sys.executable, "-S"], "nowhere\n")
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("subprocess.CalledProcessError")


def test_where_lib_is_there_nothing_happens(tmp_path):
    done = executed(tmp_path, [sys.executable], PYTHONPATH=str(ROOT))
    assert done.stdout == f"{ROOT}\n" and not done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pip"]
