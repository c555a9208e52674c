"""Run the series headless: `python -m lib.run [NOTEBOOK ...] [--profile P] [-p name value] [--out DIR]`.

papermill executes; this module is strict where papermill is lenient: unknown or mistyped parameters stop everything
before the first cell runs. A finished notebook is moved into place whole; a failed one is kept with its traceback.
"""

import argparse
import contextlib
import json
import os
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

from lib import ROOT, preflight

#: Seconds a cell may take: the default profile only loads and measures, the others train.
TIME_LIMIT = {"default": 300, "smoke": 300, "gpu": 4 * 3600, "paper": 48 * 3600}


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
        with preflight.quiet():
            papermill.execute_notebook(
                str(preflight.NOTEBOOKS / f"{name}.ipynb"),
                str(partial),
                parameters=values,
                kernel_name="python3",
                cwd=str(preflight.NOTEBOOKS),
                start_timeout=120,
                execution_timeout=limit,
                extra_arguments=["--IPKernelApp.log_level=40"],  # the kernel warns of TCP on every start
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
    for name in preflight.series():
        rows = [
            f"    {k}: {v['inferred_type_name']} = {v['default']}  {v['help']}".rstrip()
            for k, v in preflight.parameters(name).items()
        ]
        blocks.append("\n".join([name, f"  {preflight.question(name)}", *rows]))
    return "\n\n".join([*blocks, f"profiles: {', '.join(preflight.profiles())}"])


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
        plans = preflight.plan(names, options.profile, {k: yaml.safe_load(v) for k, v in options.given})
        if out == ROOT and any(plans.values()):
            raise preflight.Refused(
                "committed notebooks carry their default outputs; give another --out for other parameters"
            )
    except (preflight.Refused, yaml.YAMLError) as error:
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


if __name__ == "__main__":
    sys.exit(main())
