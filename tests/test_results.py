"""Results: honest means, strict JSON, verdicts that read the same everywhere, and documents that quote the files."""

import ast
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import mistune
import pandas as pd
import pytest

from lib import ROOT, results, run

RUNS = [{"config": "ours", "seed": s, "metrics": {"fg_ari": v, "mbo": 0.5}} for s, v in enumerate((0.7, 0.8, 0.9))] + [
    {"config": "blocks", "seed": 0, "metrics": {"fg_ari": 0.5, "mbo": math.nan}}
]
DATA = {"name": "shapes", "split": "test", "fingerprint": "x"}


def test_summary_is_mean_sample_sd_and_n():
    summary = results.summarise(RUNS)
    assert summary["ours"]["fg_ari"] == pytest.approx({"mean": 0.8, "sd": 0.1, "n": 3})
    assert summary["blocks"]["fg_ari"]["n"] == 1 and math.isnan(summary["blocks"]["fg_ari"]["sd"])
    assert summary["blocks"]["mbo"]["n"] == 0, "what could not be measured does not count"


def test_the_file_is_strict_json_and_complete(tmp_path, monkeypatch):
    monkeypatch.setenv("SLOTS_OUT", str(tmp_path))
    table = results.write("nb", RUNS, params={"seeds": [0, 1, 2]}, data=DATA, headline=("ours", "fg_ari"))
    assert table.loc["ours", "fg_ari"] == "0.800 ± 0.100" and table.loc["blocks", "fg_ari"] == "0.500"
    path = tmp_path / "figures" / "results" / "nb.json"

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    document = json.loads(path.read_text(), parse_constant=refuse)
    assert document["summary"]["ours"]["fg_ari"]["mean"] == 0.8 and document["runs"][3]["metrics"]["mbo"] is None
    keys = {"notebook", "profile", "date", "revision", "device", "versions", "data", "params", "headline", "runs"}
    assert keys <= document.keys() and list(path.parent.iterdir()) == [path]


def test_wrong_runs_and_headlines_are_errors(tmp_path, monkeypatch):
    monkeypatch.setenv("SLOTS_OUT", str(tmp_path))
    with pytest.raises(ValueError, match="lacks.*seed"):
        results.write("nb", [{"config": "a", "metrics": {}}], params={}, data=DATA, headline=("a", "x"))
    with pytest.raises(ValueError, match="headline"):
        results.write("nb", RUNS, params={}, data=DATA, headline=("ours", "fg_arj"))
    assert not (tmp_path / "figures").exists()


def test_a_verdict_hides_jitter_and_shows_a_drop(capsys):
    results.check("FG-ARI", 0.7123, 0.71, atol=0.02)
    results.check("FG-ARI", 0.7000, 0.71, atol=0.02)
    results.check("FG-ARI", 0.5, 0.71, atol=0.02)
    results.check("FG-ARI", math.nan, 0.71, atol=0.02)
    first, second, third, fourth = capsys.readouterr().out.splitlines()
    assert first == second == "FG-ARI: ok (expected 0.71 ± 0.02)"
    assert third.startswith("FG-ARI: REGRESSION 0.5000") and "REGRESSION" in fourth


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, None),
        ({"device": "cuda"}, None),
        ({"photo_steps": 6}, "not compared: parameters differ (photo_steps 6 instead of 1200)"),
        ({"lr": 0.1, "photo_px": 32, "photo_crops": 9, "photo_batch": 2}, "photo_crops 9 instead of 512 and 1 more)"),
    ],
)
def test_verdicts_compare_nothing_once_parameters_differ(tmp_path, monkeypatch, capsys, changed, said):
    monkeypatch.setenv("SLOTS_OUT", str(tmp_path))
    monkeypatch.setattr(results, "_differ", "")
    defaults = {k: ast.literal_eval(p["default"]) for k, p in run.parameters("ex_slot5").items()}
    monkeypatch.setattr(results, "get_ipython", lambda: SimpleNamespace(user_ns=defaults | changed))
    results.write("ex_slot5", RUNS, params={}, data=DATA, headline=("ours", "fg_ari"))
    results.check("FG-ARI", 0.5, 0.71, atol=0.02)
    results.claim("slots beat blocks", False)
    check, claim = capsys.readouterr().out.splitlines()
    assert (said or "REGRESSION 0.5000 (expected 0.71 ± 0.02)") in check
    assert (said or "NO LONGER HOLDS") in claim
    if said:  # a subset need not hold the headline
        results.write("ex_slot5", RUNS[3:], params={}, data=DATA, headline=("ours", "fg_ari"))


def test_what_was_not_run_has_nan_for_a_mean():
    means = results.means(RUNS)
    assert means["ours"] == pytest.approx({"fg_ari": 0.8, "mbo": 0.5})
    assert math.isnan(means["theirs"]["fg_ari"]) and math.isnan(means["ours"]["nothing"])


def test_a_claim_says_when_it_no_longer_holds(capsys):
    results.claim("slots beat blocks", True)
    results.claim("slots beat blocks", False)
    assert capsys.readouterr().out == "slots beat blocks: holds\nslots beat blocks: NO LONGER HOLDS\n"


DOCUMENTS = ["README.md", "log.md", *(f"notebooks/{n}.ipynb" for n in run.series())]


def markdown(document: str) -> list[str]:
    """The Markdown of a file: the whole, or cell by cell."""
    if document.endswith(".md"):
        return [(ROOT / document).read_text()]
    return [
        "".join(c["source"]) for c in json.loads((ROOT / document).read_text())["cells"] if c["cell_type"] == "markdown"
    ]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_numbers_in_documents_are_those_of_the_files(document):
    """`make readme` refills them; every marker is matched, or `refill` raises."""
    notebook = Path(document).stem if document.endswith(".ipynb") else None
    texts = markdown(document)
    assert sum(t.count("<!--") for t in texts), f"{document} quotes no results file"
    for text in texts:
        for line, again in zip(text.splitlines(), results.refill(text, notebook).splitlines(), strict=True):
            assert line == again


def test_every_number_is_refilled(tmp_path):
    folder = tmp_path / "figures" / "results"
    folder.mkdir(parents=True)
    summary = {"ours, long": {"loss %": {"mean": -0.1234, "sd": 0.05, "n": 3}}}
    (folder / "a.json").write_text(json.dumps({"summary": summary, "params": {"steps": 800}}))
    text = "0<!-- a/params/steps --> | -9.99 ± 1.00<!-- a/ours, long/loss % -->, +999%<!-- a/ours, long/loss %/sd -->"
    said = "800<!-- a/params/steps --> | -0.12 ± 0.05<!-- a/ours, long/loss % -->, +5%<!-- a/ours, long/loss %/sd -->"
    assert results.refill(text, None, tmp_path) == said
    assert results.refill("1.0<!-- ours, long/loss % -->", "a", tmp_path) == "-0.1<!-- ours, long/loss % -->"
    assert results.refill("−1.0<!-- ours, long/loss % -->", "a", tmp_path) == "−0.1<!-- ours, long/loss % -->"


@pytest.mark.parametrize(
    "text", ["1<!-- a/b -->", "1 <!-- ex_slot1/params/steps -->", "1<!-- ex_slot1/params|steps -->"]
)
def test_a_marker_that_names_nothing_is_refused(text):
    with pytest.raises(ValueError, match="names no value|must follow a number"):
        results.refill(text)


@pytest.mark.parametrize("document", [*DOCUMENTS, "data/README.md", "notebooks/index.md"])
def test_no_comment_shows_when_rendered(document):
    """Tables of GitHub-flavoured Markdown split at `|`, also inside a comment."""
    rendered = mistune.create_markdown(escape=False, plugins=["table", "strikethrough", "task_lists", "url"])
    for text in markdown(document):
        html = re.sub("<!--.*?-->", "", rendered(text), flags=re.S)
        shown = re.sub("<code>.*?</code>", "", html, flags=re.S)
        assert not re.search("<!--|-->|&lt;!--|--&gt;", shown), document
        rows = [line for line in text.splitlines() if re.match(r"\s*\|[\s:|-]+\|\s*$", line)]
        assert html.count("<table>") == len(rows), f"{document}: a table is not rendered as one"


def test_tables_and_documents_count_the_rows_that_are_marked(tmp_path, monkeypatch):
    monkeypatch.setenv("SLOTS_OUT", str(tmp_path))
    monkeypatch.setattr(results, "MARKED", {"a": {"x": True, "y": False}, "b": {"z": True}})
    assert results.table(results.summarise(RUNS)).columns.name == "2 of 3 rows are marked"
    results.write("nb", RUNS, params={}, data=DATA, headline=("ours", "fg_ari"))
    assert results.read("nb", tmp_path)["rows"] == {"a": {"marked": 1, "all": 2}, "b": {"marked": 1, "all": 1}}
    monkeypatch.setattr(results, "MARKED", {})
    assert results.table(results.summarise(RUNS)).columns.name is None


def test_a_mean_of_fewer_runs_says_so():
    runs = [{"config": "a", "seed": s, "metrics": {"x": 1.0, "y": v}} for s, v in enumerate((2.0, math.nan, 4.0))]
    runs.append({"config": "once", "seed": 0, "metrics": {"x": 1.0, "y": 3.0}})
    table = results.table(results.summarise(runs))
    assert list(table.loc["a"]) == ["1.000 ± 0.000", "3.000 ± 1.414 (n 2)"]
    assert list(table.loc["once"]) == ["1.000", "3.000"]


def test_tables_fold_break_nowhere_and_show_the_best():
    values = {"fg_ari": ["0.900", "0.200 ± 0.010", "0.300 ± 0.020"] + ["-"] * 12, "p": [math.nan, 0.12345678, 0.5] * 5}
    values |= {"memory_mb": [3300829.0, 1.0, 2.0] * 5, "attention_mask_similarity_of_all_frames": [0.25] * 15}
    names = ["oracle_grid", "original, long", *("ours, without any of the reference frames of them" for _ in range(13))]
    text = results.html(pd.DataFrame(values, names))
    assert re.findall("<b>(.*?)</b>", text) == ["0.300\xa0±\xa00.020"], "neither the upper limit nor the others"
    shown, folded = text.split("<details><summary>3 more rows</summary>")
    assert shown.count("<tr>") == 12 and folded.count("<tr>") == 3
    assert "nan" not in text.lower() and "3,300,829<" in text and "<td>0.123<" in text and "<td>0.25<" in text
    cells = re.findall("<t[dh]>(.*?)</t[dh]>", text)
    assert not any(" " in cell.replace("\xa0", "_") for cell in cells) and max(c.count("<br>") for c in cells) == 1
    assert "details" not in results.html(pd.DataFrame(values, names)[:12])
