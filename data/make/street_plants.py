"""Trees, bushes and hedges: thousands of small leaves on a few boughs. They stand on z = 0."""

from functools import cache

import numpy as np
from street_mesh import Mesh, merge, mesh, tube
from street_parts import GREEN, LEAVES, Part

BARK = (0.11, 0.08, 0.055)


def _leaves(rng, centres, radii, count, size, colour) -> Mesh:
    """`count` small quads in each of some ellipsoids, darker towards their insides."""
    n = len(centres) * count
    d = rng.normal(size=(n, 3))
    d /= np.linalg.norm(d, axis=1, keepdims=True)
    depth = rng.uniform(0.3, 1, (n, 1)) ** 0.6
    at = np.repeat(centres, count, 0) + d * depth * np.repeat(radii, count, 0)
    a, b = rng.normal(size=(2, n, 3))
    a /= np.linalg.norm(a, axis=1, keepdims=True)
    b = np.cross(a, b)
    b /= np.linalg.norm(b, axis=1, keepdims=True)
    s = rng.uniform(0.6, 1.3, (n, 1)) * size
    v = np.stack([at - a * s, at + b * s * 0.6, at + a * s, at - b * s * 0.6], 1).reshape(-1, 3)
    i = np.arange(n)[:, None] * 4
    shade = (0.45 + 0.55 * depth) * rng.uniform(0.7, 1.3, (n, 1)) * (1 + 0.25 * d[:, 2:])
    hue = 1 + rng.normal(0, 0.06, (n, 3))
    return mesh(
        v,
        np.concatenate([i + np.array(corners) for corners in ((0, 1, 2), (0, 2, 3))]),
        rgb=np.clip(np.repeat(np.asarray(colour) * shade * hue, 4, 0), 0.004, 1),
    )


@cache
def _tree(kind: str, seed: int, far: bool) -> Mesh:
    """The whole tree in one coloured mesh; for a far one a quarter of the leaves, each twice as large."""
    few, big = (4, 2.0) if far else (1, 1.0)
    rng = np.random.default_rng([11, seed])
    bark = np.asarray(BARK) * rng.uniform(0.6, 1.5)
    if kind == "broad":
        h, n = rng.uniform(5, 8), rng.integers(10, 15)
        centres = np.c_[rng.normal(0, 0.13 * h, (n, 2)), h * rng.uniform(0.52, 0.95, n)]
        radii = np.full((n, 3), 0.16 * h) * rng.uniform(0.75, 1.25, (n, 1))
        leaf = _leaves(
            rng, centres, radii, 520 // few, 0.11 * big, np.array((0.075, 0.14, 0.03)) * rng.uniform(0.75, 1.3)
        )
        wood = [tube((0, 0, -0.2), (0, 0, 0.5 * h), 0.03 * h, 0.018 * h, 9)]
        wood += [tube((0, 0, 0.4 * h), c, 0.011 * h, 0.004 * h, 5) for c in centres]
    elif kind == "column":  # cypress, poplar
        h, n = rng.uniform(6, 9.5), 16
        z = np.linspace(0.1, 0.95, n)
        centres = np.c_[rng.normal(0, 0.06, (n, 2)), h * z]
        r = (0.12 * h * np.sin(np.pi * z**0.6) + 0.04)[:, None]
        leaf = _leaves(
            rng,
            centres,
            r * (1, 1, 1.6),
            330 // few,
            0.09 * big,
            np.array((0.035, 0.075, 0.03)) * rng.uniform(0.8, 1.3),
        )
        wood = [tube((0, 0, -0.2), (0, 0, 0.5 * h), 0.13, 0.06, 8)]
    elif kind == "conifer":
        h, n = rng.uniform(7, 11), 130  # boughs all the way up, longest at the bottom, hanging at their tips
        z, a = np.linspace(0.12, 0.98, n), np.arange(n) * 2.4
        reach = 0.23 * h * (1.03 - z) * np.sqrt(rng.uniform(0.15, 1, n)) * (1 + 0.12 * np.sin(z * 55))
        centres = np.c_[reach * np.cos(a), reach * np.sin(a), h * z - 0.3 * reach]
        radii = np.c_[0.32 * reach + 0.16, 0.32 * reach + 0.16, 0.018 * h + 0 * reach]
        leaf = _leaves(
            rng, centres, radii, 46 // few, 0.12 * big, np.array((0.03, 0.07, 0.035)) * rng.uniform(0.7, 1.2)
        )
        wood = [tube((0, 0, -0.2), (0, 0, h), 0.025 * h, 0.02, 8)]
    else:  # palm: fronds that hang
        h, n = rng.uniform(5.5, 8), 15
        bend = rng.normal(0, 0.4, 2)
        top = np.array((*bend, h))
        wood = [
            tube((0, 0, -0.2), (*(bend * 0.3), 0.5 * h), 0.2, 0.16, 9),
            tube((*(bend * 0.3), 0.5 * h), top, 0.16, 0.13, 9),
        ]
        t = np.linspace(0, 1, 60)
        rows = []
        for k in range(n):
            a, up, reach = k * 2.4, rng.uniform(0.1, 1.0), rng.uniform(1.9, 2.6)
            rows.append(top + np.c_[np.cos(a) * t * reach, np.sin(a) * t * reach, up * t * 2 - (1.1 + up) * 1.4 * t**2])
        leaf = _leaves(rng, np.concatenate(rows), np.full((60 * n, 3), 0.16), 5, 0.15, (0.075, 0.12, 0.035))
    wood = merge(wood).tinted(bark)
    return merge([wood, leaf])


def tree(kind: str, seed: int, far: bool = False) -> list[Part]:
    """A tree, trunk and all; broad, column, conifer or palm."""
    return [(GREEN, _tree(kind, seed % 5, far), LEAVES)]


@cache
def _bush(seed: int, far: bool = False) -> Mesh:
    rng = np.random.default_rng([13, seed])
    n = 7
    centres = np.c_[rng.uniform(-0.5, 0.5, (n, 2)), rng.uniform(0.3, 0.75, n)]
    return _leaves(
        rng,
        centres,
        np.full((n, 3), 0.42),
        40 if far else 260,
        0.16 if far else 0.075,
        np.array((0.06, 0.12, 0.03)) * rng.uniform(0.7, 1.3),
    )


def bush(seed: int, far: bool = False) -> list[Part]:
    """A bush about a metre across."""
    return [(GREEN, _bush(seed % 4, far), LEAVES)]


@cache
def _hedge() -> Mesh:
    rng = np.random.default_rng(17)
    centres = np.stack(np.meshgrid(np.arange(0, 4, 0.4), (-0.2, 0.2), (0.35, 0.8, 1.15), indexing="ij"), -1).reshape(
        -1, 3
    )
    return _leaves(rng, centres, np.full((len(centres), 3), 0.34), 100, 0.09, (0.05, 0.1, 0.025))


def hedge() -> list[Part]:
    """Four metres of hedge along x, 1.4 m high."""
    return [(GREEN, _hedge(), LEAVES)]
