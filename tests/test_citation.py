"""CITATION.cff says what the package is called by others, and is of its version and licence."""

import tomllib

import yaml

from lib import ROOT


def test_the_citation_is_of_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (cited["version"], cited["license"]) == (project["version"], project["license"])
    assert cited["cff-version"] == "1.2.0" and cited["message"] and cited["authors"][0]["name"]
    assert (ROOT / "README.md").read_text().startswith(f"# {cited['title']}\n")
    assert all({"type", "title", "authors", "year", "url"} <= paper.keys() for paper in cited["references"])
