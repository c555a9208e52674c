"""What `make bench` keeps: competitors in turns, ratios within a round, and a page that its JSON alone fills."""

import json
import runpy

import pytest

from lib import ROOT, provenance

HERE = ROOT / "tests" / "benchmarks"
MEASURE, PAGE = (runpy.run_path(str(HERE / f"{name}.py")) for name in ("conftest", "page"))
BLOCK = {"section": "S", "about": "", "text": "About it.", "rounds": 3, "facts": {"error": 0.5}}
MADE = {
    "machine": {
        "processor": "x",
        "threads": 2,
        "system": "Linux",
        "machine": "m",
        "python_version": "3",
        "versions": {},
        "revision": "abc",
    },
    "plan": {},
    "notebooks": {"ex_slot1": 0.25, "ex_slot2": 0.75},
    "blocks": [
        BLOCK | {"case": "one", "fast": {"theirs": [1, 1, 1], "ours": [1.4, 1.5, 1.75]}},
        BLOCK | {"case": "two", "cost": {"1": [1, 1, 1]}, "sizes": [1], "unit": "slots", "exponent": [0.9, 1, 1.25]},
    ],
}


def test_competitors_take_turns_and_the_first_round_does_not_count():
    seen = []
    seconds = MEASURE["interleaved"]({name: lambda name=name: seen.append(name) for name in "ab"}, 2)
    assert "".join(seen) == "baabba" and all(len(times) == 2 for times in seconds.values())


def test_the_machine_has_a_class_and_no_name():
    about = {"node": "secret", "cpu": {"brand_raw": "x"}, "system": "Linux", "machine": "m", "python_version": "3"}
    MEASURE["pytest_benchmark_update_machine_info"](about)
    assert "secret" not in json.dumps(about) and about["processor"] == "x" and "torch" in about["versions"]
    assert about["revision"] == provenance.revision()


def test_the_page_says_each_ratio_with_its_spread():
    text = PAGE["page"](MADE)
    for line in ("| ours | 1.5 [1.4, 1.75] |", "- error: 0.5", "slots to the power of 1 [0.9, 1.25]", "ex_slot2 75 %"):
        assert line in text
    assert text.count("About it.") == 1 and "Not measured." in text


def test_shares_of_a_run(tmp_path):
    row = '<tr><td><a href="#{0}">{0}</a></td><td>ok</td><td class="n">{1}</td></tr>'
    (tmp_path / "index.html").write_text(row.format("ex_slot1", 1.0) + row.format("ex_slot2", 3.0))
    assert PAGE["shares"](tmp_path / "index.html") == {"ex_slot1": 0.25, "ex_slot2": 0.75}
    assert PAGE["shares"](tmp_path / "none.html") == {}


@pytest.mark.skipif(not (ROOT / "figures" / "benchmarks.json").exists(), reason="make bench was not run")
def test_the_committed_page_is_that_of_its_numbers():
    document = json.loads((ROOT / "figures" / "benchmarks.json").read_text())
    assert (ROOT / "figures" / "benchmarks.md").read_text() == PAGE["page"](document)
