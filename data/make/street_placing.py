"""Where an anomaly stands: on the road or the pavement, whole in the frame, in the open, and as large as asked for."""

from collections.abc import Iterator

import numpy as np
from street_anomalies import KINDS
from street_parts import ANOMALY, Part
from street_scene import Scene

MARGIN = 5  # px between an anomaly and the border of the frame
SMALLEST, LARGEST = 0.006, 0.034  # share of the frame that an anomaly covers, drawn evenly on a log scale
VISIBLE = 0.93  # of an anomaly that nothing may hide


def places(scene: Scene, kind: str, rng, width: int, height: int) -> Iterator[tuple[list[Part], dict]]:
    """Placements of a new anomaly of some kind, the best fit to a size drawn at random first."""
    maker, low, high = KINDS[kind]
    m, material = maker(rng)
    m = m.moved(scale=rng.uniform(low, high))
    bottom = m.v[:, 2].min()
    m = m.moved((0, 0, -0.01 - bottom))  # a centimetre into the ground, so that no light passes beneath
    radius = float(np.hypot(*np.ptp(m.v[:, :2], axis=0)) / 2)
    wanted = np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST)))
    found = []
    for _ in range(400):
        surface = "pavement" if radius < 0.5 * scene.pavement + 0.15 and rng.random() < 0.5 else "road"
        if surface == "road":
            u, z = rng.uniform(-1, 1) * (scene.half - 0.6 * radius), 0.02
        else:
            u, z = rng.choice([-1, 1]) * (scene.half + scene.pavement / 2 + rng.uniform(-0.2, 0.2)), 0.14
        s, turn = rng.uniform(4.0, 26), np.pi + rng.uniform(-1.5, 1.5)  # faces the camera, more or less
        if any(np.hypot(u - a, s - b) < 0.75 * radius + r for a, b, r in scene.taken):
            continue
        parts = scene.street.put([(ANOMALY, m, material)], u, s, z, turn)
        x, y, depth = scene.camera.project(parts[0][1].v, width, height).T
        if depth.min() < 1.5 or min(x.min(), y.min(), width - x.max(), height - y.max()) < MARGIN:
            continue
        covered = 36 * len(np.unique((x // 6).astype(int) + 1000 * (y // 6).astype(int))) / (width * height)
        found.append(
            (
                abs(np.log(covered / wanted)),
                len(found),
                parts,
                dict(kind=kind, surface=surface, metres=round(float(depth.mean()), 1)),
            )
        )
    for _, _, parts, about in sorted(found, key=lambda f: f[:2]):
        yield parts, about
