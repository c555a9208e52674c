"""`make lab` opens copies: what is committed is left alone, and so is what the user has changed."""

import os
import platform
import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from ipykernel.kernelspec import get_kernel_dict
from jupyterlab.commands import get_app_dir
from jupyterlab_server.settings_utils import get_settings
from nbformat.v4 import new_code_cell, new_notebook

from lib import ROOT

LAB = ROOT / "notebooks" / "lab"


def notebook(code: str) -> str:
    made = new_notebook(cells=[new_code_cell(code, id="a")])
    made.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    made.metadata["language_info"] = {"name": "python", "version": "3.0.0"}
    return nbformat.writes(made)


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A workbook of two notebooks and a page; `open` copies them, and gives what it becomes."""
    names, told = runpy.run_path(str(LAB / "open.py"), run_name="open"), []
    (tmp_path / "notebooks" / ".ipynb_checkpoints").mkdir(parents=True)
    for name, text in (
        ("one.ipynb", notebook("1")),
        ("two.ipynb", notebook("2")),
        ("index.md", '[](../figures/x.png) <img src="../figures/y.png">'),
    ):
        (tmp_path / "notebooks" / name).write_text(text)
    monkeypatch.setitem(names["main"].__globals__, "ROOT", tmp_path)
    monkeypatch.setattr(os, "execv", lambda *command: told.append(command))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PYTHONPATH", "")

    def start() -> list[str]:
        names["main"]()
        return told[-1][1]

    folder = tmp_path / "runs" / "explore" / "notebooks"
    return SimpleNamespace(notebooks=tmp_path / "notebooks", copies=folder, open=start, root=tmp_path)


def test_copies_are_renewed_until_they_are_changed(house, capsys):
    house.open()
    assert sorted(p.name for p in house.copies.iterdir()) == [".copied", "index.md", "one.ipynb", "two.ipynb"]
    copy = nbformat.read(house.copies / "one.ipynb", as_version=4)
    assert copy.cells[0].source == "1" and copy.metadata.kernelspec.display_name == get_kernel_dict()["display_name"]
    assert copy.metadata.language_info.version == platform.python_version()
    text = (house.copies / "index.md").read_text()
    for figure, name in zip(re.findall(r"[\w./]+png", text), ("x.png", "y.png"), strict=True):
        assert (house.copies / figure).resolve() == house.root / "figures" / name

    (house.copies / "one.ipynb").write_text("mine")
    (house.notebooks / "two.ipynb").write_text(notebook("22"))
    house.open()
    assert (house.copies / "one.ipynb").read_text() == "mine" and '"22"' in (house.copies / "two.ipynb").read_text()
    assert not capsys.readouterr().out, "nothing is new for the one that was changed"
    (house.notebooks / "one.ipynb").write_text(notebook("11"))
    (house.copies / ".copied" / "two.ipynb").unlink()
    house.open()
    assert (house.copies / "one.ipynb").read_text() == "mine" and "kept your" in (said := capsys.readouterr().out)
    assert "two" not in said, "a copy as it would be made is nobody's"


def test_jupyterlab_is_told_to_render_markdown_and_to_leave_the_news(house):
    command = house.open()
    options = dict(a.partition("=")[::2] for a in command)
    assert options["--ServerApp.root_dir"] == str(house.root) and "--allow-root" in options
    page = options["--LabApp.default_url"].removeprefix("/lab/tree/")
    assert (house.root / page).samefile(house.copies / "index.md")
    assert os.environ["PYTHONPATH"] == str(house.root)
    schemas = Path(get_app_dir()) / "schemas"
    for plugin, key, value in (
        ("docmanager-extension:plugin", "defaultViewers", {"markdown": "Markdown Preview"}),
        ("apputils-extension:notification", "fetchNews", "false"),
    ):
        settings = options["--LabApp.app_settings_dir"]
        found = get_settings(settings, str(schemas), str(house.root), f"@jupyterlab/{plugin}")[0]
        assert found["schema"]["properties"][key]["default"] == value
