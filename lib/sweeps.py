"""An ablation as one call: every configuration of a grid is run once, kept as one file, and never run again."""

import fcntl
import hashlib
import inspect
import itertools
import json
import os
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType
from typing import Any

from tqdm.auto import tqdm

from lib import ROOT, checkpoints, results

Row = dict[str, Any]
WAIT = 1.0  # seconds between two looks at what other processes have claimed


def run(
    fn: Callable[..., dict[str, Any]],
    grid: list[dict[str, Any]],
    *,
    name: str,
    data: str,
    code: Iterable[ModuleType] = (),
    committed: Path | None = None,
    folder: Path | None = None,
    submit: Callable | None = None,
) -> list[Row]:
    """Run `fn(**params)` for every `params` of the grid that has no result yet; return one row a configuration.

    Introduced in notebooks/ex_dino2.ipynb. A result is known by a hash of its parameters, of `data` and of the code:
    the source of the module that defines `fn` (of `fn` alone where that is a notebook) and of the modules in `code`.
    Not covered: what those modules import, a notebook's globals and what `fn` closes over, library versions, the
    device. Hand in what may change as a parameter.

    Several processes, also on machines that share the folder, may run the same sweep: each takes what no other has
    taken, and all return all rows. What a killed process had taken is free again. An interrupt keeps what is finished.

    Args:
        fn: takes parameters by keyword, seed included, and returns metrics; both must be JSON.
        grid: the configurations; see `product`.
        name: of the sweep, for its folder and its progress bar, whose time left counts only what ran in this call.
        data: fingerprint of the data that `fn` reads.
        code: modules on which the result depends beside that of `fn`.
        committed: a file of `save`. Its rows count as finished where parameters and data match, whatever the code was;
            they carry a note that says so. May be missing. A failure that was committed is not tried again.
        folder: where results are kept, one file each; `sweeps/<name>` under `results.out()` if None.
        submit: `submit(task, *args)` returns a future, such as `ThreadPoolExecutor().submit` or, of a dask client,
            `functools.partial(client.submit, pure=False)`; workers must see the folder. In this process if None.

    Returns:
        Rows in the order of the grid: `{"params", "data", "revision", "metrics", "seconds"}`. A NaN is
        None there. A failed configuration has no metrics but an "error", the last line of its traceback, which is kept
        beside the results; it stops nothing else and is tried again by the next call.

    Raises:
        ValueError: a configuration is not JSON, the source of `fn` cannot be read, or `committed` is no file of `save`.
    """
    folder = Path(folder or results.out() / "sweeps" / name)
    folder.mkdir(parents=True, exist_ok=True)
    grid = [_as_json(params, f"configuration {i} of sweep {name}") for i, params in enumerate(grid)]
    known = _committed(committed)
    source, revision, begun = fingerprint(fn, code), checkpoints.revision(), time.time()
    paths = [folder / f"{_hash({'code': source, 'params': params, 'data': data})}.json" for params in grid]
    rows = [_read(path) or known.get(_hash([params, data])) for path, params in zip(paths, grid, strict=True)]
    heads = [{"params": params, "data": data, "revision": revision} for params in grid]
    todo = [i for i, row in enumerate(rows) if row is None]
    with tqdm(total=len(grid), initial=len(grid) - len(todo), desc=name, smoothing=0, leave=False) as bar:
        while todo:
            tasks = {i: (fn, heads[i], paths[i], begun) for i in todo}
            for i, row in _finished(tasks, submit):
                rows[i] = row
                if row is None:  # another process has it
                    continue
                bar.update()
                if "error" in row:
                    bar.write(_portable(f"{name}: {row['params']} failed: {row['error']} ({_failure(paths[i])})"))
            todo = [i for i in todo if rows[i] is None]
            if todo:
                time.sleep(WAIT)
    return rows


def product(lists: dict[str, list]) -> list[dict[str, Any]]:
    """Every combination of the values, the last name varying fastest: `product({"lr": [1, 2], "seed": [0]})`."""
    return [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]


def save(rows: list[Row], path: Path) -> None:
    """Write rows to one JSON file, to be committed and handed to `run` as `committed`; failures are kept as such."""
    _write(path, _portable(json.dumps({"rows": rows}, indent=1, allow_nan=False)) + "\n")


def fingerprint(fn: Callable, code: Iterable[ModuleType] = ()) -> str:
    """A hash of the source of `fn`'s module (of `fn` alone in a notebook or script) and of the modules in `code`.

    Raises:
        ValueError: there is no source to read.
    """
    try:
        of_fn = fn if fn.__module__ == "__main__" else inspect.getmodule(fn)
        sources = {module.__name__: inspect.getsource(module) for module in code}
        return _hash([fn.__module__, fn.__qualname__, inspect.getsource(of_fn), sources])
    except (OSError, TypeError, AttributeError) as error:
        raise ValueError(f"no source for {fn!r} or {code!r} ({error}); define it in a file or a cell") from error


def _measure(fn: Callable, head: Row, path: Path, begun: float) -> Row | None:
    """Run one configuration and keep its result; None where another process is at it. Needs the folder, no more."""
    locks = path.parent / "locks"
    locks.mkdir(exist_ok=True)
    # The kernel frees this lock when its holder dies. The file stays: deleting it would let two hold "the" lock.
    with open(locks / path.stem, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        failure = _failure(path)
        if (row := _read(path)) is not None:
            return row
        if failure.exists() and failure.stat().st_mtime > begun:  # another process tried it during this call
            return _failed(head, failure.read_text())
        start = time.monotonic()
        try:
            metrics = _as_json(fn(**head["params"]), f"what {fn.__qualname__} returned")
        except Exception:
            _write(failure, traceback.format_exc())
            return _failed(head, traceback.format_exc())
        row = head | {"metrics": metrics, "seconds": round(time.monotonic() - start, 3)}
        _write(path, json.dumps(row, indent=1, allow_nan=False) + "\n")
        failure.unlink(missing_ok=True)
        return row


def _finished(tasks: dict[int, tuple], submit: Callable | None) -> Iterator[tuple[int, Row | None]]:
    """Index and row of every task as it finishes."""
    if submit is None:
        yield from ((i, _measure(*task)) for i, task in tasks.items())
        return
    done: SimpleQueue = SimpleQueue()
    futures = []
    try:
        for i, task in tasks.items():
            futures.append(submit(_measure, *task))
            futures[-1].add_done_callback(lambda future, i=i: done.put((i, future)))
        for _ in tasks:
            i, future = done.get()
            try:
                yield i, future.result()
            except Exception as error:  # the worker died, or the task could not be sent to it
                text = "".join(traceback.format_exception(error))
                _write(_failure(tasks[i][2]), text)
                yield i, _failed(tasks[i][1], text)
    finally:
        for future in futures:
            future.cancel()


def _failed(head: Row, text: str) -> Row:
    return head | {"metrics": {}, "error": text.rstrip().splitlines()[-1]}


def _failure(path: Path) -> Path:
    return path.with_suffix(".failed.txt")


def _portable(text: str) -> str:
    """Where the workbook lies on this machine is of no use to another."""
    return text.replace(f"{ROOT}{os.sep}", "")


def _committed(path: Path | None) -> dict[str, Row]:
    """Committed rows by their parameters and data."""
    if path is None or not Path(path).exists():
        return {}
    try:
        rows = json.loads(Path(path).read_text())["rows"]
        note = f"from {Path(path).name}, measured at revision {{}}; its code was not compared"
        return {_hash([row["params"], row["data"]]): row | {"note": note.format(row["revision"])} for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no file of sweeps.save ({error!r}); restore it with git checkout") from error


def _as_json(value: Any, what: str) -> dict[str, Any]:
    """A dict as JSON gives it back: NaN is None, a tuple is a list."""
    if not isinstance(value, dict):
        raise ValueError(f"{what} is no dict but {value!r}")
    try:
        text = json.dumps(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} is not JSON ({error}): {value!r}; use str, bool, int, float, list, dict") from error
    return json.loads(text, parse_constant=lambda _: None)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> Row | None:
    """A kept result; None where there is none, or none that can be read."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
