"""An ablation as one call: every configuration of a grid is run once, kept as one file, and never run again."""

import itertools
import json
import os
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tqdm.auto import tqdm

from lib import ROOT, files, provenance, results
from lib.checkpoints import OneLine
from lib.provenance import as_json, short

Row = dict[str, Any]
FAILED = ".failed.txt"  # how the file of a traceback ends
WAIT = 1.0  # seconds between two looks at what other processes have claimed


def run(
    fn: Callable[..., dict[str, Any]],
    grid: list[dict[str, Any]],
    *,
    name: str,
    data: str | Callable[..., str],
    committed: Path | None = None,
    submit: Callable | None = None,
) -> list[Row]:
    """Run `fn(**params)` for every `params` of the grid that has no result yet; return one row a configuration.

    Introduced in notebooks/ex_dino2.ipynb. A result is known by its parameters and by `data`, which together must say
    everything that makes it. The code that measured it is recorded beside (`provenance.code`): a row that other code
    measured, or a tree with changes that were not committed, is returned all the same, with a note that says so. One
    printed line says where the rows come from.

    Results are kept one file each, in `sweeps/<name>` under `results.out()`. Several processes, also on machines that
    share the folder, may run the same sweep: each takes what no other has taken, and all return all rows. What a killed
    process had taken is free again. An interrupt keeps what is finished.

    Args:
        fn: takes parameters by keyword, seed included, and returns metrics; both must be JSON.
        grid: the configurations; see `product`.
        name: of the sweep, for its folder and its progress bar, whose time left counts only what ran in this call.
        data: what else makes a result: fingerprints of data and weights; or a function of the parameters that says it.
        committed: a file of `save`, whose rows count as finished. May be missing. A failure is not tried again.
        submit: `submit(task, *args)` returns a future, such as `ThreadPoolExecutor().submit` or, of a dask client,
            `functools.partial(client.submit, pure=False)`; workers must see the folder. In this process if None.

    Returns:
        Rows in the order of the grid: `{"params", "data", "revision", "code", "metrics", "seconds"}`, and "note". A NaN
        is None there. A failed configuration has no metrics but an "error", the last line of its traceback, which is
        kept beside the results; it stops nothing else and is tried again by the next call.

    Raises:
        ValueError: a configuration is not JSON or not finite, the source of `fn` cannot be read, or `committed` is no
            file of `save`.
    """
    grid = [_plain(params, f"configuration {i} of sweep {name}") for i, params in enumerate(grid)]
    now = {"revision": provenance.revision(), "code": provenance.code(fn)}
    heads = [{"params": p, "data": data(**p) if callable(data) else data} | now for p in grid]
    keys, begun, known = [key(h["params"], h["data"]) for h in heads], time.time(), _committed(committed)
    paths = [results.out() / "sweeps" / name / f"{k}.json" for k in keys]
    kept = [_noted(_read(path), now) for path in paths]
    old = [_noted(known.get(k), now) for k in keys]
    rows = [min((r for r in pair if r), key=partial(_doubt, now), default=None) for pair in zip(kept, old, strict=True)]
    again = provenance.remeasure()  # rows that have a note, and only these besides missing ones
    todo = [i for i, row in enumerate(rows) if row is None or (again and _doubt(now, row))]
    origin = ["now" if i in {*todo} else "kept" if rows[i] is kept[i] else "old" for i in range(len(grid))]
    with tqdm(total=len(grid), initial=len(grid) - len(todo), desc=name, smoothing=0, leave=False) as bar:
        while todo:
            tasks = {i: (fn, heads[i], paths[i], begun, again) for i in todo}
            left = {*todo}
            for i, row in _finished(tasks, submit):
                if row is None:  # another process has it
                    continue
                rows[i] = _noted(row, now)
                left.remove(i)
                bar.update()
                if "error" in row:
                    bar.write(
                        _portable(f"{name}: {row['params']} failed: {row['error']} ({paths[i].with_suffix(FAILED)})")
                    )
            todo = sorted(left)
            if todo:
                time.sleep(WAIT)
    _report(name, rows, origin)
    return rows


def key(params: dict[str, Any], data: str) -> str:
    """By what a row is known."""
    return short([params, data])


def product(lists: dict[str, list]) -> list[dict[str, Any]]:
    """Every combination of the values, the last name varying fastest: `product({"lr": [1, 2], "seed": [0]})`."""
    return [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]


def save(rows: list[Row], path: Path, beside: bool = False) -> None:
    """Write rows to one JSON file, to be committed and handed to `run` as `committed`; failures are kept as such.

    Args:
        beside: keep other rows of the file, such as those that a notebook has not asked for yet.
    """
    known = _committed(path) if beside else {}
    known |= {key(row["params"], row["data"]): row for row in rows}
    bare = [{k: v for k, v in row.items() if k != "note"} for row in known.values()]
    files.write(path, _portable(json.dumps({"rows": bare}, indent=1, allow_nan=False)) + "\n")


def _measure(fn: Callable, head: Row, path: Path, begun: float, again: bool) -> Row | None:
    """Run one configuration and keep its result; None where another process is at it. Needs the folder, no more."""
    with files.lock(path.parent / "locks" / path.stem) as mine:
        if not mine:
            return None
        failure = path.with_suffix(FAILED)
        if (row := _read(path)) is not None and (not again or path.stat().st_mtime > begun):
            return row
        if failure.exists() and failure.stat().st_mtime > begun:  # another process tried it during this call
            return _failed(head, failure.read_text())
        start, token = time.monotonic(), provenance.FOREIGN.set([])
        try:
            metrics = _plain(fn(**head["params"]), f"what {fn.__qualname__} returned", strict=False)
        except Exception:
            files.write(failure, traceback.format_exc())
            return _failed(head, traceback.format_exc())
        finally:
            foreign = provenance.FOREIGN.get()
            provenance.FOREIGN.reset(token)
        stamp = {"code": head["code"] + ("+" if foreign else "")}  # today's code, but not all of it
        row = head | stamp | {"metrics": metrics, "seconds": round(time.monotonic() - start, 3)}
        files.write(path, row)
        failure.unlink(missing_ok=True)
        return row


def _finished(tasks: dict[int, tuple], submit: Callable | None) -> Iterator[tuple[int, Row | None]]:
    """Index and row of every task as it finishes."""
    if submit is None:
        yield from ((i, _measure(*task)) for i, task in tasks.items())
        return
    done: SimpleQueue = SimpleQueue()
    futures, lost = [], []
    try:
        for i, task in tasks.items():
            futures.append(submit(_measure, *task))
            futures[-1].add_done_callback(lambda future, i=i: done.put((i, future)))
        for _ in tasks:
            i, future = done.get()
            try:
                yield i, future.result()
            except Exception:  # the worker died, perhaps of another task; or the task could not be sent to it
                lost.append(i)
        for i in lost:  # each alone, so that who kills a worker takes no other with it
            try:
                futures.append(submit(_measure, *tasks[i]))
                yield i, futures[-1].result()
            except Exception as error:
                text = "".join(traceback.format_exception(error))
                files.write(tasks[i][2].with_suffix(FAILED), text)
                yield i, _failed(tasks[i][1], text)
    finally:
        for future in futures:
            future.cancel()


def _noted(row: Row | None, now: dict[str, str]) -> Row | None:
    """The row with a "note" where it does not say what was run: other code, or changes that were not committed."""
    if row is None:
        return None
    notes = ["measured by other code"] if row.get("code") != now["code"] else []
    notes += ["with uncommitted changes"] if row["revision"].endswith("+") else []
    bare = {k: v for k, v in row.items() if k != "note"}
    return bare | ({"note": ", ".join(notes)} if notes else {})


def _doubt(now: dict[str, str], row: Row) -> int:
    """What measuring a row anew would give: 2 today's code, 1 a revision that says what it was, 0 nothing."""
    return 2 * (row.get("code") != now["code"]) or int(row["revision"].endswith("+") > now["revision"].endswith("+"))


def _report(name: str, rows: list[Row], origin: list[str]) -> None:
    """One line: where the rows come from, and what is not known of them."""
    parts = []
    for kind, words in (("old", "committed"), ("kept", "of earlier runs"), ("now", "measured now")):
        some = [row for row, o in zip(rows, origin, strict=True) if o == kind]
        notes = [n for row in some for n in row.get("note", "").split(", ") if n]
        said = [f"{notes.count(n)} {n}" for n in dict.fromkeys(notes)] + [
            f"{n} failed" for n in (sum("error" in row for row in some),) if n
        ]
        parts.append(f"{len(some)} {words}" + (f" ({', '.join(said)})" if said else ""))
    print(f"{name}: {len(rows)} rows: {', '.join(parts)}")
    marks = {key(row["params"], row["data"]): "note" in row for row in rows}
    results.MARKED[name] = results.MARKED.get(name, {}) | marks


def _failed(head: Row, text: str) -> Row:
    return head | {"metrics": {}, "error": text.rstrip().splitlines()[-1]}


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


def _plain(value: Any, what: str, strict: bool = True) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is no dict but {value!r:.100}")
    return as_json(value, what, strict)


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
    """The rows of `run` for every `params` of the grid that can be measured: `{"params", "metrics", ...}`.

    Committed rows are read, all others are run; what failed is named in a printed line and left out. All rows go to
    `figures/results/sweep_<notebook>.json` under the output folder, beside those that are there. Introduced in
    notebooks/ex_slot1.ipynb.

    Raises:
        NothingMeasured: there is nothing to measure, or every trial failed.
    """
    if not grid:
        raise NothingMeasured(f"{notebook}: nothing to measure; give at least one seed and one configuration")
    file = Path("figures", "results", f"sweep_{notebook}.json")
    found = run(trial, grid, name=notebook, data=data, committed=ROOT / file)
    save(found, results.out() / file, beside=True)
    good = [row for row in found if "error" not in row]
    if not good:
        raise NothingMeasured(f"{notebook}: every trial failed; the first: {found[0]['params']}: {found[0]['error']}")
    return good


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
