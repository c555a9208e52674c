"""The house: arrows run one way, few floors, and no room without a use. `pytest -s` prints it."""

import ast
import json
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from lib import ROOT

LIB = ROOT / "lib"
#: Names that the plan gives to two modules: a score and its measures are both called anomaly.
TWICE = {"anomaly"}


def imports(source: str) -> set[str]:
    """What a piece of Python imports from `lib`, by dotted names that may be of modules or of things in them."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.split(".")[0] == "lib"}


def graph(folder: Path = LIB) -> dict[str, set[str]]:
    """Modules of the library, without the empty ones of packages, and the modules that each imports."""
    paths = [path for path in folder.rglob("*.py") if path.name != "__init__.py"]
    sources = {".".join(p.relative_to(folder.parent).with_suffix("").parts): p.read_text() for p in paths}
    return {name: imports(source) & sources.keys() for name, source in sources.items()}


def room(module: str) -> str:
    """A file at the top, a folder of general modules, or a study: `lib.data`, `lib.studies.roads`."""
    parts = module.split(".")
    return ".".join(parts[: 3 if parts[1] == "studies" else 2])


def rooms(modules: dict[str, set[str]]) -> dict[str, set[str]]:
    """The same, by rooms."""
    found: dict[str, set[str]] = {room(module): set() for module in modules}
    for module, others in modules.items():
        found[room(module)] |= {room(other) for other in others} - {room(module)}
    return found


def floors(arrows: dict[str, set[str]]) -> dict[str, int]:
    """Floor of each: 0 where nothing else is imported, else one above the highest import. CycleError for a circle."""
    found: dict[str, int] = {}
    for name in TopologicalSorter(arrows).static_order():
        found[name] = max((found[other] + 1 for other in arrows[name]), default=0)
    return found


def test_nothing_general_knows_a_study():
    wrong = {m: o for m, others in graph().items() if not m.startswith("lib.studies") for o in others if "studies" in o}
    assert not wrong, wrong


def test_there_is_no_circle_and_few_floors():
    modules = graph()
    floors(modules)
    arrows = rooms(modules)
    found = floors(arrows)
    for name in sorted(found, key=lambda n: (-found[n], n)):
        below = ", ".join(sorted(other.removeprefix("lib.") for other in arrows[name]))
        print(f"floor {found[name]}  {name.removeprefix('lib.'):<20} {below}")
    print(f"\n{len(arrows)} rooms, {len(set(found.values()))} floors, {sum(map(len, arrows.values()))} arrows")
    assert max(found.values()) < 5


def test_models_and_data_do_not_know_each_other():
    arrows = rooms(graph())
    assert "lib.data" not in arrows["lib.models"] and "lib.models" not in arrows["lib.data"]


def test_every_module_of_studies_serves_a_notebook():
    modules, used = graph(), set()
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
        used |= set().union(*map(imports, code)) & modules.keys()
    while new := set().union(*(modules[module] for module in used)) - used:
        used |= new
    assert {m for m in modules if m.startswith("lib.studies")} <= used


def test_no_two_general_modules_share_a_name():
    names = [m.rpartition(".")[2] for m in graph() if not m.startswith("lib.studies")]
    assert {name for name in names if names.count(name) > 1} == TWICE


def test_wrong_imports_are_seen(tmp_path):
    house = tmp_path / "lib"
    (house / "studies").mkdir(parents=True)
    (house / "a.py").write_text("from lib import b\n")
    (house / "b.py").write_text("def f():\n    import lib.studies.c\n")
    (house / "studies" / "c.py").write_text("from lib.a import x\n")
    modules = graph(house)
    assert modules == {"lib.a": {"lib.b"}, "lib.b": {"lib.studies.c"}, "lib.studies.c": {"lib.a"}}
    try:
        floors(rooms(modules))
    except CycleError:
        return
    raise AssertionError("a circle was not seen")
