"""Houses: walls with a facade, a ground floor, a roof, and what sticks out of them."""

import numpy as np
from street_mesh import box, merge, mesh, quad
from street_parts import BUILDING, SATIN, Part
from street_towns import TOWNS, fronts, surfaces


def building(rng, town, width, depth, floors) -> list[Part]:
    """A house whose front, on x = 0, faces +x and runs along y from 0."""
    t, looks = TOWNS[town], surfaces(town)
    upper, lower = fronts(town)[rng.integers(len(fronts(town)))]
    h0, shift = 3.6, float(rng.integers(4)) * 3
    h = h0 + 3 * floors

    def p(x, y, z):
        return (-depth if x else 0.0, width if y else 0.0, z)

    walls = [quad(p(0, 0, h0), p(0, 1, h0), p(0, 1, h), p(0, 0, h), width, h - h0, shift, 0)]
    for y in (0, 1):
        walls.append(quad(p(1, y, -1), p(0, y, -1), p(0, y, h), p(1, y, h), depth, h + 1, shift, -4.6))
    walls.append(quad(p(1, 1, -1), p(1, 0, -1), p(1, 0, h), p(1, 1, h), width, h + 1, 0, -4.6))
    base = [
        quad((0, 0, -1), (0, width, -1), (0, width, 0), (0, 0, 0), width, 0.01, shift, 0),
        quad(p(0, 0, 0), p(0, 1, 0), p(0, 1, h0), p(0, 0, h0), width, h0, shift, 0),
    ]
    tone = np.asarray(rng.choice([0.5, 0.3, 0.15])) * np.array((1, 0.97, 0.92))
    extra = [
        box((0, -0.02, h0 - 0.12), (0.14, width + 0.02, h0 + 0.12)).tinted(tone),
        box((-depth, -0.05, h - 0.05), (0.3, width + 0.05, h + 0.3)).tinted(tone),
    ]
    roof = []
    if rng.random() < t["pitched"]:
        top, mid = h + 0.3 + depth * rng.uniform(0.22, 0.38), -depth / 2
        a, b, c = (0.45, -0.2, h + 0.2), (0.45, width + 0.2, h + 0.2), (-depth - 0.45, 0, h + 0.2)
        run = float(np.hypot(depth / 2, top - h))
        roof.append(quad(a, b, (mid, width + 0.2, top), (mid, -0.2, top), width, run))
        roof.append(
            quad((c[0], width + 0.2, c[2]), (c[0], -0.2, c[2]), (mid, -0.2, top), (mid, width + 0.2, top), width, run)
        )
        for y in (0.0, width):
            walls.append(
                mesh([(0, y, h), (-depth, y, h), (mid, y, top - 0.1)], [[0, 1, 2]], [(0, 0), (0.8, 0), (0.4, 0.1)])
            )
        for y in rng.uniform(0.1, 0.9, rng.integers(0, 3)) * width:
            extra.append(box((mid - 0.4, y - 0.3, top - 0.8), (mid + 0.4, y + 0.3, top + 0.9)).tinted((0.2, 0.1, 0.07)))
    else:
        extra.append(
            quad((-depth, 0, h + 0.31), (0, 0, h + 0.31), (0, width, h + 0.31), (-depth, width, h + 0.31)).tinted(
                (0.12, 0.12, 0.12)
            )
        )
        for _ in range(rng.integers(0, 3)):
            x, y, e = -rng.uniform(3, depth - 2), rng.uniform(1, width - 2), rng.uniform(0.5, 1.2)
            extra.append(
                box((x - e, y - e, h), (x + e, y + e, h + rng.uniform(0.8, 2.2))).tinted(
                    np.full(3, rng.uniform(0.15, 0.45))
                )
            )
    if rng.random() < t["balcony"]:
        rail = np.asarray((0.03, 0.03, 0.03)) if rng.random() < 0.6 else tone
        for f in range(floors):
            for bay in range(int(width // 3)):
                if rng.random() < 0.6:
                    y, z = 3 * bay + 1.5, h0 + 3 * f + 0.55
                    extra.append(box((0, y - 1.1, z - 0.14), (1.0, y + 1.1, z)).tinted(tone))
                    extra += [
                        box((0.94, y - 1.1, z + k), (1.0, y + 1.1, z + k + 0.05)).tinted(rail) for k in (0.3, 0.6, 0.9)
                    ]
                    extra += [
                        box((0, y + d, z + 0.9), (1.0, y + d + 0.05, z + 0.95)).tinted(rail) for d in (-1.1, 1.05)
                    ]
                    extra += [
                        box((0.94, y + d, z), (0.99, y + d + 0.04, z + 0.92)).tinted(rail)
                        for d in np.linspace(-1.08, 1.04, 7)
                    ]
    if rng.random() < 0.3:
        y, w, c = rng.uniform(0.5, max(0.6, width - 5)), rng.uniform(2.5, 4), rng.uniform(0.03, 0.5, 3)
        for k in range(8):
            a, b = y + w * k / 8, y + w * (k + 1) / 8
            extra.append(
                quad((1.3, a, 2.55), (1.3, b, 2.55), (0.02, b, 3.2), (0.02, a, 3.2)).tinted(
                    c if k % 2 else (0.6, 0.58, 0.54)
                )
            )
    parts = [(BUILDING, merge(walls), upper), (BUILDING, merge(base), lower), (BUILDING, merge(extra), SATIN)]
    return parts + ([(BUILDING, merge(roof), looks["roof"])] if roof else [])
