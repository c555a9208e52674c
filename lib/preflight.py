"""What papermill lets pass and the runner refuses: unknown notebooks, profiles, parameters and wrong types.

papermill injects any key into any notebook, warns on one line and exits 0; YAML reads 1e-3 as text. Everything here is
checked before the first cell runs, and all that is wrong is said at once.
"""

import ast
import contextlib
import difflib
import logging
import math
import re
from pathlib import Path
from reprlib import repr as short
from typing import Any

import nbformat
import papermill
import yaml

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
TYPES = {t.__name__: t for t in (int, float, str, bool, list)}


class Refused(Exception):
    """The command cannot be run as given. The message lists everything that is wrong with it."""


def series() -> list[str]:
    """Names of the notebooks that exist, in the order of the story."""
    return [name for name in ORDER if (NOTEBOOKS / f"{name}.ipynb").exists()]


def profiles() -> list[str]:
    """The default and every file in notebooks/params."""
    return ["default", *sorted(p.stem for p in (NOTEBOOKS / "params").glob("*.yaml") if p.is_file())]


def parameters(name: str) -> dict[str, dict[str, Any]]:
    """The parameters of a notebook as papermill reads them: name to type, default and help text."""
    with quiet():
        return papermill.inspect_notebook(str(NOTEBOOKS / f"{name}.ipynb"))


def question(name: str) -> str:
    """What the notebook asks: the sentence after **Question.** in its first cells."""
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    found = re.search(r"\*\*Question\.\*\*\s*(.+?)(?:\n\n|$)", text, re.S)
    return " ".join(found[1].split()) if found else ""


class _Plain(yaml.SafeLoader):
    """YAML whose numbers are decimal; 010, 0x_, 1:30, dates, infinities and endless digits are text."""


_Plain.yaml_implicit_resolvers = {}
for _tag, _pattern in {
    "bool": r"[Tt]rue|[Ff]alse",
    "int": r"[-+]?(0|[1-9]\d{0,17})",
    "float": r"[-+]?(\d+\.\d*|\.\d+)([eE][-+]?\d+)?",
    "null": r"~|null|",
}.items():
    _Plain.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})$"), None)


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
    """Which notebook runs with which parameters: those of the profile that it takes, then those given.

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
    everything = {key for taken in known.values() for key in taken}
    path = NOTEBOOKS / "params" / f"{profile}.yaml"
    from_profile = {} if profile == "default" else read(path.read_bytes(), path.name) or {}
    if not isinstance(from_profile, dict) or not all(isinstance(k, str) for k in from_profile):
        raise Refused(f"{path.name}: {short(from_profile)} is no list of `name: value`")
    problems += [
        _unknown(f"key in {path.name}, no notebook takes", k, everything) for k in from_profile.keys() - everything
    ]
    available = {key for n in chosen for key in known[n]}
    problems += [_unknown("parameter", k, available) for k in given if k not in available]
    plans = {}
    for n in chosen:
        plans[n] = {k: v for k, v in (from_profile | given).items() if k in known[n]}
        for key, value in plans[n].items():
            kind, default = known[n][key]["inferred_type_name"], known[n][key]["default"]
            try:
                plans[n][key] = _typed(value, TYPES[kind], ast.literal_eval(default))
                if kind in ("int", "float") and value <= 0:
                    raise TypeError(f"wants more than 0, got {value}")
                if value == [] and "may be empty" not in known[n][key]["help"]:
                    raise TypeError("wants at least one item, got []")
            except TypeError as error:
                problems.append(f"{n}: {key} {error}")
    if problems:
        raise Refused("\n".join(dict.fromkeys(problems)))
    return plans


@contextlib.contextmanager
def quiet():
    """papermill logs each cell, and warns of what `plan` has already refused or accepted."""
    logger = logging.getLogger("papermill")
    level, logger.level = logger.level, logging.ERROR
    try:
        yield
    finally:
        logger.level = level


def _unknown(kind: str, name: str, known) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(sorted(known))}"
    return f"unknown {kind}: {name!r}; {hint}"


def _typed(value: Any, wanted: type, items: list) -> Any:
    """The value as the parameter's type, items as the default's; whole numbers serve as floats, no more."""
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted or (wanted is float and not math.isfinite(value)):
        hint = ""
        if wanted in (int, float) and isinstance(value, str) and re.fullmatch(r"[+-]?\d+\.?\d*[eE][+-]?\d{1,2}", value):
            hint = f"; YAML reads {value} as text, write {float(value)!r} or {float(value):.1e}"
        raise TypeError(f"wants {wanted.__name__}, got {type(value).__name__} {short(value)}{hint}")
    if wanted is list and items:
        return [_typed(v, type(items[0]), items[0]) for v in value]
    return value
