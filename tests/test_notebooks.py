"""The gate every committed notebook passes before it is replayed. Fast: nothing is executed here."""

import base64
import json
import re
import symtable
from pathlib import Path

import nbformat
import papermill
import pytest
from ipykernel.kernelspec import get_kernel_dict

from lib import ROOT, run

NAMES = run.series()
SETUP = nbformat.read(run.NOTEBOOKS / f"{NAMES[0]}.ipynb", as_version=4).cells[1].source  # see test_setup_cell
#: An absolute path of somebody's machine: a home, a temporary folder, a drive.
PATHS = re.compile(r"(?:/(?:home|root|Users|tmp|work|var)/|[A-Z]:\\\\)\w")


def problems(notebook: nbformat.NotebookNode, name: str) -> list[str]:
    """Everything that keeps a notebook from being committed."""
    found = []
    code = [c for c in notebook.cells if c.cell_type == "code"]
    tagged = [c for c in code if "parameters" in c.metadata.get("tags", [])]
    if code[0].source != SETUP:
        found.append("does not begin with the set-up cell of the others")
    if len(tagged) != 1:
        found.append(f"{len(tagged)} parameters cells, there must be one")
    for line in tagged[0].source.splitlines() if tagged else []:
        if not re.fullmatch(r"\w+: (int|float|str|bool|list) = [^=]+  # [^=]+", line):
            found.append(f"parameter without type or help, or with = in its help: {line}")
    if [c.execution_count for c in code] != list(range(1, len(code) + 1)):
        found.append("cells were not executed once, in order")
    if any("injected-parameters" in c.metadata.get("tags", []) for c in code):
        found.append("holds injected parameters: commit outputs of the defaults")
    if not any("nbval-check-output" in c.metadata.get("tags", []) for c in code):
        found.append("no cell is checked by nbval")
    outputs = [o for c in code for o in c.outputs]
    if any(o.output_type == "error" for o in outputs):
        found.append("holds an error output")
    if PATHS.search(json.dumps(notebook)):
        found.append(f"names a path of a machine: {PATHS.search(json.dumps(notebook))[0]}")
    if notebook.metadata.kernelspec.display_name != get_kernel_dict()["display_name"]:
        found.append("the kernel's name is not that of ipykernel, so JupyterLab opens as modified")
    parameters = set(re.findall(r"^(\w+):", tagged[0].source, re.M)) if tagged else set()
    stored = symtable.symtable("\n".join(c.source for c in code if c not in tagged), name, "exec").get_symbols()
    if again := parameters & {s.get_name() for s in stored if s.is_assigned()}:
        found.append(f"assigns parameters: {again}, so verdicts cannot tell whether they are the defaults")
    if "widgets" in notebook.metadata or "papermill" in notebook.metadata:
        found.append("metadata of a run (widgets or papermill)")
    lines = sum(len(c.source.splitlines()) for c in code)
    if lines > 250:
        found.append(f"{lines} lines of code, counting blank ones, at most 250")
    pictures = [base64.b64decode(o.data["image/png"]) for o in outputs if "image/png" in o.get("data", {})]
    if not pictures or max(map(len, pictures)) > 300_000:
        found.append("no figure, or one over 300 KB")
    if any(
        c.cell_type == "code" and len("".join(o.get("text", "") for o in c.outputs).splitlines()) > 100 for c in code
    ):
        found.append("a cell prints over 100 lines")
    text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    at = NAMES.index(name)
    for neighbour in [*NAMES[max(at - 1, 0) : at], *NAMES[at + 1 : at + 2], "index"]:
        if not re.search(rf"\]\({neighbour}\.(ipynb|md)\)", notebook.cells[0].source):
            found.append(f"no link to {neighbour}")
    for part in ("**Question.**", "**What we expect.**", "## What we learned", "## What would change our mind"):
        if part not in text:
            found.append(f"no {part}")
    return found


@pytest.mark.parametrize("name", NAMES)
def test_gate(name):
    notebook = nbformat.read(run.NOTEBOOKS / f"{name}.ipynb", as_version=4)
    assert not problems(notebook, name)


@pytest.mark.parametrize("name", NAMES)
def test_papermill_sees_every_parameter(name):
    """papermill drops what it cannot parse (`int | None`) without a word; ours counts the lines itself."""
    path = run.NOTEBOOKS / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    cell = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    seen = papermill.inspect_notebook(str(path))
    assert list(seen) == re.findall(r"^(\w+):", cell.source, re.M)
    assert all(p["inferred_type_name"] != "None" and p["help"] for p in seen.values())


@pytest.mark.parametrize("name", NAMES)
def test_results_are_committed_beside_the_notebook(name):
    document = json.loads((ROOT / "figures" / "results" / f"{name}.json").read_text())
    assert document["notebook"] == name and document["runs"] and document["summary"]
    assert all((ROOT / "figures" / p).exists() for p in figures_of(name))


def figures_of(name: str) -> list[str]:
    source = (run.NOTEBOOKS / f"{name}.ipynb").read_text()
    return [f"{stem}.png" for stem in re.findall(r'plots\.save\([^\n]*\\"(\w+)\\"\)', source)]


def broken(change) -> list[str]:
    name = NAMES[0]
    notebook = nbformat.read(run.NOTEBOOKS / f"{name}.ipynb", as_version=4)
    change(notebook, [c for c in notebook.cells if c.cell_type == "code"])
    return problems(notebook, name)


def _swap(_, code):
    code[2].execution_count, code[3].execution_count = code[3].execution_count, code[2].execution_count


def _error(_, code):
    code[2].outputs.append(nbformat.v4.new_output("error", ename="E", evalue="x", traceback=[]))


def _path(_, code):
    code[2].outputs.append(nbformat.v4.new_output("stream", text="/home/somebody/x.png"))


def _long(_, code):
    code[2].source += "\nx = 1" * 250


def _renamed(notebook, _):
    notebook.metadata.kernelspec.display_name = "Python 3"


def _reassigned(_, code):
    code[2].source += "\nfor steps in (1, 2):\n    pass"


def _untyped(_, code):
    next(c for c in code if "parameters" in c.metadata.tags).source += "\nspeed = 3  # no type"


def _widgets(notebook, _):
    notebook.metadata["widgets"] = {}


def _heavy(_, code):
    data = {"image/png": base64.b64encode(b"0" * 400_000).decode()}
    code[2].outputs.append(nbformat.v4.new_output("display_data", data=data))


def _bare(notebook, _):
    del notebook.cells[1]


def _unlinked(notebook, _):
    notebook.cells[0].source = notebook.cells[0].source.replace("index.md", "nowhere.md")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_swap, "in order"),
        (_error, "error output"),
        (_path, "path of a machine"),
        (_long, "at most 250"),
        (_renamed, "opens as modified"),
        (_reassigned, "assigns parameters: {'steps'}"),
        (_untyped, "without type"),
        (_widgets, "metadata of a run"),
        (_heavy, "300 KB"),
        (_bare, "set-up cell"),
        (_unlinked, "no link to index"),
    ],
)
def test_the_gate_can_close(change, message):
    assert any(message in p for p in broken(change))


def test_the_index_links_every_notebook():
    index = (Path(run.NOTEBOOKS) / "index.md").read_text()
    assert re.findall(r"\]\((\w+)\.ipynb\)", index) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_names_of_data_and_devices_come_from_what_was_loaded(name):
    """With real data, or on a GPU, a name that is written down would be wrong."""
    notebook = nbformat.read(run.NOTEBOOKS / f"{name}.ipynb", as_version=4)
    code = "\n".join(c.source for c in notebook.cells if c.cell_type == "code")
    assert 'stand-in"' not in code and 'device("cpu")' not in code
    assert all("device=" in call for call in re.findall(r"results\.write\((?:[^()]|\([^()]*\))*\)", code))
