"""An ablation as one call: every configuration of a grid is run once, kept as one file, and never run again."""

import itertools
import json
import os
import statistics
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from lib import ROOT, files, parallel, provenance, results
from lib.checkpoints import OneLine
from lib.provenance import as_json, short

Row = dict[str, Any]
FAILED = ".failed.txt"  # how the file of a traceback ends


def run(
    fn: Callable[..., dict[str, Any]],
    grid: list[dict[str, Any]],
    *,
    name: str,
    data: str | Callable[..., str],
    committed: Path | None = None,
) -> list[Row]:
    """The rows of `rows`, failed ones with an "error" included, in the order of the grid; they are not saved.

    Several processes, also on machines that share the folder, may run the same sweep: each takes what no other has
    taken, and all return all rows. What a killed process had taken is free again. An interrupt keeps what is finished.
    Rows of the file `committed` count as finished, if there is one; a failure in it is not tried again.

    Raises:
        ValueError: a configuration is not JSON or not finite, the source of `fn` cannot be read, or `committed` is no
            file of `save`.
        RuntimeError: under `torchrun`, whose processes are to do the same.
    """
    if parallel.size() > 1:
        raise RuntimeError("torchrun is for one training; rows are shared by the workers of lib.run --workers")
    grid = [as_json(params, f"configuration {i} of sweep {name}") for i, params in enumerate(grid)]
    now = {"revision": provenance.revision(), "code": provenance.code(fn)}
    heads = [{"params": p, "data": data(**p) if callable(data) else data} | now for p in grid]
    known, again, rows, origin = _committed(committed), provenance.remeasure(), [], []
    paths = [results.out() / "sweeps" / name / f"{key(h['params'], h['data'])}.json" for h in heads]
    for path in paths:
        found = [("of earlier runs", _read(path)), ("committed", known.get(path.stem))]
        found = [pair for pair in found if pair[1] and not (again and _doubt(pair[1], now))]  # else measured anew
        where, row = min(found, key=lambda pair: _doubt(pair[1], now), default=("measured now", None))
        origin.append(where)
        rows.append(row)
    with tqdm(total=len(grid), initial=len(grid) - rows.count(None), desc=name, smoothing=0, leave=False) as bar:
        if None in rows and not bar.disable:  # headless there is nobody to tell
            bar.write(_ahead(name, rows.count(None), [*known.values(), *filter(None, rows)], paths[0].parent))
        for wait in (False, True):  # first what no other process is at, then what they leave
            for i in [i for i, row in enumerate(rows) if row is None]:
                rows[i] = _measure(fn, heads[i], paths[i], again, wait)
                bar.update(rows[i] is not None)
                if rows[i] and "error" in rows[i]:
                    said = f"{name}: {grid[i]} failed: {rows[i]['error']} ({paths[i].with_suffix(FAILED)})"
                    bar.write(_portable(said))
    rows = [_noted(row, now) for row in rows]
    _report(name, rows, origin)
    return rows


def key(params: dict[str, Any], data: str) -> str:
    """By what a row is known."""
    return short([params, data])


def product(lists: dict[str, list]) -> list[dict[str, Any]]:
    """Every combination of the values, the last name varying fastest: `product({"lr": [1, 2], "seed": [0]})`."""
    return [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]


def save(rows: list[Row], path: Path) -> None:
    """Write rows, failures included, to a JSON file that can be `committed` to `run`; its other rows stay.

    Measured numbers keep six digits, as those of `results.write` do.
    """
    known = _committed(path) | {key(row["params"], row["data"]): row for row in rows}
    rest = [{k: v for k, v in row.items() if k not in ("params", "note")} for row in known.values()]
    rest = [provenance.as_json(row, f"a row of {path.name}", digits=6) for row in rest]
    bare = [{"params": row["params"]} | some for row, some in zip(known.values(), rest, strict=True)]
    files.write(path, _portable(files.as_lines({"rows": bare})) + "\n")


def _ahead(name: str, due: int, known: list[Row], folder: Path) -> str:
    """What is about to be measured, how long that takes by the rows that are there, and that it can be interrupted."""
    spent = [row["seconds"] for row in known if row.get("seconds")]
    about = f", about {due * statistics.median(spent) / 60:.1f} min by the others' times" if spent else ""
    where = os.path.relpath(folder)
    return f"{name}: measures {due} rows{about}, kept in {where}; interrupt the kernel and run the cell again to go on"


def _measure(fn: Callable, head: Row, path: Path, again: bool, wait: bool) -> Row | None:
    """Run one configuration and keep its result; None where another process is at it and `wait` is not set."""
    with files.lock(path.parent / "locks" / path.stem, wait) as mine:
        if not mine:
            return None
        if (row := _read(path)) and not (again and _doubt(row, head)):  # another process has just measured it
            return row
        failure, start, token = path.with_suffix(FAILED), time.monotonic(), provenance.FOREIGN.set([])
        try:
            metrics = as_json(fn(**head["params"]), f"what {fn.__qualname__} returned", strict=False)
        except Exception:
            text = traceback.format_exc()
            files.write(failure, text)
            return head | {"metrics": {}, "error": text.rstrip().splitlines()[-1]}
        finally:
            foreign = provenance.FOREIGN.get()
            provenance.FOREIGN.reset(token)
        stamp = {"code": head["code"] + ("+" if foreign else "")}  # today's code, but not all of it
        row = head | stamp | {"metrics": metrics, "seconds": round(time.monotonic() - start, 3)}
        files.write(path, row)
        failure.unlink(missing_ok=True)
        return row


def _noted(row: Row, now: Row) -> Row:
    """The row with a "note" where it does not say what was run: other code, or changes that were not committed."""
    notes = ["measured by other code"] if row.get("code") != now["code"] else []
    notes += ["with uncommitted changes"] if row["revision"].endswith("+") else []
    return row | ({"note": ", ".join(notes)} if notes else {})


def _doubt(row: Row, now: Row) -> int:
    """What measuring a row anew would give: 2 today's code, 1 a revision that says what it was, 0 nothing."""
    return 2 * (row.get("code") != now["code"]) or int(row["revision"].endswith("+") > now["revision"].endswith("+"))


def _report(name: str, rows: list[Row], origin: list[str]) -> None:
    """One line: where the rows come from, and what is not known of them."""
    parts = []
    for words in ("committed", "of earlier runs", "measured now"):
        some = [row for row, where in zip(rows, origin, strict=True) if where == words]
        notes = Counter(n for row in some for n in (*row.get("note", "").split(", "), "failed" * ("error" in row)) if n)
        said = ", ".join(f"{number} {note}" for note, number in notes.items())
        parts.append(f"{len(some)} {words}" + (f" ({said})" if said else ""))
    print(f"{name}: {len(rows)} rows: {', '.join(parts)}")
    marks = {key(row["params"], row["data"]): "note" in row for row in rows}
    results.MARKED[name] = results.MARKED.get(name, {}) | marks


def _portable(text: str) -> str:
    """Where the workbook lies on this machine is of no use to another."""
    return text.replace(f"{ROOT}{os.sep}", "")


def _committed(path: Path | None) -> dict[str, Row]:
    """Committed rows by their parameters and data."""
    if path is None or not Path(path).exists():
        return {}
    try:
        rows = json.loads(Path(path).read_text())["rows"]
        return {key(row["params"], row["data"]): row | {"revision": str(row["revision"])} for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no file of sweeps.save ({error!r}); restore it with git checkout") from error


def _read(path: Path) -> Row | None:
    """A kept result; None where there is none, or none that can be read."""
    try:
        row = json.loads(path.read_text())
        return row if {"params", "data", "revision", "metrics"} <= row.keys() else None
    except (FileNotFoundError, ValueError, AttributeError):
        return None


class NothingMeasured(OneLine, RuntimeError):
    """There is no row to show; the message says why."""


def rows(
    notebook: str, trial: Callable[..., dict[str, Any]], grid: list[dict[str, Any]], data: str | Callable[..., str]
) -> list[Row]:
    """Run `trial(**params)` for every `params` of the grid that has no result yet; one row for each that has metrics.

    Introduced in notebooks/ex_slot1.ipynb. A result is known by its parameters and by `data`, which together must say
    everything that makes it. The code that measured it is recorded beside (`provenance.code`): a row that other code
    measured, or a tree with changes that were not committed, is returned all the same, with a note that says so. One
    printed line says where the rows come from. Results are kept one file each, in `sweeps/<notebook>` under
    `results.out()`, and all together in `figures/results/sweep_<notebook>.json`, whose committed rows are not run.

    Args:
        trial: takes parameters by keyword, seed included, and returns metrics; both must be JSON.
        data: what else makes a result: fingerprints of data and weights; or a function of the parameters that says it.

    Returns:
        `{"params", "data", "revision", "code", "metrics", "seconds"}`, and "note". What failed is
        named in a printed line, left out, and tried again by the next call; its traceback is kept beside the results.

    Raises:
        NothingMeasured: there is nothing to measure, or every trial failed.
        ValueError: as of `run`.
    """
    if not grid:
        raise NothingMeasured(f"{notebook}: nothing to measure; give at least one seed and one configuration")
    file = Path("figures", "results", f"sweep_{notebook}.json")
    found = run(trial, grid, name=notebook, data=data, committed=ROOT / file)
    save(found, results.out() / file)
    good = [row | {"metrics": _numbers(row["metrics"])} for row in found if "error" not in row]
    if not good:
        raise NothingMeasured(f"{notebook}: every trial failed; the first: {found[0]['params']}: {found[0]['error']}")
    return good


def _numbers(value: Any) -> Any:
    """What was kept as JSON, which has no NaN and keeps it as null, with NaN again."""
    if type(value) is dict:  # a plan's stops whoever looks
        return {key: _numbers(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_numbers(each) for each in value]
    return float("nan") if value is None else value


def find(rows: list[Row], **params: Any) -> list[Row]:
    """All rows with these parameters; by configuration and seed, because a row that failed leaves no gap."""
    return [row for row in rows if all(row["params"].get(k) == v for k, v in params.items())]


def complete(rows: list[Row]) -> list[int]:
    """The seeds with most rows, in their order: where a trial failed, its seed is none to show pictures of."""
    counts = Counter(row["params"]["seed"] for row in rows)
    return [seed for seed, count in counts.items() if count == max(counts.values())]


def one(rows: list[Row], **params: Any) -> dict[str, Any]:
    """The metrics of the row with these parameters.

    Raises:
        NothingMeasured: there is none, because its trial failed or was not asked for.
    """
    for row in find(rows, **params):
        return row["metrics"]
    raise NothingMeasured(f"there is no row with {params}: it failed, see above, or was not asked for")


def close(now: dict[str, Any], row: dict[str, Any], atol: float) -> bool:
    """Whether no number that both have differs by more than `atol`; a NaN is equal to itself."""
    shared = sorted(now.keys() & row.keys())
    here, there = (np.array([part[key] for key in shared], float) for part in (now, row))
    return np.allclose(here, there, rtol=0, atol=atol, equal_nan=True)
