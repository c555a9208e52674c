"""Triangles for the street: flat-sided builders, and smooth solids cut out of signed distances.

Units are metres, x to the front of a thing, y to its left, z up, the ground at z = 0. Colours are linear reflectances.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

Colour = Sequence[float] | Callable[[np.ndarray], np.ndarray]  # rgb, or a solid texture: points [n, 3] -> rgb [n, 3]
Distance = Callable[[np.ndarray], np.ndarray]  # points [n, 3] -> signed distances [n], negative inside


@dataclass(frozen=True)
class Mesh:
    """Triangles: vertices float32 [n, 3], faces [m, 3], texture coordinates [n, 2], colours [n, 3] or None."""

    v: np.ndarray
    f: np.ndarray
    uv: np.ndarray
    rgb: np.ndarray | None = None

    def moved(self, at=(0, 0, 0), turn: float = 0.0, scale=1.0) -> "Mesh":
        """Scaled, turned about z by `turn` radians, then shifted to `at`."""
        c, s = np.cos(turn), np.sin(turn)
        v = (self.v * np.asarray(scale)) @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]) + np.asarray(at)
        return replace(self, v=v.astype(np.float32))

    def tinted(self, colour) -> "Mesh":
        """The same with one colour, or with its colours multiplied by it."""
        base = np.ones((len(self.v), 3)) if self.rgb is None else self.rgb
        return replace(self, rgb=(base * np.asarray(colour, float)).astype(np.float32))

    def faces(self, keep: np.ndarray) -> "Mesh":
        """Only the faces where `keep` [m] holds."""
        used, f = np.unique(self.f[keep], return_inverse=True)
        rgb = None if self.rgb is None else self.rgb[used]
        return Mesh(self.v[used], f.reshape(-1, 3), self.uv[used], rgb)


def mesh(v, f, uv=None, rgb=None) -> Mesh:
    """A Mesh from anything array-like; without `uv` these are zero."""
    v = np.asarray(v, np.float32).reshape(-1, 3)
    uv = np.zeros((len(v), 2), np.float32) if uv is None else np.asarray(uv, np.float32)
    rgb = None if rgb is None else np.broadcast_to(np.asarray(rgb, np.float32), (len(v), 3)).copy()
    return Mesh(v, np.asarray(f, np.int64).reshape(-1, 3), uv, rgb)


def merge(parts: Sequence[Mesh]) -> Mesh:
    """All in one; either every part has colours or none has."""
    start = np.cumsum([0] + [len(p.v) for p in parts])
    rgb = None if parts[0].rgb is None else np.concatenate([p.rgb for p in parts])
    return Mesh(
        np.concatenate([p.v for p in parts]),
        np.concatenate([p.f + s for p, s in zip(parts, start, strict=False)]),
        np.concatenate([p.uv for p in parts]),
        rgb,
    )


def quad(a, b, c, d, su: float = 1.0, sv: float = 1.0, u0: float = 0.0, v0: float = 0.0) -> Mesh:
    """A rectangle by its corners, counterclockwise; the texture spans `su` times `sv` from (u0, v0) at `a`."""
    uv = [(u0, v0), (u0 + su, v0), (u0 + su, v0 + sv), (u0, v0 + sv)]
    return mesh([a, b, c, d], [[0, 1, 2], [0, 2, 3]], uv)


def box(low, high, scale: float = 1.0) -> Mesh:
    """A box between two corners, with `scale` texture repeats a metre on every side."""
    (x0, y0, z0), (x1, y1, z1) = low, high
    dx, dy, dz = (x1 - x0) * scale, (y1 - y0) * scale, (z1 - z0) * scale

    def p(i, j, k):
        return ((x0, x1)[i], (y0, y1)[j], (z0, z1)[k])

    return merge([
        quad(p(0, 0, 0), p(1, 0, 0), p(1, 0, 1), p(0, 0, 1), dx, dz),
        quad(p(1, 1, 0), p(0, 1, 0), p(0, 1, 1), p(1, 1, 1), dx, dz),
        quad(p(1, 0, 0), p(1, 1, 0), p(1, 1, 1), p(1, 0, 1), dy, dz),
        quad(p(0, 1, 0), p(0, 0, 0), p(0, 0, 1), p(0, 1, 1), dy, dz),
        quad(p(0, 0, 1), p(1, 0, 1), p(1, 1, 1), p(0, 1, 1), dx, dy),
        quad(p(0, 1, 0), p(1, 1, 0), p(1, 0, 0), p(0, 0, 0), dx, dy),
    ])  # fmt: skip


def tube(start, end, r0: float, r1: float | None = None, sides: int = 12) -> Mesh:
    """A cylinder or cone with caps from `start` to `end`."""
    start, end, r1 = np.asarray(start, float), np.asarray(end, float), r0 if r1 is None else r1
    length = np.linalg.norm(end - start)
    axis = (end - start) / length
    u = np.cross(axis, (1, 0, 0) if abs(axis[0]) < 0.9 else (0, 1, 0))
    u /= np.linalg.norm(u)
    t = np.linspace(0, 2 * np.pi, sides + 1)
    ring = np.cos(t)[:, None] * u + np.sin(t)[:, None] * np.cross(axis, u)
    j, n = np.arange(sides), sides + 1
    f = [(j, j + 1, n + j + 1), (j, n + j + 1, n + j), (0 * j + 2 * n, j + 1, j), (0 * j + 2 * n + 1, n + j, n + j + 1)]
    uv = np.stack([np.r_[t, t, 0, 0] / 6.2832, np.r_[0 * t, 0 * t + length, 0, length]], 1)
    v = np.concatenate([start + ring * r0, end + ring * r1, [start, end]])
    return mesh(v, np.concatenate([np.stack(c, 1) for c in f]), uv)


def sheet(grid: np.ndarray, uv: np.ndarray) -> Mesh:
    """A surface through points [a, b, 3] with texture coordinates [a, b, 2]."""
    a, b = grid.shape[:2]
    i = (np.arange(a - 1)[:, None] * b + np.arange(b - 1)).ravel()
    return mesh(
        grid,
        np.concatenate([np.stack([i, i + b, i + b + 1], 1), np.stack([i, i + b + 1, i + 1], 1)]),
        uv.reshape(-1, 2),
    )


# Signed distances. Each call gives a function of points [n, 3].


def ball(centre, radii) -> Distance:
    """An ellipsoid (a bound rather than a distance, which is enough to cut a surface from)."""
    c, r = np.asarray(centre, np.float32), np.broadcast_to(np.asarray(radii, np.float32), 3)
    return lambda p: (np.linalg.norm((p - c) / r, axis=1) - 1) * r.min()


def limb(a, b, ra: float, rb: float | None = None) -> Distance:
    """A rounded stick from a to b whose radius goes from ra to rb."""
    a, b, rb = np.asarray(a, np.float32), np.asarray(b, np.float32), ra if rb is None else rb
    ab = b - a

    def distance(p):
        t = np.clip((p - a) @ ab / (ab @ ab), 0, 1)
        return np.linalg.norm(p - a - t[:, None] * ab, axis=1) - (ra + (rb - ra) * t)

    return distance


def block(low, high, round: float = 0.02) -> Distance:
    """A box between two corners with rounded edges."""
    low, high = np.asarray(low, np.float32), np.asarray(high, np.float32)
    centre, half = (low + high) / 2, (high - low) / 2 - round

    def distance(p):
        q = np.abs(p - centre) - half
        return np.linalg.norm(np.maximum(q, 0), axis=1) + np.minimum(q.max(1), 0) - round

    return distance


def drum(centre, radius: float, half: float, axis: int = 2, round: float = 0.02) -> Distance:
    """A cylinder of half-height `half` along an axis, with rounded edges."""
    c, across = np.asarray(centre, np.float32), [k for k in range(3) if k != axis]

    def distance(p):
        d = p - c
        q = np.stack([np.linalg.norm(d[:, across], axis=1) - radius, np.abs(d[:, axis]) - half], 1) + round
        return np.linalg.norm(np.maximum(q, 0), axis=1) + np.minimum(q.max(1), 0) - round

    return distance


def turned(profile) -> Distance:
    """What a lathe makes: the solid whose radius at height z is interpolated between (radius, z) points going up."""
    r, z = np.asarray(profile, np.float32).T

    def distance(p):
        return np.maximum(
            np.hypot(p[:, 0], p[:, 1]) - np.interp(p[:, 2], z, r),
            np.abs(p[:, 2] - (z[0] + z[-1]) / 2) - (z[-1] - z[0]) / 2,
        )

    return distance


def outline(points, y0: float, y1: float) -> Distance:
    """A polygon in (x, z), given in order, extruded from y0 to y1."""
    a = np.asarray(points, np.float32)
    b = np.roll(a, -1, 0)

    def distance(p):
        return np.maximum(flat(p), np.abs(p[:, 1] - (y0 + y1) / 2) - (y1 - y0) / 2)

    def flat(p):
        q = p[:, None, [0, 2]] - a
        e = b - a
        t = np.clip((q * e).sum(-1) / (e * e).sum(-1), 0, 1)
        far = np.linalg.norm(q - t[..., None] * e, axis=-1).min(1)
        x, z = p[:, 0:1], p[:, 2:3]
        over = (a[:, 1] > z) != (b[:, 1] > z)
        cross = a[:, 0] + (z - a[:, 1]) * e[:, 0] / np.where(e[:, 1] == 0, 1, e[:, 1])
        return np.where((over & (x < cross)).sum(1) % 2 == 1, -far, far)

    return distance


def rotated(shape: Distance, axis: int, angle: float, about=(0, 0, 0)) -> Distance:
    """A shape turned by `angle` radians about an axis through `about`."""
    c, s, o = np.cos(angle), np.sin(angle), np.asarray(about, np.float32)
    i, j = [(1, 2), (2, 0), (0, 1)][axis]

    def distance(p):
        q = p - o
        back = q.copy()
        back[:, i], back[:, j] = c * q[:, i] + s * q[:, j], c * q[:, j] - s * q[:, i]
        return shape(back + o)

    return distance


def less(shape: Distance, *cuts: Distance) -> Distance:
    """A shape with others cut out of it."""
    return lambda p: np.maximum.reduce([shape(p), *(-cut(p) for cut in cuts)])


def solid(parts: Sequence[tuple[Distance, Colour]], low, high, step: float, blend: float = 0.0) -> Mesh:
    """The surface of a union of coloured shapes, as triangles about `step` long ("naive surface nets").

    Neighbours within `blend` metres melt into one another; every vertex takes the colour of the shape nearest to it.
    """
    axes = [np.arange(a - 2 * step, b + 3 * step, step, dtype=np.float32) for a, b in zip(low, high, strict=True)]
    shape = tuple(len(a) for a in axes)
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    d = _union([part(points) for part, _ in parts], blend).reshape(shape)

    inside = d < 0
    n = np.array(shape) - 1

    def corner(g, i, j, k):
        return g[i : i + n[0], j : j + n[1], k : k + n[2]]

    count = sum(corner(inside, i, j, k).astype(np.int8) for i in (0, 1) for j in (0, 1) for k in (0, 1))
    cells = np.argwhere((count > 0) & (count < 8))
    number = np.full(n, -1, np.int64)
    number[tuple(cells.T)] = np.arange(len(cells))

    # a vertex is the mean of where the surface crosses the twelve edges of its cell
    total, crossings = np.zeros((len(cells), 3)), np.zeros((len(cells), 1))
    for axis in range(3):
        for j in (0, 1):
            for k in (0, 1):
                at = np.insert(np.array([j, k]), axis, 0)
                unit = np.eye(3, dtype=int)[axis]
                d0, d1 = (d[tuple((cells + at + e).T)] for e in (0 * unit, unit))
                hit = (d0 < 0) != (d1 < 0)
                t = np.where(hit, d0 / np.where(hit, d0 - d1, 1), 0)
                total += hit[:, None] * (at + t[:, None] * unit)
                crossings += hit[:, None]
    v = (np.array([a[0] for a in axes]) + step * (cells + total / crossings)).astype(np.float32)

    faces = []
    for axis in range(3):  # a crossed edge joins the four cells around it
        u, w = np.eye(3, dtype=int)[(axis + 1) % 3], np.eye(3, dtype=int)[(axis + 2) % 3]
        cut = [slice(1, -1)] * 3
        cut[axis] = slice(0, -1)
        upper = list(cut)
        upper[axis] = slice(1, None)
        first, second = inside[tuple(cut)], inside[tuple(upper)]
        edges = np.argwhere(first != second) + np.where(np.arange(3) == axis, 0, 1)
        out = first[first != second]
        a, b, c, e = (number[tuple((edges - o).T)] for o in (u + w, w, 0 * u, u))
        rows = np.stack([a, b, c, e], 1)
        rows = np.where(out[:, None], rows, rows[:, ::-1])
        faces += [rows[:, [0, 1, 2]], rows[:, [0, 2, 3]]]
    rgb = np.zeros((len(v), 3), np.float32)
    nearest = np.argmin([part(v) for part, _ in parts], axis=0)
    for i, (_, colour) in enumerate(parts):
        mine = nearest == i
        if mine.any():
            rgb[mine] = colour(v[mine]) if callable(colour) else colour
    return mesh(v, np.concatenate(faces), rgb=rgb)


def _union(distances: list[np.ndarray], blend: float) -> np.ndarray:
    """The smallest distance; with `blend`, smoothed where two are close (polynomial smooth minimum)."""
    d = distances[0]
    for other in distances[1:]:
        h = np.maximum(blend - np.abs(d - other), 0) / blend if blend else 0
        d = np.minimum(d, other) - h * h * blend / 4
    return d
