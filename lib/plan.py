"""What a run takes, told before it starts: data, weights, trainings, steps, disk, memory, time. `lib.run --plan`.

A notebook is followed, not run, in a process of its own. Of its code only what its sweeps rest on is executed
(`followed`), and rows, checkpoints, states and tokens are looked up as ever, so that a plan cannot drift from the run.
But a training takes `STEPS` steps, spread over its length; tokens are counted, not computed; and a trial ends where it
begins to measure. What is published stands for data that are missing, random weights for weights that are.

It is coarse: what is measured comes on top, in time and memory, and so does a checkpoint that a figure alone asks for.
On a CPU steps are of `SAMPLES` at most, and time and memory are taken to grow with the batch.
"""

import ast
import json
import multiprocessing
import os
import resource
import shutil
import symtable
import sys
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
import numpy as np
import torch
import torch.utils.data
from pandas import json_normalize
from PIL import Image
from torch import Tensor, nn

from lib import ROOT, checkpoints, features, results, sweeps, training
from lib.data.movi import MoviDataset
from lib.data.shapes import Shapes
from lib.data.streethazards import SPLITS, StreetHazards
from lib.features import Features, Split
from lib.files import DataError
from lib.metrics import objects
from lib.models import backbones, segmenters
from lib.models.weights import WeightsError
from lib.provenance import as_json, short
from lib.training import Fitted, Recipe, Run, State, place, settled

STEPS, WARM = 10, 2  # of a training: timed, and before them
PATIENCE = 5.0  # seconds after which no further step of a training is timed
SAMPLES = 4  # of a batch, on a CPU
SHARE = 0.8  # of the host's free memory that may be taken: the last of it makes everything slow before it fails
FEW = 8  # scenes, frames and shapes that stand for all where it does not matter what they show
#: Scenes of MOVi-A as published (Greff et al. 2022); frames of StreetHazards are in `SPLITS`.
MOVI = {"train": 9703, "validation": 250}
#: Methods by which a statement changes what a name stands for.
CHANGING = ("append", "extend", "insert", "update", "setdefault", "add")
#: What stood in `lib` before `install`.
REAL: dict[str, Callable] = {}


class Stopped(Exception):
    """A trial begins to measure."""


class Unmeasured(dict):
    """Numbers that only a run knows: who looks is stopped."""

    def _stop(self, *_: Any) -> Any:
        raise Stopped

    __getitem__ = __contains__ = __iter__ = __len__ = get = items = keys = values = _stop


@dataclass
class Tokens:
    """A cache of tokens: shape `[S, T, N, C]`, seconds a frame, and whether the disk has room for it."""

    shape: tuple[int, ...]
    each: float
    kept: bool = True

    @property
    def gb(self) -> float:
        return 2 * float(np.prod(self.shape)) / 1e9

    @property
    def seconds(self) -> float:
        return self.each * self.shape[0] * self.shape[1]


@dataclass
class Needs:
    """What a notebook needs. `rows`, `known` and `tokens` are also of the notebooks before it: there by then."""

    measure: bool = True
    rows: set[Path] = field(default_factory=set)
    known: dict[str, dict] = field(default_factory=dict)  # headers of what is trained
    tokens: dict[str, Tokens] = field(default_factory=dict)  # by file
    there: dict[str, str] = field(default_factory=dict)  # data and weights
    missing: dict[str, str] = field(default_factory=dict)  # likewise, and how to get them
    tight: list[str] = field(default_factory=list)  # what does not fit
    failing: list[str] = field(default_factory=list)  # trials, or the notebook
    trainings: list[tuple[str, int]] = field(default_factory=list)  # kind and steps
    timed: dict[str, list[float]] = field(default_factory=dict)  # seconds of steps, by kind
    computed: list[str] = field(default_factory=list)  # of `tokens`, by this notebook
    memory: dict[str, float] = field(default_factory=dict)  # GB, of "host", "device" and what "a step" keeps
    device: str = ""
    few: int | None = None  # samples of a step, where they are not all of a batch
    # And what is going on.
    doing: str = ""  # a "trial", a "fit" in it, or neither
    trials: int = 0
    config: dict | None = None  # of the checkpoint that is made
    keeps: bool = False  # whether this trial made one
    alike: dict[str, list[tuple[str, int]]] = field(default_factory=dict)  # trainings of trials that did not
    ahead: tuple[float, int] = (0.0, 1)  # seconds of this step that so many worker processes take over
    anew: float = 0.0  # seconds of this step for tokens that have no room on the disk

    @property
    def caches(self) -> list[Tokens]:
        """Those of this notebook."""
        return [self.tokens[file] for file in self.computed]

    @property
    def seconds(self) -> float:
        """Of all steps, and of the tokens that are kept."""
        steps = sum(n * float(np.mean(self.timed.get(kind) or [0.0])) for kind, n in self.trainings)
        return steps + sum(cache.seconds for cache in self.caches if cache.kept)


NOW = Needs()  # of the notebook that this process follows


def names(statement: ast.stmt) -> tuple[set[str], set[str]]:
    """Names that a statement binds or changes, and names of the notebook that it reads, in functions too."""
    table = symtable.symtable(ast.unparse(statement), "cell", "exec")
    bound = {s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported()}
    for node in ast.walk(statement):
        stored = isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store)
        method = isinstance(node, ast.Attribute) and node.attr in CHANGING
        if stored or method:
            bound |= {n.id for n in ast.walk(node.value) if isinstance(n, ast.Name)}
    read, tables = set(), [table]
    for each in tables:
        read |= {s.get_name() for s in each.get_symbols() if s.is_referenced() and (each is table or s.is_global())}
        tables += each.get_children()
    return bound, read


def followed(tree: ast.Module) -> list[ast.stmt]:
    """The calls of `sweeps.rows`, also through functions of the notebook, and the statements that they rest on."""
    sweeping = {"sweeps.rows"}

    def calls(node: ast.AST) -> list[ast.Call]:
        return [n for n in ast.walk(node) if isinstance(n, ast.Call) and ast.unparse(n.func) in sweeping]

    functions = {s.name: s for s in tree.body if isinstance(s, ast.FunctionDef)}
    for _ in functions:  # those that call each other too
        sweeping |= {name for name, f in functions.items() if calls(f)}
    wanted: set[str] = set()
    kept: list[ast.stmt] = []
    for statement in reversed(tree.body):
        parts = [statement] if names(statement)[0] & wanted else []
        if not parts and not isinstance(statement, ast.FunctionDef):
            parts = [ast.copy_location(ast.Expr(call), statement) for call in calls(statement)]
        fresh = set().union(*(names(part)[1] for part in parts))
        while fresh:  # what a function reads it reads when it is called
            wanted |= fresh
            fresh = set().union(*(names(functions[n])[1] for n in fresh & functions.keys())) - wanted
        kept = parts + kept
    return kept


def follow(path: Path, values: dict[str, Any], needs: Needs, scratch: Path) -> Needs:
    """What the notebook at `path` needs with these parameters; `scratch` is its output folder."""
    global NOW
    NOW, gpu = needs, torch.cuda.is_available()
    if wanted := values.get("device") == "cuda" and not gpu:
        needs.tight.append("device is cuda, but torch sees no GPU; what is timed here is the CPU")
        values = values | {"device": "cpu"}
    needs.device = results.device_name(place(values.get("device", "auto")))
    if not gpu:
        needs.few, hard = SAMPLES, resource.getrlimit(resource.RLIMIT_DATA)[1]
        free = int(SHARE * _available()) if hard == resource.RLIM_INFINITY else hard
        resource.setrlimit(resource.RLIMIT_DATA, (free, hard))  # an error then, and no trouble for other processes
    os.environ |= {"SLOTS_OUT": str(scratch), "MPLBACKEND": "Agg"}
    os.chdir(path.parent)
    install()
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    given = "\n".join(f"{k} = {v!r}" for k, v in values.items())
    sources = [f"{c.source}\n{given if 'parameters' in c.metadata.get('tags', []) else ''}\n" for c in cells]
    file, notebook = scratch / f"{path.stem}.py", {"__name__": "__main__"}
    file.write_text("".join(sources))  # where `inspect` finds the source of its functions
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        try:
            for statement in followed(ast.parse(file.read_text())):
                exec(compile(ast.Module([statement], []), str(file), "exec"), notebook)
        except (DataError, WeightsError) as error:
            needs.missing[f"what {path.stem} begins with"] = str(error)
        except Exception as error:
            _note(error, f"{path.stem}: {ast.unparse(statement)[:60]}")
    if not gpu and not wanted and needs.memory.get("a step", 0.0) > (free := _available() / 2**30):
        needs.tight.append(
            f"a step keeps {needs.memory['a step']:.1f} GB, {free:.1f} GB are free; take smaller batches"
        )
    needs.memory["host"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if gpu:
        needs.memory["device"] = torch.cuda.max_memory_allocated() / 2**30
    return needs


def _available() -> int:
    """Bytes of memory that are free or can be made free; no limit where the system does not tell."""
    try:
        return int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        return resource.RLIM_INFINITY


def _note(error: Exception, what: str) -> None:
    """Keep an error as a lack of memory, if it is one, or as a failure."""
    said = f"{what}: {type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
    words = ("not enough memory", "can't allocate memory")  # as versions of torch say it of a CPU
    short_of = isinstance(error, MemoryError | torch.OutOfMemoryError) or any(w in str(error) for w in words)
    (NOW.tight if short_of else NOW.failing).append(said)


def install() -> None:
    """Let functions of `lib` say what they would do; before a study is imported, which takes some by their names."""
    mine = training.fit, training.load_or_train, training.indices, backbones.find, backbones.from_hub
    REAL.update({function.__name__: function for function in mine})
    REAL.update(open=features._open, scene=Split.scene, movi=MoviDataset.__init__, streets=StreetHazards.__init__)
    training.fit, training.load_or_train, sweeps._measure = fit, load_or_train, trial
    training.indices = lambda recipe, step, n: REAL["indices"](recipe, step, n)[: NOW.few]
    checkpoints.save = sweeps.save = lambda *_: None
    training.peak_memory = lambda *_, **__: {}  # no peak is forgotten
    features._compute, features._open = count, opened
    for module in (backbones, segmenters):
        module.find, module.from_hub = find, from_hub
    MoviDataset.__init__, StreetHazards.__init__, Shapes.tensors = movi, streets, property(shapes)
    Split.scene = lambda self, i: REAL["scene"](self, i if NOW.doing == "fit" else i % min(FEW, len(self._dataset)))
    for owner, name in ((Split, "_chosen"), (Features, "_read"), (objects, "evaluate")):
        setattr(owner, name, _for_training(getattr(owner, name)))
    torch.utils.data.DataLoader = Ahead


def _for_training(function: Callable) -> Callable:
    """The same, but what a trial reads outside of a training it measures."""

    def guarded(*args: Any, **options: Any) -> Any:
        if NOW.doing == "trial":
            raise Stopped
        return function(*args, **options)

    return guarded


def _unseen(model: nn.Module) -> nn.Module:
    """The model, that nobody may look through."""

    def stop(*_: Any) -> None:
        raise Stopped

    for part in model.modules():
        part.register_forward_pre_hook(stop)
    return model


def _untrained(build: Callable) -> nn.Module:
    torch.manual_seed(0)
    return _unseen(build())


def trial(fn: Callable, head: dict, path: Path, *_: Any) -> dict:
    """In place of `sweeps._measure`. Trials that differ in their seed alone are alike, if they keep no checkpoint."""
    params, before = head["params"], len(NOW.trainings)
    alike = short([fn.__qualname__, {k: v for k, v in params.items() if k != "seed"}])
    unmeasured = head | {"metrics": Unmeasured(), "seconds": 0.0}
    if path in NOW.rows or alike in NOW.alike:
        NOW.trainings += NOW.alike[alike] if path not in NOW.rows else []
        NOW.rows.add(path)
        return unmeasured
    NOW.rows.add(path)
    NOW.trials, NOW.keeps, NOW.doing = NOW.trials + 1, False, "trial"
    try:
        return unmeasured | {"metrics": fn(**params)}
    except Stopped:
        return unmeasured
    except Exception as error:
        _note(error, str(params))
        return head | {"metrics": {}, "error": str(error)}
    finally:
        NOW.doing = ""
        if not NOW.keeps:
            NOW.alike[alike] = NOW.trainings[before:]


def load_or_train(
    name: str, build: Callable, train: Callable, recipe: Recipe, config: dict, data: str, device: str = "auto"
) -> Run:
    """In place of `training.load_or_train`: itself, with `fit` below; what was asked for before is there by now.

    What would be trained has the same weights whenever it is asked for: what starts from it is known by them.
    """
    key, NOW.keeps, before = short(as_json({"of": [name, asdict(recipe), config, data]}, name)), True, NOW.trainings[:]
    if header := NOW.known.get(key):
        return Run(_untrained(build), header | {"history": [Unmeasured()], "seconds": 0.0}, {})
    NOW.config = config
    try:
        run = REAL["load_or_train"](name, build, train, recipe, config, data, device)
    finally:
        NOW.config = None
    if NOW.trainings == before:  # loaded
        return Run(_unseen(run.model), run.header, run.extra)
    NOW.known[key] = {k: run.header[k] for k in ("config", "data", "device")}
    return Run(_untrained(build), run.header, run.extra)


def fit(
    model: nn.Module, loss: Callable, recipe: Recipe, *, state: State | None = None, device: str = "auto",
    label: str = "training", optimiser: Callable = torch.optim.Adam, **_: Any,
) -> Fitted:  # fmt: skip
    """In place of `training.fit`: itself, for some steps of the first training of each kind.

    Of a kind are trainings of one structure and batch whose losses have the same settings: the outer numbers of their
    configurations. One without a checkpoint is of its trial's kind, and always makes its first steps: ex_comparison
    times such steps itself, and what it finds says how many others take.
    """
    begun, about = checkpoints.about(state.path) if state else {}, {"recipe": asdict(recipe)}
    steps = recipe.steps - (begun["step"] if state and begun.items() >= (about | state.about).items() else 0)
    settings = json_normalize(NOW.config).iloc[0].to_dict() if NOW.config else {"trial": NOW.trials}
    settings = {k: float(v) for k, v in settings.items() if k.count(".") < 2 and isinstance(v, int | float)}
    parts = [[type(m).__name__ for m in model.modules()], [list(p.shape) for p in model.parameters()]]
    kind = short([parts, recipe.batch, recipe.precision, settings])
    if steps:
        NOW.trainings.append((kind, steps))
    first = NOW.measure and kind not in NOW.timed
    if steps and (first or not state):
        visits = _Visits(model, recipe, STEPS if first else 1, place(device))
        training.tqdm, outer, NOW.doing = visits, NOW.doing, "fit"
        try:
            with torch.autograd.graph.saved_tensors_hooks(visits.keep, lambda x: x):
                REAL["fit"](model, loss, recipe, device=device, label=label, optimiser=optimiser)
        except (RuntimeError, MemoryError) as error:
            _note(error, f"{label}, a step of {recipe.batch}")
        finally:
            NOW.doing = outer
        if first:
            NOW.timed[kind] = visits.seconds
            NOW.memory["a step"] = max(NOW.memory.get("a step", 0.0), visits.gb)
    _unseen(model)
    return Fitted([Unmeasured()], {}, 0.0)


class _Visits:
    """In place of the bar of `training.fit`: some of its steps, spread over all, and what those of a batch take."""

    disable = True  # nobody is told

    def __init__(self, model: nn.Module, recipe: Recipe, most: int, where: torch.device):
        self.most, self.where, self.found = most, where, []
        self.share = min(NOW.few or recipe.batch, recipe.batch) / recipe.batch
        self._weights, self._kept = list(model.parameters()), {}

    def __call__(self, steps: range, **_: Any) -> "_Visits":
        self.steps = steps
        return self

    def __iter__(self) -> Iterator[int]:
        spread = np.linspace(WARM, len(self.steps) - 1, STEPS).round().astype(int)
        spread = spread[[0, 9, 4, 7, 2, 5, 8, 1, 6, 3][: self.most]].tolist()  # whenever it ends, all parts are seen
        begun = time.monotonic()
        for i in [*range(WARM), *dict.fromkeys(spread)] if len(self.steps) > WARM else range(len(self.steps)):
            NOW.ahead, NOW.anew, start = (0.0, 1), 0.0, settled(self.where)
            yield self.steps[i]
            ahead, workers = NOW.ahead
            self.found.append((max(settled(self.where) - start - ahead, ahead / workers) + NOW.anew) / self.share)
            if len(self.found) > WARM and time.monotonic() - begun > PATIENCE:
                break

    @property
    def seconds(self) -> list[float]:
        """Of each step that counts."""
        return self.found[WARM:] or self.found[-1:]

    def keep(self, x: Tensor) -> Tensor:
        """Note what the first step keeps for its way back."""
        if not self.found:
            self._kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    @property
    def gb(self) -> float:
        """What a step keeps: weights, gradients, two moments of each, and all that its way back needs."""
        weights = {p.untyped_storage().data_ptr() for p in self._weights}
        kept = sum(n for where, n in self._kept.items() if where not in weights) / self.share
        return (kept + 16 * sum(p.numel() for p in self._weights)) / 2**30

    def set_postfix(self, *_: Any) -> None:
        """Nothing is shown."""


class Ahead:
    """In place of a DataLoader: items are made here, and what its workers would do meanwhile is told apart."""

    def __init__(self, data: Any, batch: None, sampler: range, num_workers: int):
        self.data, self.sampler, self.workers = data, sampler, min(num_workers, os.cpu_count() or 1)

    def __iter__(self) -> Iterator[Any]:
        for i in self.sampler:
            begun = time.perf_counter()
            item = self.data[i]
            if self.workers:
                NOW.ahead = time.perf_counter() - begun, self.workers
            yield item


def count(path: Path, backbone: nn.Module, dataset: Any, size: int, grid: int) -> None:
    """In place of `features._compute`: some frames are timed, and room on the disk is set aside."""
    if path.name in NOW.tokens:
        return
    video = dataset[0].video
    some = video[: features.BATCH if torch.cuda.is_available() else 2]
    found = features._half(backbone, some, size, grid)
    begun = settled(found.device)
    if NOW.measure:
        features._half(backbone, some, size, grid)
    tokens = Tokens((len(dataset), len(video), *found.shape[1:]), (settled(found.device) - begun) / len(some))
    taken = sum(other.gb for other in NOW.tokens.values() if other.kept)
    tokens.kept = tokens.gb <= shutil.disk_usage(path.parent).free / 1e9 - taken
    NOW.tokens[path.name] = tokens
    NOW.computed.append(path.name)


def opened(path: Path, about: dict, where: torch.device, computed: Callable, pooled: int) -> Features:
    """In place of `features._open`: tokens that were only counted are noise."""
    if not (tokens := NOW.tokens.get(path.name)):
        return REAL["open"](path, about, where, computed, pooled)
    mean, std = torch.zeros(tokens.shape[-1], device=where), torch.ones(tokens.shape[-1], device=where)
    return Features(_Noise(tokens), (about["grid"],) * 2, mean, std, about, pooled)


class _Noise:
    """Tokens as `Features` reads them."""

    def __init__(self, tokens: Tokens):
        self.shape, self.dtype, self._tokens = tokens.shape, np.dtype(np.float16), tokens
        self._frame = np.random.default_rng(0).standard_normal(tokens.shape[2:], np.float32).astype(np.float16)

    def __getitem__(self, index: tuple[np.ndarray, np.ndarray]) -> Tensor:
        shape = np.broadcast_shapes(*map(np.shape, index))
        NOW.anew += 0.0 if self._tokens.kept else self._tokens.each * int(np.prod(shape))
        return torch.from_numpy(np.broadcast_to(self._frame, (*shape, *self._frame.shape)).copy())


def shapes(self: Shapes) -> tuple[Tensor, Tensor]:
    """In place of `Shapes.tensors`: a few, over and over."""
    parts = zip(*(self[i] for i in range(min(FEW, self.n))), strict=True)
    return tuple(torch.stack(part)[torch.arange(self.n) % FEW] for part in parts)


def movi(self: MoviDataset, root: Path = ROOT / "data" / "movi_a", split: str = "train", *rest: Any, **options: Any):
    """In place of `MoviDataset.__init__`: of a published split that is missing, the stand-in's scenes over and over."""
    try:
        REAL["movi"](self, root, split, *rest, **options)
        NOW.there[f"{self.name} {split}"] = f"{len(self):,} scenes"
    except DataError as error:
        if split not in MOVI:
            raise
        NOW.missing[f"movi_a {split}, counted as the {MOVI[split]:,} scenes that are published"] = str(error)
        REAL["movi"](self, ROOT / "data" / "movi_a", split, *rest, **options)
        self._places = [self._places[i % len(self._places)] for i in range(MOVI[split])]
        self.name = "movi_a"
        self._stamp()


def streets(self: StreetHazards, root: Path = ROOT / "data" / "streethazards", split: str = "train"):
    """In place of `StreetHazards.__init__`: of a split that is missing, frames of the stand-in, enlarged, repeated."""
    try:
        REAL["streets"](self, root, split)
        NOW.there[f"{self.name} {split}"] = f"{len(self):,} frames"
    except DataError as error:
        if split not in SPLITS:
            raise
        part, folder, frames = SPLITS[split]
        what = f"streethazards {split}, counted as the {frames:,} frames of 1280 x 720 px that are published"
        NOW.missing[what] = f"{error}; `python -m lib.data.download streethazards` gets it"
        REAL["streets"](self, ROOT / "data" / "streethazards", split)
        place = results.out() / "streethazards"
        for i, pair in enumerate(self.pairs[:FEW]):
            for kind, path, how in zip(("images", "annotations"), pair, ("BICUBIC", "NEAREST"), strict=True):
                target = place / part / kind / folder / "town" / f"{i}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                Image.open(path).resize((1280, 720), Image.Resampling[how]).save(target, compress_level=1)
        REAL["streets"](self, place, split)
        for key in ("pairs", "names", "towns"):
            setattr(self, key, (getattr(self, key) * -(-frames // len(self)))[:frames])
        self.name = "streethazards"


def find(name: str, *where: Any) -> Path | None:
    """As `weights.find`; what is found is noted."""
    if found := REAL["find"](name, *where):
        NOW.there[f"weights of {name}"] = str(found)
    return found


def from_hub(name: str, published: tuple[str, ...], build: Callable[[], nn.Module], otherwise: str) -> nn.Module:
    """In place of `weights.from_hub`: random weights where there are none."""
    if (what := f"weights of {name}") not in NOW.missing:
        try:
            found = REAL["from_hub"](name, published, build, otherwise)
            NOW.there[what] = "from the hub"
            return found
        except WeightsError as error:
            NOW.missing[what] = str(error)
    unfetched = dict.fromkeys({"pretrained", "encoder_weights"} & build.keywords.keys())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the same whenever they are asked for: tokens are known by them, and counted once
        return build.func(*build.args, **build.keywords | unfetched)


def survey(
    plans: dict[str, dict[str, Any]], notebooks: Path, out: Path, measure: bool, workers: int = 1
) -> dict[str, Any]:
    """Follow notebooks with their parameters, one after the other, and print what each needs.

    Args:
        out: where the run would write; what it holds counts as done.
        measure: time steps and tokens too.
        workers: so many notebooks at once, see `together`.

    Returns:
        "wrong": why the run cannot start, one line each; and by notebook "seconds" and "trainings", their steps.
    """
    found, needs, wrong = {"seconds": {}, "trainings": {}}, Needs(), {}
    with TemporaryDirectory() as folder:
        for path in (*out.glob("checkpoints/*"), *out.glob("sweeps/*/*.json")):
            link = Path(folder) / path.relative_to(out)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.absolute())
        for name, values in plans.items():
            needs = Needs(measure, needs.rows, needs.known, needs.tokens)
            try:  # each has its own peak of memory; nothing is computed here, so that a fork has all its threads
                with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
                    needs = pool.submit(follow, notebooks / f"{name}.ipynb", values, needs, Path(folder)).result()
            except BrokenProcessPool:
                needs.tight.append(f"{name} was killed while it was followed, most likely out of memory")
            print(*(f"plan: {line}" for line in told(name, needs)), sep="\n", flush=True)
            found["seconds"][name], found["trainings"][name] = needs.seconds, [n for _, n in needs.trainings]
            wrong |= dict.fromkeys([*(f"missing: {k}: {v}" for k, v in needs.missing.items()), *needs.tight])
    if measure:
        steps, each = [n for some in found["trainings"].values() for n in some], found["seconds"].values()
        hours = _duration(together(each, workers)) + f" with {workers} workers" * (workers > 1)
        gb = sum(cache.gb for cache in needs.tokens.values() if cache.kept)
        print(f"plan: in all {len(steps)} trainings, {sum(steps):,} steps, {hours}, {gb:.1f} GB of tokens")
        print("plan: a coarse estimate, of a few steps each; what is measured between and after trainings comes on top")
    return found | {"wrong": list(wrong)}


def together(seconds: Collection[float], workers: int) -> float:
    """Seconds of notebooks on workers that do not slow each other (a GPU each): no less than the longest takes."""
    return max(sum(seconds) / workers, *seconds, 0.0)


def told(name: str, needs: Needs) -> list[str]:
    """What a notebook needs, in lines."""
    kinds, timed = [float(np.mean(v)) for v in needs.timed.values() if v], sum(map(len, needs.timed.values()))
    lines = [f"{name}: {len(needs.trainings)} trainings, {sum(n for _, n in needs.trainings):,} steps"]
    if kinds:
        each = f"{min(kinds):.2g} to {max(kinds):.2g} s a step; {timed} steps of {len(kinds)} kinds were timed on"
        lines[0] += f", {_duration(needs.seconds)} ({each} {needs.device}{f', {needs.few} samples' * bool(needs.few)})"
    if needs.there:
        lines.append(f"  there: {'; '.join(f'{what}, {where}' for what, where in needs.there.items())}")
    lines += [f"  missing: {what}" for what in needs.missing]
    for kept, words in ((True, "computed in {}"), (False, "no room, computed in every step; once would take {}")):
        caches = [cache for cache in needs.caches if cache.kept == kept]
        if caches and needs.measure:
            gb, spent = sum(c.gb for c in caches), _duration(sum(c.seconds for c in caches))
            lines.append(f"  tokens: {gb:.1f} GB in {features.FOLDER.relative_to(ROOT)}, {words.format(spent)}")
    if needs.memory and needs.measure:
        peaks = ", ".join(f"{where} {gb:.1f} GB" for where, gb in needs.memory.items())
        lines.append(f"  memory: {peaks}")
    return lines + [f"  cannot be: {what}" for what in needs.tight] + [f"  will fail: {what}" for what in needs.failing]


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:,.1f} h" if seconds > 3600 else f"{seconds / 60:.1f} min"


if __name__ == "__main__":
    asked = json.loads(sys.stdin.read())
    answer = survey(asked["plans"], Path(asked["notebooks"]), Path(asked["out"]), asked["measure"], asked["workers"])
    Path(asked["answer"]).write_text(json.dumps(answer))
