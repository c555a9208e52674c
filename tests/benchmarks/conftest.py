"""Competitors take turns: what `make bench` keeps is the ratio within each round, and its spread over rounds.

    make bench              # up to an hour, alone on two cores: figures/benchmarks.*
    ROUNDS=2 make bench     # tries everything quickly, into runs/tried

The docstrings of a file and of a benchmark are what the page says of them; a fact is a number by its name.
"""

import ctypes
import gc
import inspect
import os
import time
from collections.abc import Callable
from importlib.metadata import distributions

import numpy as np
import pytest
import torch

from lib import provenance
from lib.training import peak_memory, place

ROUNDS = int(os.environ.get("ROUNDS", 11))
PEERS = ("slot-attention", "tfrecord", "torchmetrics", "scikit-learn", "torch", "torchvision", "numpy", "timm")


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(machine_info):
    """What a reader may know of the machine: its class, never its name."""
    kept = {key: machine_info[key] for key in ("system", "machine", "python_version")}
    there = {d.name.lower().replace("_", "-"): d.version for d in distributions()}
    kept |= {"processor": machine_info["cpu"].get("brand_raw", "unknown"), "threads": torch.get_num_threads()}
    kept["revision"] = provenance.revision()  # of what is measured; the page may be written later
    versions = {name: there[name] for name in PEERS if name in there}
    machine_info.clear()
    machine_info.update(kept, versions=versions)


def interleaved(functions: dict[str, Callable], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of each function `[rounds]`, after a round that does not count; every second round runs backwards."""
    seconds = {name: [] for name in functions}
    for turn in range(rounds + 1):
        gc.collect()
        for name, function in list(functions.items())[:: 1 if turn % 2 else -1]:
            begun = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - begun)
    return {name: np.array(times[1:]) for name, times in seconds.items()}


def quartiles(values: np.ndarray) -> list[float]:
    """Lower quartile, median, upper quartile, to three digits: more are not to be had."""
    return [float(f"{v:.3g}") for v in np.quantile(values, (0.25, 0.5, 0.75))]


@pytest.fixture
def compare(benchmark, request):
    """`compare(case, functions, facts)`: how many times as fast each is as the first.

    With `sizes`, one a function, how the time of each grows: its multiple of the first's, and the slope of logarithms.
    """
    seed = torch.random.get_rng_state()

    def compare(case, functions, facts=None, sizes=None, rounds=ROUNDS, unit=""):
        rounds = min(rounds, ROUNDS)
        seconds = benchmark.pedantic(interleaved, (functions, rounds), rounds=1)
        first = next(iter(seconds.values()))
        section, _, about = inspect.getdoc(request.module).partition("\n")
        kept = {
            "section": section,
            "about": " ".join(about.split()),
            "text": " ".join(inspect.getdoc(request.function).split()),
            "case": case,
            "rounds": rounds,
            "facts": {name: float(f"{value:.3g}") for name, value in (facts or {}).items() if value == value},
        }
        if sizes is None:
            kept["fast"] = {name: quartiles(first / times) for name, times in seconds.items()}
        else:
            kept["cost"] = {name: quartiles(times / first) for name, times in seconds.items()}
            slopes = np.polyfit(np.log(sizes), np.log(np.stack(list(seconds.values()))), 1)[0]
            kept |= {"sizes": list(map(float, sizes)), "unit": unit, "exponent": quartiles(slopes)}
        benchmark.extra_info.update(kept)
        return seconds

    yield compare
    torch.random.set_rng_state(seed)


def growth(function: Callable) -> float:
    """MB by which the process grows while a function runs, at most; NaN where the system does not count it."""
    function()
    gc.collect()
    if hasattr(trim := ctypes.CDLL(None), "malloc_trim"):
        trim.malloc_trim(0)  # what the heap keeps for reuse would hide the growth
    peak_memory(place("cpu"), reset=True)
    before = peak_memory(place("cpu")).get("host_mb", np.nan)
    function()
    return peak_memory(place("cpu")).get("host_mb", np.nan) - before


@pytest.fixture(name="growth")
def _growth():
    return growth


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Largest difference, relative to the largest value of the other."""
    return float((one - other).detach().abs().max() / other.detach().abs().max())


@pytest.fixture(name="difference")
def _difference():
    return difference
