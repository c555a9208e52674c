"""One JSON a run: the only source of numbers for tables, README and figures. Where output goes is decided here too."""

import ast
import json
import math
import os
import platform
import re
import textwrap
import time
from collections import defaultdict
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from IPython import get_ipython

from lib import ROOT, files, provenance
from lib.metrics.intervals import label

#: Rows of a table that are shown at once, measures of which the higher or the lower is better, and a cell's number.
ROWS = 12
HIGHER = re.compile(r"\b(ARI|mBO|m?IoU|siou|f1|au(roc|pr)( \w+)*)(, refined)?$")
LOWER = re.compile(r"\b(mse|fpr95( \w+)*)$")
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?(?=\s|$)")
#: Parameters that move no number by more than a verdict allows.
ALIKE = {"device"}
#: What verdicts say instead, once `write` has found parameters that are not the defaults.
_differ = ""
#: Of each sweep that was read in this process: its rows by key, and whether they carry a note of `sweeps.run`.
MARKED: dict[str, dict[str, bool]] = {}
LIBRARIES = ("torch", "torchvision", "numpy", "scikit-learn", "lightning-fabric", "papermill")


if shell := get_ipython():
    shell.display_formatter.formatters["text/html"].for_type(pd.DataFrame, lambda frame: html(frame))


def out() -> Path:
    """The folder for figures, results and new checkpoints: `SLOTS_OUT`, set by `lib.run`, else `runs/explore`.

    So exploring in JupyterLab or replaying never touches what is committed.
    """
    return Path(os.environ.get("SLOTS_OUT", ROOT / "runs" / "explore")).resolve()


def write(
    notebook: str,
    runs: list[dict[str, Any]],
    *,
    params: dict[str, Any],
    data: dict[str, str],
    headline: tuple[str, str],
    device: str = "cpu",
) -> pd.DataFrame:
    """Write `figures/results/<notebook>.json` under `out()` and return its summary as a table.

    Introduced in notebooks/ex_slot1.ipynb.

    Args:
        runs: one a configuration and seed: `{"config", "seed", "metrics": {name: float}, "seconds"}`.
        params: the notebook's parameters.
        data: `{"name", "split", "fingerprint"}`; the name says "stand-in" where it is one.
        headline: configuration and metric that `lib.run` shows in its table.

    Raises:
        ValueError: a run lacks a key, or the headline's metric is in no run.
    """
    global _differ
    _differ = _differences(notebook)
    for run in runs:
        if missing := {"config", "seed", "metrics"} - run.keys():
            raise ValueError(f"a run of {notebook} lacks {sorted(missing)}: {run}")
    summary = summarise(runs)
    if not any(headline[1] in metrics for metrics in summary.values()):  # the configuration may have failed
        raise ValueError(f"headline {headline} is no configuration and metric of {notebook}: {list(summary)}")
    document = {
        "notebook": notebook,
        "profile": os.environ.get("SLOTS_PROFILE", "default"),
        "date": time.strftime("%Y-%m-%d"),
        "revision": provenance.revision(),
        "device": device,
        "versions": versions(),
        "data": data,
        "params": params,
        "rows": {name: {"marked": sum(rows.values()), "all": len(rows)} for name, rows in MARKED.items()},
        "headline": {"config": headline[0], "metric": headline[1]},
        "runs": runs,
        "summary": {
            config: {name: {k: v for k, v in value.items() if k != "sd" or v == v} for name, value in metrics.items()}
            for config, metrics in summary.items()
        },
    }
    document = provenance.as_json(document, f"what {notebook} writes", strict=False, digits=6)  # all that is meant
    files.write(out() / "figures" / "results" / f"{notebook}.json", document)
    return table(summary)


def summarise(runs: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Mean, sample standard deviation (n - 1; NaN for one run) and n of every metric of every configuration.

    A NaN in a run (nothing to measure) is left out, and n says so.
    """
    summary: dict[str, dict[str, dict[str, float]]] = {}
    for config in dict.fromkeys(run["config"] for run in runs):
        frame = pd.DataFrame([run["metrics"] for run in runs if run["config"] == config], dtype=float)
        summary[config] = {
            name: {"mean": column.mean(), "sd": column.std(), "n": int(column.count())}
            for name, column in frame.items()
        }
    return summary


def means(runs: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The mean of every metric of every configuration, as `summarise` has it; NaN for what was not run.

    So that a verdict can be asked for although a parameter left a configuration out.
    """
    found: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(lambda: math.nan))
    for config, metrics in summarise(runs).items():
        found[config].update({name: value["mean"] for name, value in metrics.items()})
    return found


def table(summary: dict[str, dict[str, dict[str, float]]]) -> pd.DataFrame:
    """A summary as text, one row a configuration: `0.93 ± 0.02`, or the bare mean of a single run.

    `0.93 (n 2)` says of how many runs a mean is, where others of its configuration are of more.
    Its corner says how many of the rows read so far other code measured, or a tree with uncommitted changes.
    """

    def cell(value: dict[str, float], most: int) -> str:
        spread = "" if math.isnan(value["sd"]) else f" ± {value['sd']:.3f}"
        few = f" (n {value['n']})" if value["n"] < most else ""
        return f"{value['mean']:.3f}{spread}{few}" if value["n"] else "-"

    cells = {}
    for config, metrics in summary.items():
        most = max((value["n"] for value in metrics.values()), default=0)
        cells[config] = {name: cell(value, most) for name, value in metrics.items()}
    found = pd.DataFrame(cells).T.fillna("-")
    marks = [mark for rows in MARKED.values() for mark in rows.values()]
    return found.rename_axis(columns=f"{sum(marks)} of {len(marks)} rows are marked" if any(marks) else None)


def html(frame: pd.DataFrame) -> str:
    """A table as notebooks show it: `ROWS` rows and the others folded, no cell breaks, the best of a measure is bold.

    A column has as many decimals as it needs, at most three where it was not rounded; NaN is a dash. Upper limits
    ("oracle") are not best.
    """
    texts = {}
    for at, name in enumerate(frame.columns):
        column = list(frame.iloc[:, at])
        floats = [x for x in column if isinstance(x, float) and math.isfinite(x)]
        digits = max((len(f"{x:.5f}".rstrip("0").partition(".")[2]) for x in floats), default=0)
        texts[at] = [_text(x, digits if digits < 5 else 3) for x in column]
        name = label(str(name[-1] if isinstance(name, tuple) else name))
        better = max if HIGHER.search(name) else min if LOWER.search(name) else None
        found = {i: NUMBER.match(text) for i, text in enumerate(texts[at]) if "oracle" not in str(frame.index[i])}
        values = {i: float(match[0]) for i, match in found.items() if match}
        if better and len({*values.values()}) > 1:
            best = better(values.values())
            texts[at] = [f"<b>{text}</b>" if values.get(i) == best else text for i, text in enumerate(texts[at])]
    shown = pd.DataFrame(texts, frame.index).set_axis(frame.columns, axis=1)
    shown = shown.rename(columns=lambda name: _broken(label(str(name))), index=_broken)
    first, rest = (part.to_html(escape=False, border=0) for part in (shown[:ROWS], shown[ROWS:]))
    more = len(shown) - ROWS
    return first + (f"<details><summary>{more} more rows</summary>{rest}</details>" if more > 0 else "")


def _text(value: Any, digits: int = 0) -> str:
    """A cell that breaks nowhere."""
    number = isinstance(value, float)
    text = "-" if value is None or (number and math.isnan(value)) else f"{value:,.{digits}f}" if number else str(value)
    return escape(text).replace(" ", "\N{NO-BREAK SPACE}")


def _broken(name: Any) -> str:
    """A heading in at most three lines."""
    return "<br>".join(map(_text, textwrap.wrap(str(name), max(24, len(str(name)) // 2 + 2))))


def read(notebook: str, folder: Path | None = None) -> dict[str, Any]:
    """The results of a notebook, committed ones unless another folder is named."""
    path = (folder or ROOT) / "figures" / "results" / f"{notebook}.json"
    return json.loads(path.read_text(), parse_constant=float)


def rows_of(path: Path) -> tuple[pd.DataFrame, list[str], str]:
    """All numbers of a results file, a row each with what measured it; the names of measures; and where it is from."""
    document, rows = json.loads(path.read_text(), parse_constant=float), []
    for row in document.get("runs", document.get("rows", [{"metrics": document}])):
        own = {k: v for k, v in row.get("params", {}).items() if k != "seed"}
        about = {"config": row.get("config") or ", ".join(f"{k} {v}" for k, v in own.items())}
        about |= {"seed": row.get("seed", row.get("params", {}).get("seed")), "seconds": row.get("seconds")}
        about |= {key: row.get(key, document.get(key, "")) for key in ("revision", "code")}
        rows += [about | {"metric": metric, "value": value} for metric, value in _flat(row["metrics"]).items()]
    found = pd.DataFrame(rows, columns=["config", "seed", "metric", "value", "revision", "code", "seconds"])
    told = [str(document[key]) for key in ("profile", "date", "device") if key in document]
    told += [str(document.get("data", {}).get("name", "")), f"revisions {', '.join(found.revision.unique()[:4])}"]
    return found, list(dict.fromkeys(found.metric)), "; ".join(filter(None, told))


def _flat(values: dict[str, Any], before: str = "") -> dict[str, float]:
    """The numbers in nested dicts, by their keys joined with slashes."""
    found = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{before}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{before}{key}"] = float(value)
    return found


#: A number, perhaps with a deviation, and the marker after it that says which value of which results file it is.
QUOTE = re.compile(r"([+−-]?)(\d+(?:\.(\d+))?)(%?)( ± \d+(?:\.\d+)?%?)?<!-- ([^<>|]+) -->")


def refill(text: str, notebook: str | None = None, folder: Path = ROOT, strict: bool = True) -> str:
    """Markdown whose quoted numbers are those of the results files: `0.78 ± 0.00<!-- ex_dino4/ours/fg_ari -->`.

    The marker names results file, configuration and metric, or the keys to any other value; inside the text of a
    `notebook` its own name is left out. Digits, a plus sign and percent stay as they were written. If not `strict`,
    what names no value is "n/a".

    Raises:
        ValueError: a marker that follows no number, or names no value of the files in `folder`; it says which.
    """

    def refilled(match: re.Match) -> str:
        sign, _, decimals, percent, spread, key = match.groups()
        parts, scale = key.split("/"), 100 if percent else 1
        own = notebook and not (folder / "figures" / "results" / f"{parts[0]}.json").exists()
        try:
            document = read(*((notebook, folder) if own else (parts.pop(0), folder)))
            value = document.get("summary", {}) if parts[0] in document.get("summary", {}) else document
            for part in parts:
                value = value[part]
            summary = value if isinstance(value, dict) else {"mean": value}
            known = ("mean", "sd") if spread and summary.get("sd") is not None else ("mean",)
            numbers = [scale * summary[k] for k in known]
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            if not strict:
                return f"n/a<!-- {key} -->"
            raise ValueError(f"{match[0]} names no value of {folder}/figures/results ({error!r})") from error
        plus = "+" if sign == "+" else ""
        texts = [f"{n:{s}.{len(decimals or '')}f}{percent}" for n, s in zip(numbers, (plus, ""), strict=False)]
        return f"{' ± '.join(texts).replace('-', sign if sign == '−' else '-')}<!-- {key} -->"

    if unquoted := re.findall(r"\S*\s?<!-- .*? -->", QUOTE.sub("", text)):
        raise ValueError(f"a marker must follow a number at once and hold no bar: {unquoted[0]}")
    return QUOTE.sub(refilled, text)


def check(name: str, value: float, expected: float, atol: float) -> None:
    """Print a verdict that reads the same on every machine, so that nbval can compare it; a regression changes it.

    After `write`, with other parameters than the notebook's defaults, nothing is compared. Introduced in
    notebooks/ex_slot1.ipynb.
    """
    stated = f"(expected {expected:g} ± {atol:g})"
    ok = f"ok {stated}" if abs(value - expected) <= atol else f"REGRESSION {value:.4f} {stated}"
    print(f"{name}: {_differ or ok}")


def claim(text: str, holds: bool) -> None:
    """Print whether a sentence of the notebook still follows from its numbers, like `check`."""
    print(f"{text}: {_differ or ('holds' if holds else 'NO LONGER HOLDS')}")


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that move numbers."""
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def device_name(device: torch.device) -> str:
    """The device in words: the GPU's name, or how many CPU threads."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"


def _differences(notebook: str) -> str:
    """How the parameters in this kernel differ from the defaults in the committed notebook; "" outside of one."""
    path, shell = ROOT / "notebooks" / f"{notebook}.ipynb", get_ipython()
    if shell is None or not path.exists():
        return ""
    cells = json.loads(path.read_text())["cells"]
    source = next("".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", []))
    default = {line.target.id: ast.literal_eval(line.value) for line in ast.parse(source).body}
    now = {k: shell.user_ns.get(k) for k in default if k not in ALIKE}
    found = [f"{k} {now[k]} instead of {default[k]}" for k in now if now[k] != default[k]]
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return f"not compared: parameters differ ({', '.join(found[:3])}{more})" if found else ""
