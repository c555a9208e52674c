"""Pages: numbers beside the committed ones, and no link of the site that leads nowhere."""

import json
import re
from pathlib import Path

import nbformat
import pytest

from lib import ROOT, site


def made(folder: Path, mean: float) -> None:
    (folder / "figures" / "results").mkdir(parents=True)
    summary = {"ours <1>": {"mbo": {"mean": mean, "sd": None}}, "none": {"mbo": {"mean": None, "sd": None}}}
    (folder / "figures" / "results" / "a.json").write_text(json.dumps({"summary": summary}))


def test_numbers_stand_beside_the_committed_ones(tmp_path, monkeypatch):
    made(tmp_path / "root", 0.5)
    made(tmp_path / "out", 0.51)
    monkeypatch.setattr(site, "ROOT", tmp_path / "root")
    (tmp_path / "out" / "notebooks").mkdir()
    code = nbformat.v4.new_code_cell('plots.save(plots.grid([x], ["(a)"]), "a_masks")\nplots.save(figure, "a_none")')
    nbformat.write(nbformat.v4.new_notebook(cells=[code]), tmp_path / "out" / "notebooks" / "a.ipynb")
    (tmp_path / "out" / "figures" / "a_masks.png").touch()
    row = {"notebook": "a", "status": "ok", "seconds": 90.0, "memory": 2.5e9, "says": "x < y", "question": "Why?"}
    failed = {"notebook": "b", "status": "FAILED", "seconds": 1.0, "says": "ValueError"}
    site.overview(tmp_path / "out", [row, failed], "Profile default")
    text = (tmp_path / "out" / "index.html").read_text()
    assert "ours &lt;1&gt;" in text and "x &lt; y" in text and ">1.5<" in text and ">2.5<" in text
    assert "<tr class=far>" in text and ">0.51<" in text and ">0.5<" in text
    assert text.count("<img") == 1 and "a_masks.png" in text
    assert "FAILED" in text and "ValueError" in text


def test_every_link_of_the_site_leads_somewhere(tmp_path):
    pages = site.build(tmp_path)
    assert {p.stem for p in pages} >= {p.stem for p in (ROOT / "notebooks").glob("*.ipynb")} | {"README", "index"}
    dead = []
    for path in pages:
        for address in re.findall(r'(?:href|src)="([^"]*)"', path.read_text()):
            address = address.partition("#")[0]
            if address and "://" not in address and not address.startswith(("data:", "mailto:")):
                target = path.parent / address
                unrendered = target.suffix in (".ipynb", ".md") and not target.resolve().is_relative_to(ROOT)
                if unrendered or not target.exists():
                    dead.append(f"{path.name}: {address}")
    assert not dead, dead


@pytest.mark.parametrize(
    ("source", "link", "target"),
    [
        ("notebooks/index.md", "ex_slot1.ipynb", "ex_slot1.html"),
        ("README.md", "data/README.md#weights", "data/README.html#weights"),
        ("notebooks/ex_slot1.ipynb", "../figures/a.png", "../figures/a.png"),
        ("README.md", "https://example.org/a.md", "https://example.org/a.md"),
    ],
)
def test_links_follow_what_is_rendered(source, link, target):
    assert site.linked(f'<a href="{link}">', ROOT / source, ROOT / "runs" / "site") == f'<a href="{target}">'


def test_links_to_code_leave_the_site():
    assert site.linked('href="LICENSE"', ROOT / "README.md", ROOT / "runs" / "site") == 'href="../../LICENSE"'
