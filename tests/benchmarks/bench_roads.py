"""Streaming measures at the size of real data: 20 million pixels against sorting, 1.38 billion in bounded memory.

    python tests/benchmarks/bench_roads.py 20e6           # also sorts them, and compares
    python tests/benchmarks/bench_roads.py 1382400000     # all pixels of the real test split: 1500 x 720 x 1280

Scores are made chunk by chunk from a seed, each chunk like one town: others normal around an offset, one pixel in a
hundred an anomaly, two deviations above. Beyond 50 million nothing is sorted: the bounds are the check. What was
measured is kept in figures/results/bench_roads.json, which notebooks/streethazards.ipynb quotes.
"""

import json
import resource
import sys

import numpy as np

from lib import ROOT
from lib.metrics.anomaly import Pool, bounds, exact_curve, measure

KEPT = ROOT / "figures" / "results" / "bench_roads.json"
CHUNK = 921_600  # one frame of 720 x 1280
SORTED = 50_000_000


def frames(pixels):
    """Scores and truth of one frame after the other."""
    for i in range(0, pixels, CHUNK):
        rng = np.random.default_rng(i)
        n = min(CHUNK, pixels - i)
        truth = rng.random(n, dtype=np.float32) < 0.01
        yield rng.standard_normal(n, dtype=np.float32) + 2 * truth - 10 + np.float32(0.5 * (i // CHUNK % 2)), truth


def main(pixels):
    pool = Pool()
    for scores, truth in frames(pixels):
        pool.add(scores, truth)
    curve = pool.curve()
    report = {
        "pixels": pixels,
        "streaming": measure(curve),
        "bounds": bounds(curve),
        "widest_bounds": max(high - low for low, high in bounds(curve).values()),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    assert report["peak_memory_mb"] < 1000, report
    if pixels <= SORTED:
        exact = measure(exact_curve(*(np.concatenate(part) for part in zip(*frames(pixels), strict=True))))
        report |= {"exact": exact, "errors": {k: abs(exact[k] - report["streaming"][k]) for k in exact}}
        for key, (low, high) in report["bounds"].items():
            assert low <= exact[key] <= high and report["errors"][key] < 0.001, (key, report)
    print(json.dumps(report, indent=1))
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    temporary = KEPT.with_suffix(".tmp")
    temporary.write_text(json.dumps(kept | {f"{pixels} pixels": report}, indent=1) + "\n")
    temporary.replace(KEPT)


if __name__ == "__main__":
    main(int(float(sys.argv[1])) if len(sys.argv) > 1 else 20_000_000)
