"""Procedural textures for the street: flat ones (tiles of pixels), solid ones (functions of a point), and the sky.

All colours are linear. Flat textures are float32 [h, w, 3] with row 0 at the bottom, and wrap around at their edges.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np


@dataclass(frozen=True, eq=False)
class Material:
    """How a surface looks; without `colour` the colours of the vertices are used."""

    colour: np.ndarray | None = None  # [h, w, 3]
    roughness: float | np.ndarray = 0.8  # number, or [h, w]
    specular: float = 0.4
    metallic: float = 0.0
    coat: float = 0.0  # clear varnish, as on cars
    repeat: tuple[float, float] = (1.0, 1.0)  # texture repeats for each unit of the texture coordinates


# noise


def noise(rng: np.random.Generator, h: int, w: int, fall: float) -> np.ndarray:
    """Noise [h, w] that tiles, mean 0 and deviation 1; power falls off as frequency to the minus `fall`."""
    fy, fx = np.fft.fftfreq(h)[:, None] * h, np.fft.rfftfreq(w) * w
    f = np.hypot(fy, fx)
    f[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.normal(size=(h, w))) / f ** (fall / 2)
    out = np.fft.irfft2(spectrum, (h, w))
    return ((out - out.mean()) / out.std()).astype(np.float32)


_LATTICE = np.random.default_rng(20).uniform(-1, 1, (32, 32, 32)).astype(np.float32)


def rough(p: np.ndarray, size: float, octaves: int = 4, seed: int = 0) -> np.ndarray:
    """Noise at points [n, 3], about -1..1, with features of `size` metres and finer."""
    out, weight = np.zeros(len(p), np.float32), 1.0
    for k in range(octaves):
        q = p * (2**k / size) + 7.3 * seed + 3.1 * k
        i = np.floor(q).astype(np.int64)
        t = q - i
        t = t * t * (3 - 2 * t)
        v = 0.0
        for dx, dy, dz in np.ndindex(2, 2, 2):
            w = np.prod([t[:, a] if d else 1 - t[:, a] for a, d in enumerate((dx, dy, dz))], axis=0)
            v = v + w * _LATTICE[(i[:, 0] + dx) & 31, (i[:, 1] + dy) & 31, (i[:, 2] + dz) & 31]
        out += weight * v
        weight *= 0.5
    return out


# solid textures: each gives a function from points [n, 3] to colours [n, 3]


def mottled(colour, amount=0.25, size=0.3, seed=0, other=None):
    """A colour with cloudy variation, towards `other` if given."""
    c, o = np.asarray(colour, float), None if other is None else np.asarray(other, float)

    def texture(p):
        x = rough(p, size, 4, seed)[:, None]
        return np.clip(c * (1 + amount * x), 0.005, 1) if o is None else c + (o - c) * np.clip(0.5 + 0.9 * x, 0, 1)

    return texture


def patches(inside, between, size=0.3, gap=0.08, seed=0):
    """Irregular patches with lighter seams, as on a giraffe: cells around random points."""
    a, b = np.asarray(inside, float), np.asarray(between, float)

    def texture(p):
        q = p / size + 0.25 * np.stack([rough(p, size, 2, seed + i) for i in range(3)], 1)
        cell = np.floor(q)
        near = np.full((2, len(p)), 9.0)
        for o in np.ndindex(3, 3, 3):
            c = cell + np.array(o) - 1
            i = c.astype(np.int64) & 31
            point = (
                c
                + 0.5
                + 0.45 * np.stack([_LATTICE[i[:, 0], i[:, 1], (i[:, 2] + 11 * k + seed) & 31] for k in range(3)], 1)
            )
            d = np.linalg.norm(q - point, axis=1)
            near = np.sort(np.concatenate([near, d[None]]), axis=0)[:2]
        seam = np.clip((near[1] - near[0]) / (2 * gap / size), 0, 1)[:, None] > 0.5
        return np.where(seam, a, b) * (1 + 0.12 * rough(p, size / 3, 2, seed)[:, None])

    return texture


def bands(one, two, along, width, wobble=0.0, share=0.5, seed=0):
    """Alternating bands across the direction `along`, `width` metres for a pair, bent by noise."""
    one, two, along = (np.asarray(x, float) for x in (one, two, along))

    def texture(p):
        t = (p @ along + wobble * rough(p, 4 * width, 2, seed)) / width
        grain = 1 + 0.08 * rough(p, width / 3, 2, seed)[:, None]
        return np.where((t % 1 < share)[:, None], one, two) * grain

    return texture


def gores(colours, axis=2, centre=(0, 0, 0)):
    """Sectors around an axis, as on a beach ball."""
    colours, i, j = np.asarray(colours, float), (axis + 1) % 3, (axis + 2) % 3

    def texture(p):
        q = p - np.asarray(centre)
        k = np.floor((np.arctan2(q[:, j], q[:, i]) / (2 * np.pi) % 1) * len(colours)).astype(int) % len(colours)
        return colours[k]

    return texture


def timber(colour, along=0, plank=0.14, across=2, seed=0):
    """Boards: grain along one axis, seams and a shade of its own for every board along another."""
    c = np.asarray(colour, float)

    def texture(p):
        stretch = np.ones(3)
        stretch[along] = 0.08
        grain = rough(p * stretch, 0.03, 3, seed)
        board = np.floor(p[:, across] / plank)
        shade = 1 + 0.18 * np.sin(board * 12.9 + seed) + 0.22 * grain
        seam = np.abs(p[:, across] / plank % 1 - 0.5) > 0.44
        return np.clip(c * (shade * np.where(seam, 0.45, 1))[:, None], 0.004, 1)

    return texture


def tartan(one, two, three, width=0.12):
    """A checked cloth."""
    one, two, three = (np.asarray(x, float) for x in (one, two, three))

    def texture(p):
        n = [(np.floor(p[:, k] / width) % 2)[:, None] for k in range(3)]
        cloth = (one * (n[0] + n[1] + n[2]) + two * (3 - n[0] - n[1] - n[2])) / 3
        thread = (np.abs(p / width % 1 - 0.5) > 0.46).any(1)
        return np.where(thread[:, None], three, cloth) * (1 + 0.1 * rough(p, 0.02, 2)[:, None])

    return texture


# flat textures


def _rect(image, x0, x1, y0, y1, value):
    """Fill a rectangle given in fractions of the image."""
    h, w = image.shape[:2]
    image[round(float(y0 * h)) : round(float(y1 * h)), round(float(x0 * w)) : round(float(x1 * w))] = value


def grain(rng, colour, amount=0.1, size=256, fall=1.4) -> np.ndarray:
    """A plain surface with some variation: plaster, concrete, soil, grass."""
    return np.clip(np.asarray(colour) * (1 + amount * noise(rng, size, size, fall)[..., None]), 0.003, 1).astype(
        np.float32
    )


def courses(rng, colour, joint, rows=32, cols=12, size=256, vary=0.16) -> np.ndarray:
    """Bricks, blocks or slabs: `rows` courses, every other one shifted by half."""
    y, x = np.mgrid[:size, :size] / size
    row = np.floor(y * rows).astype(int)
    across = (x * cols + 0.5 * (row % 2)) % cols
    shade = 1 + vary * rng.uniform(-1, 1, (rows, cols))[row, np.floor(across).astype(int)]
    seam = (np.abs(y * rows % 1 - 0.5) > 0.5 - 1.3 * rows / size) | (np.abs(across % 1 - 0.5) > 0.5 - 1.3 * cols / size)
    out = np.asarray(colour) * (shade * (1 + 0.08 * noise(rng, size, size, 1.0)))[..., None]
    return np.clip(np.where(seam[..., None], joint, out), 0.003, 1).astype(np.float32)


def asphalt(rng, width: float, lanes: int, shade: float, wet: float) -> tuple[np.ndarray, np.ndarray]:
    """Colour [1024, 512, 3] and roughness of a road `width` metres across and 24 metres along the rows."""
    h, w = 1024, 512
    fine, broad = noise(rng, h, w, 0.5), noise(rng, h, w, 2.4)
    tone = shade * (1 + 0.16 * fine + 0.1 * broad)
    x = (np.arange(w) + 0.5) / w * lanes % 1
    tone *= 1 - 0.10 * (
        np.exp(-(((x - 0.27) / 0.1) ** 2)) + np.exp(-(((x - 0.73) / 0.1) ** 2))
    )  # tyres polish and darken
    tone *= 1 - 0.08 * np.exp(-(((x - 0.5) / 0.06) ** 2)) * (1 + broad)  # oil drips between them
    for _ in range(rng.integers(1, 4)):  # repairs
        i, j, a, b = rng.integers(h), rng.integers(w), rng.integers(60, 260), rng.integers(30, 120)
        tone[i : i + a, j : j + b] *= rng.uniform(0.66, 0.86)
    for _ in range(rng.integers(2, 7)):  # cracks: walks along the road or across it
        n, along = rng.integers(100, 420), rng.random() < 0.6
        walk = np.cumsum(rng.normal(0, 0.8, n)).astype(int)
        i, j = rng.integers(h), rng.integers(w)
        rows, cols = (i + np.arange(n), j + walk) if along else (i + walk, j + np.arange(n))
        tone[rows % h, cols % w] *= 0.55
    puddle = np.clip((broad - 1.2 + 1.1 * wet) * 1.5, 0, 1) * (wet > 0)
    roughness = np.clip(0.82 - 0.38 * wet - 0.38 * puddle, 0.12, 1)
    tone *= (1 - 0.45 * wet) * (1 - 0.35 * puddle)
    tint = 1 + 0.012 * rng.normal(size=3)
    return np.clip(tone[..., None] * tint, 0.004, 1).astype(np.float32), roughness.astype(np.float32)


def facade(rng, style: dict) -> tuple[np.ndarray, np.ndarray]:
    """Four bays by four floors, 12 m square: colour [512, 512, 3] and roughness. `style` is one of street_towns."""
    size = 512
    wall, joint = np.asarray(style["wall"]) * rng.uniform(0.85, 1.12), np.asarray(style["wall"]) * 0.62
    colour = {
        "brick": lambda: courses(rng, wall, joint, 128, 40, size, 0.2),
        "stone": lambda: courses(rng, wall, joint, 24, 16, size, 0.12),
        "panel": lambda: courses(rng, wall, wall * 0.5, 8, 8, size, 0.05),
        "plaster": lambda: grain(rng, wall, 0.05, size, 1.8),
    }[style["kind"]]()
    colour *= 1 - 0.06 * np.clip(noise(rng, size, 32, 1.0), 0, 3).repeat(size // 32, 1)[..., None]  # rain streaks
    rough_map = np.full((size, size), 0.85, np.float32)
    bw, bh = style["window"]  # share of the bay and of the floor that the opening takes
    frame, glass = np.asarray(style["frame"]), np.array((0.025, 0.032, 0.04))
    for floor in range(4):
        for bay in range(4):
            x, y = bay / 4, floor / 4
            x0, x1 = x + (1 - bw) / 8, x + (1 + bw) / 8
            y0, y1 = y + (0.56 - bh / 2) / 4, y + (0.56 + bh / 2) / 4
            e = 0.006
            _rect(colour, x0 - 2 * e, x1 + 2 * e, y0 - 2 * e, y1 + 3 * e, wall * style["trim"])
            _rect(colour, x0 - 3 * e, x1 + 3 * e, y0 - 3.4 * e, y0 - 1.4 * e, wall * style["trim"] * 1.1)  # sill
            _rect(colour, x0 - 3 * e, x1 + 3 * e, y0 - 5.4 * e, y0 - 3.4 * e, wall * 0.5)  # its shadow
            _rect(colour, x0, x1, y0, y1, frame)
            _rect(colour, x0 + e, x1 - e, y0 + e, y1 - e, glass * rng.uniform(0.6, 1.6))
            _rect(rough_map, x0 + e, x1 - e, y0 + e, y1 - e, 0.08)
            _rect(colour, x0 + e, x1 - e, y1 - 3 * e, y1 - e, glass * 0.4)  # shadow of the lintel
            drawn = rng.random()
            if drawn < 0.3:  # curtains at the sides
                side = (x1 - x0) * rng.uniform(0.15, 0.35)
                cloth = np.array((0.4, 0.37, 0.32)) * rng.uniform(0.3, 1.1)
                _rect(colour, x0 + e, x0 + side, y0 + e, y1 - e, cloth)
                _rect(colour, x1 - side, x1 - e, y0 + e, y1 - e, cloth * 0.9)
            elif drawn < 0.5:  # a blind, more or less down
                _rect(colour, x0 + e, x1 - e, y1 - (y1 - y0) * rng.uniform(0.2, 0.9), y1 - e, rng.uniform(0.15, 0.5))
            for k in range(1, style["panes"]):
                xm = x0 + (x1 - x0) * k / style["panes"]
                _rect(colour, xm - e / 2, xm + e / 2, y0, y1, frame)
            if style["panes"] > 1:
                _rect(colour, x0, x1, y0 + (y1 - y0) * 0.68 - e / 2, y0 + (y1 - y0) * 0.68 + e / 2, frame)
            if style.get("shutter") and rng.random() < 0.85:
                shade = np.asarray(style["shutter"]) * rng.uniform(0.85, 1.1)
                for a, b in ((x0 - 0.042, x0 - e), (x1 + e, x1 + 0.042)):
                    _rect(colour, a, b, y0, y1, shade)
                    slats = slice(int(y0 * size), int(y1 * size), 4)
                    colour[slats, int(a * size) : int(b * size)] *= 0.6
    return np.clip(colour, 0.003, 1).astype(np.float32), rough_map


def shopfront(rng, style: dict) -> tuple[np.ndarray, np.ndarray]:
    """The ground floor under it, 12 m by 3.6 m: colour [160, 512, 3] and roughness."""
    h, w = 160, 512
    wall = np.asarray(style["wall"]) * rng.uniform(0.7, 1.0)
    colour = np.clip(wall * (1 + 0.06 * noise(rng, h, w, 1.4)[..., None]), 0.003, 1)
    rough_map = np.full((h, w), 0.8, np.float32)
    _rect(colour, 0, 1, 0, 0.12, wall * 0.5)  # plinth
    units = [0.0, *sorted(rng.choice([0.25, 0.5, 0.75], rng.integers(1, 4), replace=False)), 1.0]
    for x0, x1 in pairwise(units):
        kind, m = rng.random(), 0.02
        if kind < style["shops"]:  # window to the pavement, a band with lettering above
            band = np.array(
                [(0.35, 0.03, 0.03), (0.02, 0.08, 0.25), (0.02, 0.16, 0.07), (0.03, 0.03, 0.03), (0.5, 0.4, 0.1)]
            )
            tone = band[rng.integers(5)]
            _rect(colour, x0 + m, x1 - m, 0.78, 0.94, tone)
            for k in np.arange(x0 + 0.05, x1 - 0.06, 0.018):
                if rng.random() < 0.8:
                    _rect(colour, k, k + 0.011, 0.83, 0.83 + rng.uniform(0.03, 0.07), np.clip(tone * 3 + 0.35, 0, 0.9))
            _rect(colour, x0 + m, x1 - m, 0.1, 0.76, tone * 0.7 + 0.02)
            for a in np.arange(x0 + m + 0.006, x1 - m - 0.02, 0.075):
                b = min(a + 0.069, x1 - m - 0.006)
                _rect(
                    colour,
                    a,
                    b,
                    0.14 if rng.random() < 0.8 else 0.03,
                    0.73,
                    np.array((0.04, 0.045, 0.05)) * rng.uniform(0.6, 2),
                )
                _rect(rough_map, a, b, 0.12, 0.73, 0.08)
                _rect(
                    colour,
                    a + 0.01,
                    b - 0.01,
                    0.16,
                    rng.uniform(0.2, 0.45),
                    rng.uniform(0.03, 0.25) * (1 + 0.6 * rng.uniform(-1, 1, 3)),
                )  # goods
        elif kind < style["shops"] + 0.18:  # garage door
            tone = rng.uniform(0.1, 0.5) * np.array((1, 0.98, 0.95))
            _rect(colour, x0 + 2 * m, x1 - 2 * m, 0, 0.7, tone)
            for y in np.arange(0.05, 0.7, 0.09):
                _rect(colour, x0 + 2 * m, x1 - 2 * m, y, y + 0.015, tone * 0.55)
        else:  # a door and windows
            door, c = x0 + (x1 - x0) * 0.2, rng.uniform(0.02, 0.25) * (1 + 0.5 * rng.uniform(-1, 1, 3))
            _rect(colour, door - 0.008, door + 0.098, 0, 0.68, 0.45)
            _rect(colour, door, door + 0.09, 0, 0.64, c)
            _rect(colour, door + 0.015, door + 0.075, 0.36, 0.58, c * 0.5)
            for a in np.arange(door + 0.15, x1 - 0.1, 0.16):
                _rect(colour, a - 0.008, a + 0.098, 0.27, 0.74, np.asarray(style["frame"]))
                _rect(colour, a, a + 0.09, 0.3, 0.71, np.array((0.03, 0.035, 0.04)) * rng.uniform(0.6, 2))
                _rect(rough_map, a, a + 0.09, 0.3, 0.71, 0.08)
                _rect(colour, a + 0.042, a + 0.048, 0.3, 0.71, np.asarray(style["frame"]))
    return np.clip(colour, 0.003, 1).astype(np.float32), rough_map


def sign_face(kind: int) -> np.ndarray:
    """One of six faces [64, 64, 3]: speed limit, no entry, priority, warning, parking, and a direction board."""
    y, x = np.mgrid[1:-1:64j, -1:1:64j]
    y, r = -y, np.hypot(x, y)
    white, red, black, blue, yellow = (
        (0.75,) * 3,
        (0.5, 0.012, 0.015),
        (0.01,) * 3,
        (0.01, 0.06, 0.35),
        (0.75, 0.5, 0.02),
    )
    face = np.full((64, 64, 3), 0.75, np.float32)
    if kind == 0:
        face[r > 0.72] = red
        for a in (-0.42, 0.12):
            face[(np.abs(np.hypot((x - a - 0.13) / 0.7, y) - 0.28) < 0.08)] = black
    elif kind == 1:
        face[:] = red
        face[(np.abs(x) < 0.65) & (np.abs(y) < 0.17)] = white
    elif kind == 2:
        face[np.abs(x) + np.abs(y) < 0.62] = yellow
    elif kind == 3:
        face[(y < -0.72) | (np.abs(x) > (1 - y) / 2 - 0.2)] = red
        face[(np.abs(x) < 0.09) & (y > -0.28) & (y < 0.35)] = black
        face[(np.abs(x) < 0.09) & (np.abs(y + 0.48) < 0.1)] = black
    elif kind == 4:
        face[:] = blue
        face[(np.abs(x + 0.25) < 0.11) & (np.abs(y) < 0.6)] = white
        face[(np.abs(np.hypot(x + 0.05, y - 0.27) - 0.28) < 0.1) & (x > -0.3)] = white
    else:
        face[:] = (0.01, 0.17, 0.06)
        for yy in (0.5, 0.0, -0.5):
            face[(np.abs(y - yy) < 0.12) & (np.abs(x - 0.1) < 0.6) & (np.floor(x * 14) % 4 > 0)] = white
        face[np.maximum(np.abs(x), np.abs(y)) > 0.93] = white
    return face[::-1].copy()


def _lookup(tile, at):
    """A tile [n, n] at points (x, y) [..., 2] in pixels, interpolated and repeated."""
    n, i = len(tile), np.floor(at).astype(int)
    (x, y), (i, j) = np.moveaxis(at - i, -1, 0), np.moveaxis(i, -1, 0)
    rows = [tile[(j + k) % n, i % n] * (1 - x) + tile[(j + k) % n, (i + 1) % n] * x for k in (0, 1)]
    return rows[0] * (1 - y) + rows[1] * y


def sky(rng, weather: dict, sun: np.ndarray) -> np.ndarray:
    """Radiance [512, 1024, 3] all around, row 0 up; columns go from the direction +y round to +x.

    A vertical gradient, a glow about the sun, and clouds: noise on a plane overhead, lit from the sun's side.
    """
    h, w = 512, 1024
    polar, azimuth = np.pi * (np.arange(h) + 0.5)[:, None] / h, 2 * np.pi * (np.arange(w) + 0.5) / w
    d = np.stack([np.sin(polar) * np.sin(azimuth), np.sin(polar) * np.cos(azimuth), np.cos(polar) + 0 * azimuth], -1)
    up = np.clip(d[..., 2:], 0, 1)
    towards = np.clip(d @ sun, -1, 1)[..., None]
    zenith, horizon, warm = (np.asarray(weather[k]) for k in ("zenith", "horizon", "warm"))
    out = horizon + (zenith - horizon) * up ** weather["falloff"]
    out = out + warm * (0.5 * np.exp(10 * (towards - 1)) + 1.6 * np.exp(90 * (towards - 1))) * weather["glow"]

    clouds = noise(rng, 512, 512, 3.1)
    plane = d[..., :2] / (up + 0.16) * weather["cloud_size"] * 512
    step = sun[:2] / np.linalg.norm(sun[:2]) * 9
    here, sunward = _lookup(clouds, plane), _lookup(clouds, plane + step)
    cover = np.clip((here - weather["clear"]) * 1.4, 0, 1)[..., None] * np.clip(up * 6, 0, 1)
    cover = cover * cover * (3 - 2 * cover)
    lit = np.clip(0.85 + 0.35 * (here - sunward)[..., None] - 0.13 * here[..., None], 0.5, 1.25)
    out = out * (1 - cover) + cover * lit * (np.asarray(weather["cloud"]) + 0.25 * warm * np.exp(4 * (towards - 1)))
    ground = horizon * 0.25
    return np.where(d[..., 2:] > 0, out, ground).astype(np.float32)
