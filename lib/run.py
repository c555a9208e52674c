"""Run the series headless: `python -m lib.run [NOTEBOOK ...] [--profile P] [-p name value] [--out DIR]`.

papermill executes; this module is strict where papermill is lenient: unknown or mistyped parameters stop everything
before the first cell runs. A finished notebook is moved into place whole; a failed one is kept with its traceback.
"""

import argparse
import contextlib
import difflib
import json
import logging
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import papermill
import yaml
from jupyter_client.kernelspec import NoSuchKernel
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm

from lib import ROOT

NOTEBOOKS = ROOT / "notebooks"
#: The order of the story; notebooks that are not written yet are left out by `series`.
ORDER = (
    *(f"ex_slot{i}" for i in range(1, 6)),
    *(f"ex_dino{i}" for i in range(1, 5)),
    "ex_comparison",
    "backbone_comparison",
    "streethazards",
)
#: Seconds a cell may take: the default profile only loads and measures, the others train.
TIME_LIMIT = {"default": 300, "smoke": 300, "gpu": 4 * 3600, "paper": 48 * 3600}
TYPES = {"int": int, "float": float, "str": str, "bool": bool, "list": list}


class Refused(Exception):
    """The command cannot be run as given. The message lists everything that is wrong with it."""


def series() -> list[str]:
    """Names of the notebooks that exist, in the order of the story."""
    return [name for name in ORDER if (NOTEBOOKS / f"{name}.ipynb").exists()]


def profiles() -> list[str]:
    """The default and every file in notebooks/params."""
    return ["default", *sorted(p.stem for p in (NOTEBOOKS / "params").glob("*.yaml"))]


def parameters(name: str) -> dict[str, dict[str, Any]]:
    """The parameters of a notebook as papermill reads them: name to type, default and help text."""
    with _quiet():
        return papermill.inspect_notebook(str(NOTEBOOKS / f"{name}.ipynb"))


def question(name: str) -> str:
    """What the notebook asks: the sentence after **Question.** in its first cells."""
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    found = re.search(r"\*\*Question\.\*\*\s*(.+?)(?:\n\n|$)", text, re.S)
    return " ".join(found[1].split()) if found else ""


def plan(names: list[str], profile: str, given: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Which notebook runs with which parameters: those of the profile that it takes, then those given.

    Raises:
        Refused: an unknown notebook, profile or parameter, or a value of the wrong type; all of them in one message.
    """
    problems = [_unknown("notebook", n, series()) for n in names if n not in series()]
    if profile not in profiles():
        raise Refused("\n".join([*problems, _unknown("profile", profile, profiles())]))
    known = {n: parameters(n) for n in series()}
    chosen = [n for n in known if n in names] if names else list(known)
    everything = {key for taken in known.values() for key in taken}
    path = NOTEBOOKS / "params" / f"{profile}.yaml"
    from_profile = {} if profile == "default" else yaml.safe_load(path.read_text()) or {}
    problems += [
        _unknown(f"key in {path.name}, no notebook takes", k, everything) for k in from_profile.keys() - everything
    ]
    available = {key for n in chosen for key in known[n]}
    problems += [_unknown("parameter", k, available) for k in given if k not in available]
    plans = {}
    for n in chosen:
        plans[n] = {k: v for k, v in (from_profile | given).items() if k in known[n]}
        for key, value in plans[n].items():
            try:
                plans[n][key] = _typed(known[n][key]["inferred_type_name"], value)
            except TypeError as error:
                problems.append(f"{n}: {key} {error}")
    if problems:
        raise Refused("\n".join(dict.fromkeys(problems)))
    return plans


def execute(name: str, values: dict[str, Any], profile: str, out: Path, limit: int) -> dict[str, Any]:
    """Run one notebook; returns `{"notebook", "status", "seconds", "metrics", "detail"}` and never raises for it."""
    target = out / "notebooks" / f"{name}.ipynb"
    failed, partial = target.with_suffix(".failed.ipynb"), target.with_name(f".{name}.partial.ipynb")
    target.parent.mkdir(parents=True, exist_ok=True)
    failed.unlink(missing_ok=True)
    os.environ |= {"SLOTS_OUT": str(out), "SLOTS_PROFILE": profile, "TQDM_DISABLE": "1"}
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    row = {"notebook": name, "status": "ok", "seconds": 0.0, "metrics": "", "detail": ""}
    begun = time.monotonic()
    try:
        with _quiet():
            papermill.execute_notebook(
                str(NOTEBOOKS / f"{name}.ipynb"),
                str(partial),
                parameters=values,
                kernel_name="python3",
                cwd=str(NOTEBOOKS),
                start_timeout=120,
                execution_timeout=limit,
                progress_bar={"desc": f"  {name}", "leave": False, "position": 1, "disable": None},
            )
        clean(partial)
        os.replace(partial, target)
        row["metrics"] = headline(out, name)
    except PapermillExecutionError as error:
        row |= {"status": "FAILED", "detail": f"{error.ename}: {error.evalue}"}
    except CellTimeoutError:
        row |= {"status": "TIMEOUT", "detail": f"a cell took longer than {limit} s; raise it with --time-limit"}
    except DeadKernelError:
        row |= {"status": "DIED", "detail": "the kernel died, most likely out of memory; try --profile smoke"}
    except NoSuchKernel:
        row |= {"status": "FAILED", "detail": "no kernel named python3; install ipykernel (make does)"}
    except KeyboardInterrupt:
        partial.unlink(missing_ok=True)
        raise
    finally:
        row["seconds"] = time.monotonic() - begun
        if partial.exists():
            os.replace(partial, failed)
            with contextlib.suppress(ValueError):  # the original error in the table matters more than its copy
                row["detail"] += f" (kept as {os.path.relpath(failed)})"
    return row


def clean(path: Path) -> None:
    """Strip what a run leaves in the metadata: times, paths, widget state. Outputs, counts and ids stay."""
    notebook = nbformat.read(path, as_version=4)
    for name in ("papermill", "widgets"):
        notebook.metadata.pop(name, None)
    for cell in notebook.cells:
        for name in ("papermill", "execution", "collapsed", "scrolled"):
            cell.metadata.pop(name, None)
        if not cell.metadata.get("tags", ["kept"]):
            cell.metadata.pop("tags")
    temporary = path.with_name(path.name + ".tmp")
    nbformat.write(notebook, temporary)
    os.replace(temporary, path)


def headline(out: Path, name: str) -> str:
    """The number a notebook puts forward, from its results JSON: `annealed fg_ari 0.95 ± 0.02`; "" without one."""
    path = out / "figures" / "results" / f"{name}.json"
    if not path.exists():
        return ""
    document = json.loads(path.read_text())
    config, metric = document["headline"]["config"], document["headline"]["metric"]
    value = document["summary"][config][metric]
    spread = f" ± {value['sd']:.3f} (n={value['n']})" if value["sd"] is not None else ""
    return f"{config} {metric} {value['mean']:.3f}{spread}"


def describe() -> str:
    """What `--list` prints."""
    blocks = []
    for name in series():
        rows = [
            f"    {k}: {v['inferred_type_name']} = {v['default']}  {v['help']}".rstrip()
            for k, v in parameters(name).items()
        ]
        blocks.append("\n".join([name, f"  {question(name)}", *rows]))
    return "\n\n".join([*blocks, f"profiles: {', '.join(profiles())}"])


def main(arguments: list[str] | None = None) -> int:
    """Command line; exit status 0 if every notebook ran, 1 if one failed, 2 if refused, 130 if interrupted."""
    parser = argparse.ArgumentParser(prog="python -m lib.run", description="Run the workbook headless.")
    parser.add_argument(
        "notebooks", nargs="*", metavar="NOTEBOOK", help="names such as ex_slot1; all when none is given"
    )
    parser.add_argument("--profile", default="default", help="default, or a file in notebooks/params")
    parser.add_argument("-p", dest="given", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    parser.add_argument("--out", type=Path, help="where everything is written (default: runs/PROFILE)")
    parser.add_argument("--time-limit", type=int, metavar="S", help="seconds a cell may take")
    parser.add_argument("--list", action="store_true", help="show the notebooks, their questions and parameters")
    options = parser.parse_args(arguments)
    if options.list:
        print(describe())
        return 0
    out = (options.out or ROOT / "runs" / options.profile).resolve()
    try:
        names = [Path(n).stem for n in options.notebooks]
        plans = plan(names, options.profile, {k: yaml.safe_load(v) for k, v in options.given})
        if out == ROOT and any(plans.values()):
            raise Refused("committed notebooks carry their default outputs; give another --out for other parameters")
    except (Refused, yaml.YAMLError) as error:
        print(f"lib.run: {error}", file=sys.stderr)
        return 2
    limit = options.time_limit or TIME_LIMIT.get(options.profile, TIME_LIMIT["paper"])
    rows, status = [], 0
    bar = tqdm(plans.items(), desc="notebooks", position=0, disable=None)
    try:
        for name, values in bar:
            bar.set_postfix_str(name)
            rows.append(execute(name, values, options.profile, out, limit))
    except KeyboardInterrupt:
        status = 130
        left = [n for n in plans if n not in {r["notebook"] for r in rows}]
        rows += [{"notebook": n, "status": "stopped", "seconds": 0.0, "metrics": "", "detail": ""} for n in left]
    finally:
        bar.close()
    print(summary(rows))
    print(f"written to {os.path.relpath(out)}: notebooks, figures, figures/results")
    return status or int(any(row["status"] != "ok" for row in rows))


def summary(rows: list[dict[str, Any]]) -> str:
    """The table at the end: notebook, status, seconds, key metrics."""
    header = ("notebook", "status", "seconds", "key metrics")
    cells = [(r["notebook"], r["status"], f"{r['seconds']:.0f}", r["metrics"] or r["detail"]) for r in rows]
    widths = [max(len(row[i]) for row in [header, *cells]) for i in range(3)]
    lines = ["  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[3]]) for row in [header, *cells]]
    return "\n".join([lines[0], "  ".join("-" * w for w in (*widths, 11)), *lines[1:]])


def _unknown(kind: str, name: str, known) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(sorted(known))}"
    return f"unknown {kind}: {name!r}; {hint}"


def _typed(type_name: str, value: Any) -> Any:
    """The value as the parameter's type; whole numbers serve as floats, nothing else is converted."""
    wanted = TYPES.get(type_name.split("[")[0])
    if wanted is None:
        return value
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        hint = ""
        if wanted in (int, float) and isinstance(value, str) and re.fullmatch(r"[+-]?\d+\.?\d*[eE][+-]?\d+", value):
            hint = f"; YAML reads {value} as text, write {float(value)!r} or {float(value):.1e}"
        raise TypeError(f"wants {type_name}, got {type(value).__name__} {value!r}{hint}")
    return value


@contextlib.contextmanager
def _quiet():
    """papermill logs each cell, and warns of what `plan` has already refused or accepted."""
    logger = logging.getLogger("papermill")
    level, logger.level = logger.level, logging.ERROR
    try:
        yield
    finally:
        logger.level = level


if __name__ == "__main__":
    sys.exit(main())
