"""Which code, and which revision of it, made what: stamps for rows and checkpoints.

Introduced in notebooks/ex_slot1.ipynb, which prints where its rows come from.
"""

import ast
import dis
import hashlib
import inspect
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextvars import ContextVar
from functools import lru_cache, partial
from itertools import groupby
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import nn

from lib import ROOT

#: Modules that keep, draw, explore or run: they move no number.
APART = "provenance files checkpoints parallel sweeps results plots explore run tables figures".split()
#: Syntax trees of modules, and those of older versions that they count as, because tests show that their numbers are
#: the same up to rounding: what the older one made stays known. Revisions tell them apart.
SAME = {
    "6818084952b1": "16664c2b139b",  # lib.metrics.segmentation
    "4498f5f28b0e": "d6fee08bc254",  # lib.anomaly
    "3c9864791a05": "602fed1e6388",  # lib.features
    "9e577b1a830a": "585b343db1d6",  # lib.models.slot_attention
    "20de6a992080": "f3fac378298d",  # lib.training
    "ca0e747111c2": "baed5e6d174e",  # lib.studies.roads.alarms
    "6b7c4b2fe9a2": "a8ea43982fd3",  # lib.studies.roads.experiment
    "d1267288ab26": "8b9f15e62a2d",  # lib.studies.roads.pretrained
}
#: Fields of a syntax tree that not every Python from 3.11 on has, or that say nothing of what is computed.
SKIPPED = ("type_params", "type_comment", "kind", "ctx")
#: Names of checkpoints that a trial loads although other code trained them: `training` fills it, `sweeps` reads it.
FOREIGN: ContextVar[list[str] | None] = ContextVar("foreign", default=None)


def code(*things: Any) -> str:
    """Twelve digits of a hash of the code that functions, classes or modules run.

    Of each the module that defines it and all modules of `lib` that this one imports, and those in turn, but for
    `APART`. Of what is defined in a notebook its own source, and what its global names stand for: other functions of
    the notebook, modules and objects of `lib`, and constants in capitals. Modules count as syntax trees, so comments,
    docstrings and layout change nothing. Not covered: other libraries, the device.

    Raises:
        ValueError: there is no source to read.
    """
    found: dict[str, Any] = {}
    for thing in things:
        try:
            _collect(thing, found, root=True)
        except (OSError, TypeError, AttributeError) as error:
            raise ValueError(f"no source for {thing!r} ({error}); define it in a file or a cell") from error
    return short(found)


def code_of_model(model: nn.Module, build: Callable | None = None) -> str:
    """As `code`, of the modules in `lib.models` that a model's parts and its builder are from, and of its settings.

    A model in a notebook's own classes counts by their source. Settings are plain public attributes of its parts.
    """
    found: dict[str, Any] = {}
    for name, part in model.named_modules():
        if type(part).__module__.startswith(("lib.", "__main__")):
            _collect(type(part), found)
            plain = {k: v for k, v in vars(part).items() if k != "training" and not k.startswith("_")}
            found[f"settings {name}"] = repr({k: v for k, v in plain.items() if _is_plain(v)})
    build = getattr(build, "func", build)
    if getattr(build, "__module__", "").startswith("lib.models"):
        _collect(build, found)
    return short(found)


def revision() -> str:
    """The git revision of the workbook, with `+` when `lib` differs from it; "unknown" outside git.

    Notebooks and figures may differ: a run that refreshes what is committed rewrites them on its way.
    """
    git = partial(subprocess.check_output, cwd=ROOT, text=True, stderr=subprocess.DEVNULL)
    try:
        commit = git(["git", "rev-parse", "--short=10", "HEAD"]).strip()
        return commit + ("+" if git(["git", "status", "--porcelain", "--", "lib"]) else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def remeasure() -> bool:
    """Whether what other code made is to be made anew: `SLOTS_REMEASURE=1`, set by `lib.run --remeasure`."""
    return os.environ.get("SLOTS_REMEASURE") == "1"


def as_json(value: dict, what: str, strict: bool = True, digits: int = 17) -> dict[str, Any]:
    """A dict as JSON gives it back: tuples are lists, scalars of NumPy and torch are numbers.

    Args:
        what: names the value in messages.
        strict: refuse infinity and NaN, which JSON does not have; they are None otherwise.
        digits: that floats keep; 17 are all.

    Raises:
        ValueError: it is no dict, or not JSON.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{what} is no dict but {value!r:.100}")
    try:
        text = json.dumps(value, default=number, allow_nan=not strict)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{what} is not JSON ({error}): {value!r:.300}; use str, bool, list, dict and finite numbers"
        ) from error
    return json.loads(text, parse_constant=lambda _: None, parse_float=lambda x: float(f"{float(x):.{digits}g}"))


def short(value: Any) -> str:
    """Twelve digits of a hash of a value that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def number(value: Any) -> Any:
    """For `json.dumps`: scalars of NumPy and torch."""
    if getattr(value, "ndim", None) == 0:
        return value.item()
    raise TypeError(f"a {type(value).__name__} is no number, text, list or dict")


def _collect(thing: Any, found: dict[str, Any], root: bool = False) -> None:
    """Add the code behind `thing` to `found`; `root`: also where it is neither of `lib` nor of a notebook."""
    name = getattr(thing, "__name__", "")
    if not isinstance(thing, ModuleType):
        while isinstance(thing, partial | MethodType):
            thing = thing.func if isinstance(thing, partial) else thing.__func__
        thing = inspect.unwrap(thing if isinstance(thing, FunctionType | type) else type(thing))
        name = thing.__module__ or ""
        if name == "__main__":
            return _cell(thing, found)
    if name.split(".")[0] == "lib":
        _module(name, found)
    elif root:
        _add(name, inspect.getsource(sys.modules[name]), found)


def _module(name: str, found: dict[str, Any]) -> None:
    path = ROOT / name.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if name not in found and name.rpartition(".")[2] not in APART and path.is_file():
        source = path.read_text()  # what a package fetches when it is asked is no code that runs in it
        _add(name, source.partition("\ndef __getattr__")[0] if path.name == "__init__.py" else source, found)


def _add(name: str, source: str, found: dict[str, Any]) -> None:
    tree, imports = _parsed(source)
    found[name] = SAME.get(tree, tree)
    for imported in imports:
        _module(imported, found)


def _cell(thing: FunctionType | type, found: dict[str, Any]) -> None:
    """A function or class of a notebook, and what its names stand for."""
    key = f"__main__.{thing.__qualname__}"
    if key in found:
        return
    if isinstance(thing, type):
        found[key] = ""
        made = [v for v in vars(thing).values() if isinstance(v, FunctionType)]
        for value in (*thing.__bases__, *(v for v in made if v.__code__.co_filename != "<string>")):  # a dataclass's
            _collect(value, found)
        return
    found[key] = _parsed(textwrap.dedent(inspect.getsource(thing)))[0]
    cells = zip(thing.__code__.co_freevars, thing.__closure__ or (), strict=True)
    known = thing.__globals__ | {name: cell.cell_contents for name, cell in cells}
    for name in sorted(_names(thing.__code__) & known.keys()):
        value = known[name]
        if name.isupper() and not isinstance(value, Callable | ModuleType):
            found[f"__main__.{name}"] = json.dumps(value, default=partial(_inside, found), skipkeys=True)
        else:
            _collect(value, found)


def _inside(found: dict[str, Any], value: Any) -> str:
    """A function in a constant counts by its code, a setting by its text, all else by its type."""
    if callable(value):
        _collect(value, found)
        return getattr(value, "__qualname__", "")
    return repr(value) if hasattr(value, "__dataclass_fields__") else type(value).__name__


def _names(block: CodeType) -> set[str]:
    """Global and free names that a function reads, and the functions within it."""
    own = {i.argval for i in dis.get_instructions(block) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF")}
    return own.union(*(_names(c) for c in block.co_consts if isinstance(c, CodeType)))


@lru_cache(maxsize=512)
def _parsed(source: str) -> tuple[str, tuple[str, ...]]:
    """A hash of the syntax tree, and the names of what it imports from `lib`; of a fragment, of its words."""
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a lambda in the middle of a statement
        return short(source.split()), ()
    imports = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            imports |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            imports |= {alias.name for alias in node.names}
    return short(_tree(tree)), tuple(sorted(i for i in imports if i.split(".")[0] == "lib"))


def _tree(node: Any) -> Any:
    """A syntax tree as lists, the same from Python 3.11 on: without empty fields, docstrings and types' parameters."""
    if isinstance(node, list):
        return [_tree(n) for n in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = {k: v for k, v in ast.iter_fields(node) if v not in (None, []) and k not in SKIPPED}
    if isinstance(node, ast.JoinedStr):  # how neighbouring texts of an f-string are cut differs
        runs = groupby(node.values, lambda value: isinstance(value, ast.Constant))
        joined = [[ast.Constant("".join(v.value for v in run))] if text else [*run] for text, run in runs]
        fields["values"] = [v for run in joined for v in run if getattr(v, "value", None) != ""]
    elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        first = node.body[0] if node.body else None
        if isinstance(first, ast.Expr) and isinstance(getattr(first.value, "value", None), str):
            fields["body"] = node.body[1:]
    return [type(node).__name__, *([k, _tree(v)] for k, v in fields.items())]


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)
