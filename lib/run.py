"""Run the series headless: `python -m lib.run [NOTEBOOK ...] [--profile P] [-p name value] [--out DIR] [--workers N]`.

papermill executes; this module is strict where papermill is lenient: unknown or mistyped parameters stop everything
before the first cell runs. A finished notebook is moved into place whole; a failed one is kept with its traceback.
"""

import argparse
import ast
import contextlib
import difflib
import hashlib
import json
import logging
import math
import os
import pkgutil
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from reprlib import repr as short
from typing import Any

try:
    import nbformat
    import papermill
    import psutil
    import yaml
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from tqdm import tqdm

    from lib import ROOT, files, site
except ModuleNotFoundError as error:
    if __name__ != "__main__":
        raise
    print(f"lib.run: {error} for {sys.executable}; run .venv/bin/python -m lib.run (make sets it up)", file=sys.stderr)
    sys.exit(2)

NOTEBOOKS = ROOT / "notebooks"
#: papermill logs each cell, and warns of what `plan` has already refused or accepted.
logging.getLogger("papermill").setLevel(logging.ERROR)


class Refused(Exception):
    """The command cannot be run as given. The message lists everything that is wrong with it."""


def series() -> list[str]:
    """Names of the notebooks that exist, in the order of the story: of their links in index.md."""
    links = re.findall(r"\]\((\w+)\.ipynb\)", (NOTEBOOKS / "index.md").read_text())
    return [name for name in links if (NOTEBOOKS / f"{name}.ipynb").exists()]


def profiles() -> list[str]:
    """The default and every file in notebooks/params."""
    return ["default", *sorted(p.stem for p in (NOTEBOOKS / "params").glob("*.yaml") if p.is_file())]


def parameters(name: str) -> dict[str, dict[str, Any]]:
    """The parameters of a notebook as papermill reads them: name to type, default and help text."""
    return papermill.inspect_notebook(str(NOTEBOOKS / f"{name}.ipynb"))


def question(name: str) -> str:
    """What the notebook asks: the sentence after **Question.** in its first cells."""
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    found = re.search(r"\*\*Question\.\*\*\s*(.+?)(?:\n\n|$)", text, re.S)
    return " ".join(found[1].split()) if found else ""


class _Plain(yaml.BaseLoader):
    """YAML whose plain words are JSON where they can be, else text: 010, 0x_, 1:30, dates and endless digits are."""

    def construct_scalar(self, node: yaml.ScalarNode) -> Any:
        with contextlib.suppress(ValueError):
            return node.value if node.style else json.loads(node.value)
        return node.value


def read(text: str | bytes, where: str) -> Any:
    """The value that YAML text holds. `Refused` if it cannot be read, or may grow without bound (anchors)."""
    try:
        if len(text) > 10_000:  # PyYAML takes quadratic time for nested brackets
            raise ValueError("more than 10,000 characters")
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise ValueError("anchors are not taken, write the values out")
        return yaml.load(text, _Plain)
    except Exception as error:  # PyYAML's own, and whatever it stumbles over
        raise Refused(f"{where}: {' '.join(str(error).split())}") from error


def plan(names: list[str], profile: str, given: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Which notebook runs with which parameters: those that a profile shares, those of its section, then those given.

    What is shared must mean the same to all: a parameter whose help differs stands in sections.

    Raises:
        Refused: an unknown notebook, profile or parameter, or a value of the wrong type; all of them in one message.
    """
    own = {str((NOTEBOOKS / f"{n}.ipynb").resolve()): n for n in series()}
    names = [own.get(str(Path(n).resolve()), n) for n in names]
    problems = [_unknown("notebook", n, series()) for n in names if n not in series()]
    if profile not in profiles():
        raise Refused("\n".join([*problems, _unknown("profile", profile, profiles())]))
    known = {n: parameters(n) for n in series()}
    chosen = [n for n in known if n in names] if names else list(known)
    takes, wrong_file = ({}, []) if profile == "default" else _sections(NOTEBOOKS / "params" / f"{profile}.yaml", known)
    problems += wrong_file
    available = {key for n in chosen for key in known[n]}
    problems += [_unknown("parameter", k, available) for k in given if k not in available]
    plans, wrong = {}, {}
    for n in chosen:
        plans[n] = {k: v for k, v in (takes.get(n, {}) | given).items() if k in known[n]}
        for key, value in plans[n].items():
            try:
                plans[n][key] = checked(value, known[n][key], n)
            except TypeError as error:
                wrong.setdefault(f"{key} {error}", []).append(n)
    problems += [f"{', '.join(of)}: {what}" for what, of in wrong.items()]
    if problems:
        raise Refused("\n".join(problems))
    return plans


def _sections(path: Path, known: dict[str, dict]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """What a profile gives each notebook, and what is wrong: what is shared on top, then what a section says.

    What is shared means the same to all that take it: their help is one text. So the steps of one reach no other.
    """
    found = read(path.read_bytes(), path.name) or {}
    if not isinstance(found, dict) or not all(isinstance(k, str) for k in found):
        raise Refused(f"{path.name}: {short(found)} is no list of `name: value`")
    sections = {k: v for k, v in found.items() if isinstance(v, dict)}
    shared, problems = {k: v for k, v in found.items() if k not in sections}, []
    for name in sections.keys() - known.keys():
        problems.append(_unknown(f"section in {path.name}", name, known))
    for name in sections.keys() & known.keys():
        strange = map(str, sections[name].keys() - known[name].keys())
        problems += [_unknown(f"key in {path.name}, {name} does not take", k, known[name]) for k in strange]
    for key in shared:
        helps = {taken[key]["help"]: name for name, taken in known.items() if key in taken}
        if not helps:
            everything = {k for taken in known.values() for k in taken}
            problems.append(_unknown(f"key in {path.name}, no notebook takes", key, everything))
        elif len(helps) > 1:
            said = ", ".join(f"{name}: {text}" for text, name in helps.items())
            problems.append(f"{path.name}: {key} is not one thing ({said}); write it into the notebooks' sections")
    return {n: shared | sections.get(n, {}) for n in known}, problems


def _unknown(kind: str, name: str, known) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(sorted(known))}"
    return f"unknown {kind}: {name!r}; {hint}"


def checked(value: Any, about: dict[str, Any], notebook: str) -> Any:
    """The value as a parameter takes it, `about` as of `parameters`. Its help may say more than its type does:
    "may be empty", "at least 2", "one of auto, cpu" or "some of NAMES", a dict of the notebook or, dotted, of `lib`.

    Raises:
        TypeError: what the parameter wants, and what it got.
    """
    default = ast.literal_eval(about["default"])
    value = _typed(value, type(default), default)
    least, names = (re.search(p, about["help"]) for p in (r"at least (\d+)", r"(?:one|some) of (.+)"))
    if type(value) in (int, float) and (value < int(least[1]) if least else value <= 0):
        raise TypeError(f"wants {least[0] if least else 'more than 0'}, got {value}")
    if value == [] and "may be empty" not in about["help"]:
        raise TypeError("wants at least one item, got []")
    if names and value != default:
        known = _names(names[1], notebook)
        for name in value if isinstance(value, list) else [value]:
            if name not in known and name not in default:
                raise TypeError(f"has an {_unknown('name', name, known)}")
    return value


def _names(text: str, notebook: str) -> list[str]:
    """Names after "one of": as they stand, those of a module, or the keys of a dict that the notebook writes out."""
    if "," in text:
        return text.split(", ")
    if "." in text:
        return list(pkgutil.resolve_name(text))
    cells = nbformat.read(NOTEBOOKS / f"{notebook}.ipynb", as_version=4).cells
    found, known = [], {}
    for node in ast.parse("\n".join(c.source for c in cells if c.cell_type == "code")).body:
        target, value = getattr(node, "target", getattr(node, "targets", [None])[0]), getattr(node, "value", None)
        if getattr(target, "id", "") == text:  # written out, or a comprehension over what is
            of = value
            keys = ast.List(of.keys, ast.Load()) if isinstance(of, ast.Dict) else ast.ListComp(of.key, of.generators)
            found += eval(compile(ast.fix_missing_locations(ast.Expression(keys)), notebook, "eval"), known)
        elif target and value:
            with contextlib.suppress(ValueError):
                known[ast.unparse(target)] = ast.literal_eval(value)
    return found


def _typed(value: Any, wanted: type, items: Any) -> Any:
    """The value as the parameter's type, items as the default's; whole numbers serve as floats, no more."""
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted or (wanted is float and not math.isfinite(value)):
        raise TypeError(f"wants {wanted.__name__}, got {type(value).__name__} {short(value)}")
    if wanted is list and items:
        return [_typed(v, type(items[0]), items[0]) for v in value]
    return value


def foreseen(plans: dict[str, dict[str, Any]], out: Path, full: bool, workers: int = 1) -> dict[str, Any]:
    """What `lib.plan.survey` finds, in a process of its own: what is missing, and, if `full`, told and timed, all."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        asked = {"plans": plans, "notebooks": str(NOTEBOOKS), "out": str(out), "measure": full, "answer": str(answer)}
        asked["workers"] = workers
        command, quiet = [sys.executable, "-m", "lib.plan"], None if full else subprocess.DEVNULL
        done = subprocess.run(command, input=json.dumps(asked), text=True, cwd=ROOT, stdout=quiet, check=False)
        if done.returncode:
            raise Refused(f"no plan could be made: {' '.join(command)} ended with {done.returncode}")
        return json.loads(answer.read_text())


def outside(name: str, values: dict[str, Any]) -> bool:
    """Whether parameters name data, weights or a device that may not be here: others than the defaults."""
    about = parameters(name) if values else {}
    for key, value in values.items():
        default = ast.literal_eval(about[key]["default"])
        news = [v for v in value if v not in default] if isinstance(value, list) else [value] * (value != default)
        if news and (value == "cuda" or re.search(r"lib\.models|MOVi-A|StreetHazards|the hub", about[key]["help"])):
            return True
    return False


#: Seconds a cell may take: these only load and measure, or train a little. Others are planned before they start, and a
#: cell may take `MARGIN` times what the trainings of its notebook should take, and `LONG` at least.
TIME_LIMIT = {"default": 300, "smoke": 300}
LONG, MARGIN = 12 * 3600, 4


def execute(
    name: str, values: dict[str, Any], profile: str, out: Path, limit: int | None, folder: Path | None = None
) -> dict[str, Any]:
    """Run one notebook; returns `{"notebook", "status", "seconds", "memory", "says"}` and never raises for it.

    `memory` is the most that this process's children, the kernel, held at once, in bytes.

    It is kept in `notebooks` of `out`, or in another folder.
    """
    target = (folder or out / "notebooks") / f"{name}.ipynb"
    failed, partial = target.with_suffix(".failed.ipynb"), target.with_name(f".{name}.partial.ipynb")
    target.parent.mkdir(parents=True, exist_ok=True)
    for stale in (failed, partial):  # the latter of a run that was killed
        stale.unlink(missing_ok=True)
    os.environ |= {"SLOTS_OUT": str(out), "SLOTS_PROFILE": profile, "TQDM_DISABLE": "1"}
    row = {"notebook": name, "status": "ok", "seconds": 0.0, "memory": None, "says": ""}
    begun, over = time.monotonic(), threading.Event()
    watcher = threading.Thread(target=_watch, args=(row, over), daemon=True)
    watcher.start()
    try:
        papermill.execute_notebook(
            str(NOTEBOOKS / f"{name}.ipynb"),
            str(partial),
            parameters=values,
            kernel_name="python3",
            cwd=str(NOTEBOOKS),
            start_timeout=120,
            execution_timeout=limit,
            extra_arguments=["--IPKernelApp.log_level=50"],  # it warns of TCP, and calls an interrupt an error
            progress_bar={"desc": f"  {name}", "leave": False, "position": 1, "disable": None if _alone() else True},
        )
        finish(partial, name, out, told=bool(values))
        os.replace(partial, target)
        row["says"] = headline(out, name)
    except PapermillExecutionError as error:
        row |= {"status": "FAILED", "says": f"{error.ename}: {error.evalue}"}
    except CellTimeoutError:
        row |= {"status": "TIMEOUT", "says": f"a cell took longer than {limit} s; raise it with --time-limit"}
    except DeadKernelError:
        row |= {"status": "DIED", "says": "the kernel died, most likely out of memory; try --profile smoke"}
    except KeyboardInterrupt:
        partial.unlink(missing_ok=True)
        raise
    except Exception as error:  # a kernel that does not start, a full disk: the next notebook may still run
        row |= {"status": "FAILED", "says": f"{type(error).__name__}: {error}"}
    finally:
        row["seconds"] = time.monotonic() - begun
        over.set()
        watcher.join()
        if partial.exists():
            os.replace(partial, failed)
            with contextlib.suppress(ValueError):  # the original error in the table matters more than its copy
                row["says"] += f" (kept as {os.path.relpath(failed)})"
    return row


def _watch(row: dict[str, Any], over: threading.Event) -> None:
    """Keep the most memory that the children of this process hold at once, twice a second, until it is over."""
    while not over.wait(0.5):
        with contextlib.suppress(psutil.Error):  # a kernel that has just gone
            held = sum(child.memory_info().rss for child in psutil.Process().children(recursive=True))
            row["memory"] = max(row["memory"] or 0, held)


def _alone() -> bool:
    """Whether this is the runner itself, not one of several workers."""
    return threading.current_thread() is threading.main_thread()


def join(name: str, values: dict[str, Any], profile: str, out: Path, limit: int | None) -> None:
    """Run a notebook that runs elsewhere, only for its rows: `sweeps.run` of each takes those that nobody has begun."""
    with tempfile.TemporaryDirectory() as folder:
        execute(name, values, profile, out, limit, Path(folder))


def each(calls: dict[str, tuple], count: int | None, scheduler: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of the table as notebooks end, `execute(*call)`: one after the other, or on workers of dask.

    Raises:
        Refused: there are no such workers.
    """
    if not count and not scheduler:
        yield from ((name, execute(*call)) for name, call in calls.items())
        return
    from lib import workers  # imports torch, which takes seconds

    # By their names, because the module that is `__main__` here is another one there.
    task, other = (pkgutil.resolve_name(f"lib.run:{name}") for name in ("execute", "join"))
    try:
        with workers.remote(scheduler) if scheduler else workers.local(count) as client:
            for name, found in workers.spread(client, task, other, calls):
                says = f"{type(found).__name__}: {found}"
                failed = {"notebook": name, "status": "DIED", "seconds": 0.0, "says": says}
                yield name, found if isinstance(found, dict) else failed
    except (ValueError, OSError) as error:  # the latter: of a scheduler that is gone
        raise Refused(error) from error


def _count(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} workers can do nothing; give at least 1")
    return int(text)


def _sweep_up(out: Path) -> None:
    """What runs that were killed have left."""
    for stale in (out / "notebooks").glob(".*.partial.ipynb"):
        stale.unlink(missing_ok=True)


def finish(path: Path, name: str, out: Path, told: bool) -> None:
    """Strip what a run leaves in the metadata: times, paths, widget state. Outputs, counts and ids stay.

    If `told`, refill the prose with the run's own numbers, and say at the top of what run they are.
    """
    notebook = nbformat.read(path, as_version=4)
    for part in (notebook, *notebook.cells):
        for key in ("papermill", "widgets", "execution", "collapsed", "scrolled"):
            part.metadata.pop(key, None)
        if not part.metadata.get("tags", ["kept"]):
            part.metadata.pop("tags")
    if told:
        from lib import results  # imports torch, which takes seconds

        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = results.refill(cell.source, name, out, strict=False)
        run = results.read(name, out)
        about = f"profile {run['profile']}; data {run['data']['name']}; device {run['device']}; {run['date']}"
        says = "Numbers in the text are of this run, and n/a where it has none; sentences are about the default."
        notebook.cells[0].source = f"> **{about}.** {says}\n\n{notebook.cells[0].source}"
    files.write(path, nbformat.writes(notebook) + "\n")


def headline(out: Path, name: str) -> str:
    """The number a notebook puts forward, from its results JSON: `annealed fg_ari 0.95 ± 0.02`; "" without one."""
    path = out / "figures" / "results" / f"{name}.json"
    if not path.exists():
        return ""
    try:
        document = json.loads(path.read_text())
        config, metric = document["headline"]["config"], document["headline"]["metric"]
        value = document["summary"][config][metric]
        spread = f" ± {value['sd']:.3f} (n={value['n']})" if value.get("sd") is not None else ""
        return f"{config} {metric} {value['mean']:.3f}{spread}"
    except (ValueError, KeyError, TypeError) as error:
        return f"no number in figures/results/{path.name}: {type(error).__name__} {error}"


def describe() -> str:
    """What `--list` prints."""
    lines = []
    for name in series():
        lines += [name, f"  {question(name)}"]
        for key, about in parameters(name).items():
            lines.append(f"    {key}: {about['inferred_type_name']} = {about['default']}  {about['help']}".rstrip())
        lines.append("")
    return "\n".join([*lines, f"profiles: {', '.join(profiles())}"])


def writable(out: Path | str, changed: bool) -> Path:
    """The output folder, made ready. `Refused` if it cannot be written, or `changed` would replace the committed."""
    path = Path(out).resolve()
    if not str(out):
        raise Refused("--out is empty; give a folder")
    if path == ROOT and changed:
        raise Refused("committed outputs are those of the defaults; give another --out for other parameters")
    try:
        for folder in (path / "notebooks", path / "figures" / "results"):
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
    except (OSError, ValueError) as error:
        raise Refused(f"cannot write to --out {out}: {error}") from error
    return path


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
    parser.add_argument("--compile", action="store_true", help="compile Slot Attention where it trains (torch.compile)")
    parser.add_argument("--plan", action="store_true", help="say what it needs and how long it takes, and no more")
    several = parser.add_mutually_exclusive_group()
    several.add_argument("--workers", type=_count, metavar="N", help="so many at once, a GPU or some cores each")
    several.add_argument("--scheduler", metavar="ADDRESS", help="on the workers of a dask scheduler, also elsewhere")
    parser.add_argument("--list", action="store_true", help="show the notebooks, their questions and parameters")
    options = parser.parse_args(arguments)
    if options.list:
        print(describe())
        return 0
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    if options.remeasure:
        os.environ["SLOTS_REMEASURE"] = "1"  # read by lib.sweeps in the kernels
    if options.compile:
        os.environ["SLOTS_COMPILE"] = "1"  # and this by lib.training
    profile = folder = options.profile
    try:
        if "TORCHELASTIC_RUN_ID" in os.environ:
            raise Refused("torchrun is for a training in a script; notebooks share devices with --workers")
        given = {k: read(v, f"-p {k}") for k, v in sorted(options.given)}
        plans = plan(options.notebooks, profile, given)
        if given:
            profile += f" with {', '.join(f'{k}={v}' for k, v in given.items())}"
            folder = f"{'-'.join([folder, *given])[:80]}-{hashlib.sha256(profile.encode()).hexdigest()[:8]}"
        out = ROOT / "runs" / folder if options.out is None else options.out
        full = options.plan or options.profile not in TIME_LIMIT
        asked = plans if full else {n: values for n, values in plans.items() if outside(n, values)}
        needs = {"wrong": [], "seconds": {}}
        if asked:
            needs = foreseen(asked, Path(out).resolve(), full, options.workers or 1)
        if needs["wrong"]:
            raise Refused("\n".join(["this cannot be run here", *needs["wrong"]]))
        if options.plan:
            return 0
        out = writable(out, any(plans.values()))
    except Refused as error:
        print(f"lib.run: {error}", file=sys.stderr)
        return 2
    limits = {n: max(LONG, int(MARGIN * needs["seconds"].get(n, 0))) for n in plans}
    if given or options.remeasure or options.time_limit:
        limits = dict.fromkeys(plans, options.time_limit)
    elif options.profile in TIME_LIMIT:
        limits = dict.fromkeys(plans, TIME_LIMIT[options.profile])
    rows: dict[str, dict] = {n: {"notebook": n, "status": "stopped", "seconds": 0.0, "says": ""} for n in plans}
    calls = {name: (name, values, profile, out, limits[name]) for name, values in plans.items()}
    if options.profile not in TIME_LIMIT:
        # At real size a frame's arrays are megabytes. glibc learns to take them from its heap, between the few bytes
        # that are kept of each frame, and the heap grows by 20 MB a frame; mapped, they go back to the system.
        os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**20))
    bar = tqdm(total=len(plans), desc="notebooks", position=0, disable=None)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # who is killed politely leaves nothing half-written
    _sweep_up(out)
    try:
        for name, row in each(calls, options.workers, options.scheduler):
            rows[name] = row
            bar.update()
    except KeyboardInterrupt:
        pass  # the table says who was stopped
    except Refused as error:
        print(f"lib.run: {error}", file=sys.stderr)
        if all(row["status"] == "stopped" for row in rows.values()):
            return 2
    finally:
        bar.close()
        _sweep_up(out)
    print(summary(list(rows.values())))
    print(f"written to {os.path.relpath(out)}: notebooks, figures, figures/results")
    if out != ROOT:
        try:
            site.overview(out, [row | {"question": question(n)} for n, row in rows.items()], f"Profile {profile}")
            print(f"all of it on one page: {os.path.relpath(out / 'index.html')}")
        except OSError as error:
            print(f"no page with all of it: {error}", file=sys.stderr)
    found = {row["status"] for row in rows.values()}
    return 130 if "stopped" in found else int(not found <= {"ok"})


def summary(rows: list[dict[str, Any]]) -> str:
    """The table at the end: notebook, status, seconds, key metrics."""
    header = ("notebook", "status", "seconds", "GB", "key metrics")
    held = [f"{r['memory'] / 1e9:.1f}" if r.get("memory") else "-" for r in rows]
    told = zip(rows, held, strict=True)
    cells = [(r["notebook"], r["status"], f"{r['seconds']:.0f}", gigabytes, r["says"]) for r, gigabytes in told]
    widths = [max(len(row[i]) for row in [header, *cells]) for i in range(4)]
    lines = ["  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[4]]) for row in [header, *cells]]
    return "\n".join([lines[0], "  ".join("-" * w for w in (*widths, 11)), *lines[1:]])


if __name__ == "__main__":
    sys.exit(main())
