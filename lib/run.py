"""Run the series headless: `python -m lib.run [NOTEBOOK ...] [--profile P] [-p name value] [--out DIR]`.

papermill executes; this module is strict where papermill is lenient: unknown or mistyped parameters stop everything
before the first cell runs. A finished notebook is moved into place whole; a failed one is kept with its traceback.
`--lab` opens copies in JupyterLab instead.
"""

import argparse
import contextlib
import hashlib
import json
import os
import platform
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

try:
    import nbformat
    import papermill
    from ipykernel.kernelspec import get_kernel_dict
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from tqdm import tqdm

    from lib import ROOT, preflight
except ModuleNotFoundError as error:
    if __name__ != "__main__":
        raise
    print(f"lib.run: {error} for {sys.executable}; run .venv/bin/python -m lib.run (make sets it up)", file=sys.stderr)
    sys.exit(2)

#: Seconds a cell may take: the default profile only loads and measures, the others train.
TIME_LIMIT = {"default": 300, "smoke": 300, "gpu": 4 * 3600, "paper": 48 * 3600}
#: JupyterLab shows Markdown rendered, and fetches no news.
LAB = {
    "@jupyterlab/docmanager-extension:plugin": {"defaultViewers": {"markdown": "Markdown Preview"}},
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false"},
}


def execute(name: str, values: dict[str, Any], profile: str, out: Path, limit: int | None) -> dict[str, Any]:
    """Run one notebook; returns `{"notebook", "status", "seconds", "metrics", "detail"}` and never raises for it."""
    target = out / "notebooks" / f"{name}.ipynb"
    failed, partial = target.with_suffix(".failed.ipynb"), target.with_name(f".{name}.partial.ipynb")
    target.parent.mkdir(parents=True, exist_ok=True)
    failed.unlink(missing_ok=True)
    os.environ |= {"SLOTS_OUT": str(out), "SLOTS_PROFILE": profile, "TQDM_DISABLE": "1"}
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
    except KeyboardInterrupt:
        partial.unlink(missing_ok=True)
        raise
    except Exception as error:  # a kernel that does not start, a full disk: the next notebook may still run
        row |= {"status": "FAILED", "detail": f"{type(error).__name__}: {error}"}
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
    write(path, nbformat.writes(notebook) + "\n")


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def headline(out: Path, name: str) -> str:
    """The number a notebook puts forward, from its results JSON: `annealed fg_ari 0.95 ± 0.02`; "" without one."""
    path = out / "figures" / "results" / f"{name}.json"
    if not path.exists():
        return ""
    try:
        document = json.loads(path.read_text())
        config, metric = document["headline"]["config"], document["headline"]["metric"]
        value = document["summary"][config][metric]
        spread = f" ± {value['sd']:.3f} (n={value['n']})" if value["sd"] is not None else ""
        return f"{config} {metric} {value['mean']:.3f}{spread}"
    except (ValueError, KeyError, TypeError) as error:
        return f"no number in figures/results/{path.name}: {type(error).__name__} {error}"


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


def writable(out: Path | str, changed: bool) -> Path:
    """The output folder, made ready. `Refused` if it cannot be written, or `changed` would replace the committed."""
    path = Path(out).resolve()
    if not str(out):
        raise preflight.Refused("--out is empty; give a folder")
    if path == ROOT and changed:
        raise preflight.Refused("committed outputs are those of the defaults; give another --out for other parameters")
    try:
        for folder in (path / "notebooks", path / "figures" / "results"):
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
    except (OSError, ValueError) as error:
        raise preflight.Refused(f"cannot write to --out {out}: {error}") from error
    return path


def explore(folder: Path) -> list[str]:
    """Copy the notebooks to `folder`; returns the command that opens JupyterLab there.

    A copy is renewed until the user changes it; that the committed one has changed since is said, no more. It carries
    this kernel's names, else JupyterLab takes it for modified as soon as it is opened.
    """
    record, known = folder / ".copied.json", {}
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(record.read_text())
    kernel, up = get_kernel_dict(), os.path.relpath(preflight.NOTEBOOKS.parent, folder)
    for name in ("index.md", *(f"{n}.ipynb" for n in preflight.series())):
        copy, text = folder / name, (preflight.NOTEBOOKS / name).read_text().replace("](../", f"]({up}/")
        if name != "index.md":
            notebook = nbformat.reads(text, as_version=4)
            notebook.metadata.kernelspec.display_name = kernel["display_name"]
            notebook.metadata.language_info.version = platform.python_version()
            text = nbformat.writes(notebook) + "\n"
        new = hashlib.sha256(text.encode()).hexdigest()
        if not copy.exists() or hashlib.sha256(copy.read_bytes()).hexdigest() == known.get(name):
            write(copy, text)
            known[name] = new
        elif known.get(name) != new:
            print(f"kept your {os.path.relpath(copy)}; notebooks/{name} has changed since: move yours away to get it")
    write(record, json.dumps(known))
    write(folder / ".lab" / "overrides.json", json.dumps(LAB))
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={ROOT}"]
    command += [f"--LabApp.default_url=/lab/tree/{os.path.relpath(folder, ROOT)}/index.md"]
    command += [f"--LabApp.app_settings_dir={folder / '.lab'}"]
    return [*command, *["--allow-root"] * (os.geteuid() == 0)]


def main(arguments: list[str] | None = None) -> int:
    """Command line; exit status 0 if every notebook ran, 1 if one failed, 2 if refused, 130 if interrupted."""
    parser = argparse.ArgumentParser(prog="python -m lib.run", description="Run the workbook headless.")
    parser.epilog = "To refresh what is committed: python -m lib.run --remeasure --out ."
    parser._negative_number_matcher = re.compile(r"-\.?\d.*")  # argparse takes -1.0e-3 for an option
    parser.add_argument(
        "notebooks", nargs="*", metavar="NOTEBOOK", help="names such as ex_slot1; all when none is given"
    )
    parser.add_argument("--profile", default="default", help="default, or a file in notebooks/params")
    parser.add_argument("-p", dest="given", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    parser.add_argument("--out", help="where everything is written (default: runs/PROFILE, with -p one of its own)")
    parser.add_argument("--time-limit", type=int, metavar="S", help="seconds a cell may take; with -p there is none")
    parser.add_argument("--remeasure", action="store_true", help="measure anew what other code had measured")
    parser.add_argument("--list", action="store_true", help="show the notebooks, their questions and parameters")
    parser.add_argument("--lab", action="store_true", help="open copies in runs/explore in JupyterLab (make lab)")
    options = parser.parse_args(arguments)
    if options.list:
        print(describe())
        return 0
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    if options.lab:
        command = explore(ROOT / "runs" / "explore" / "notebooks")
        os.execv(command[0], command)
    profile = folder = options.profile
    try:
        given = {k: preflight.read(v, f"-p {k}") for k, v in options.given}
        plans = preflight.plan(options.notebooks, profile, given)
        if given:
            profile += f" with {', '.join(f'{k}={v}' for k, v in given.items())}"
            folder = f"{'-'.join([folder, *given])[:80]}-{hashlib.sha256(profile.encode()).hexdigest()[:8]}"
        out = writable(ROOT / "runs" / folder if options.out is None else options.out, any(plans.values()))
    except preflight.Refused as error:
        print(f"lib.run: {error}", file=sys.stderr)
        return 2
    limit = None if given or options.remeasure else TIME_LIMIT.get(options.profile, TIME_LIMIT["paper"])
    if options.remeasure:
        os.environ["SLOTS_REMEASURE"] = "1"  # read by lib.sweeps in the kernels
    rows, status = [], 0
    bar = tqdm(plans.items(), desc="notebooks", position=0, disable=None)
    try:
        for name, values in bar:
            bar.set_postfix_str(name)
            rows.append(execute(name, values, profile, out, options.time_limit or limit))
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
