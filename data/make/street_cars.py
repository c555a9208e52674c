"""Cars and people: solids with a body that melts together. They face +x and stand on z = 0."""

from functools import cache

import numpy as np
from street_mesh import Mesh, ball, block, drum, less, limb, merge, mesh, outline, solid
from street_parts import CAR, GLASS, MATTE, PAINT, PERSON, SATIN, Part
from street_textures import mottled

#: silhouette (x, z) from the rear bumper over the roof to the front, half width, belt line, axles, middle pillar
CARS = {
    "saloon": (
        [(-2.25, 0.24), (-2.26, 0.6), (-2.18, 0.95), (-1.6, 1.02), (-0.95, 1.38), (-0.4, 1.45), (0.1, 1.44),
         (0.95, 1.0), (1.95, 0.84), (2.2, 0.68), (2.25, 0.24)], 0.9, 0.93, (-1.35, 1.4), -0.28),
    "hatchback": (
        [(-1.98, 0.24), (-2.0, 0.6), (-1.93, 0.98), (-1.55, 1.4), (-1.2, 1.5), (0.15, 1.49), (0.98, 1.02), (1.7, 0.88),
         (1.95, 0.7), (2.0, 0.24)], 0.87, 0.95, (-1.25, 1.25), -0.2),
    "estate": (
        [(-2.3, 0.3), (-2.32, 0.7), (-2.25, 1.1), (-2.0, 1.6), (-1.7, 1.72), (0.1, 1.73), (0.95, 1.14), (2.0, 1.02),
         (2.28, 0.84), (2.3, 0.3)], 0.94, 1.07, (-1.42, 1.42), -0.3),
    "van": (
        [(-2.5, 0.28), (-2.53, 1.1), (-2.45, 1.95), (-2.3, 2.1), (0.85, 2.08), (1.65, 1.32), (2.3, 1.08), (2.48, 0.8),
         (2.5, 0.28)], 0.97, 1.2, (-1.6, 1.62), 0.55),
    "pickup": (
        [(-2.6, 0.36), (-2.62, 1.08), (-0.78, 1.08), (-0.62, 1.66), (-0.4, 1.76), (0.4, 1.76), (1.05, 1.16),
         (2.3, 1.06), (2.58, 0.86), (2.6, 0.36)], 0.95, 1.12, (-1.65, 1.65), 0.1),
}  # fmt: skip


@cache
def _bodywork(kind: str) -> tuple[Mesh, Mesh, Mesh]:
    """Paint (white), glass and trim of one kind of car, without wheels."""
    side, half, belt, axles, pillar = CARS[kind]
    roof, end = max(z for _, z in side), max(x for x, _ in side)
    profile = outline(side, -9, 9)

    def width(p):  # the cabin leans in above the belt, the corners are round in plan
        lean = np.clip((p[:, 2] - belt) / (roof - belt), 0, 1)
        ends = np.clip((np.abs(p[:, 0]) / end - 0.72) / 0.28, 0, 1)
        low = np.clip((0.5 - p[:, 2]) / 0.3, 0, 1)
        return half * (1 - 0.2 * lean**1.2 - 0.14 * ends**2.2 - 0.05 * low)

    def body(p):
        a, b = profile(p) + 0.05, np.abs(p[:, 1]) - width(p) + 0.05
        return np.hypot(np.maximum(a, 0), np.maximum(b, 0)) + np.minimum(np.maximum(a, b), 0) - 0.05

    arches = [drum((x, y, 0.32), 0.39, 0.24, 1) for x in axles for y in (-half, half)]
    cuts = [block((-2.5, -0.78, 0.7), (-0.85, 0.78, 2), 0.03)] if kind == "pickup" else []
    mirror_x = next(x for x, z in side if x > 0.5) - 0.25
    mirrors = [ball((mirror_x, y * (half + 0.06), belt + 0.09), (0.07, 0.1, 0.075)) for y in (-1, 1)]
    parts = [(less(body, *arches, *cuts), (1, 1, 1))] + [(m, (1, 1, 1)) for m in mirrors]
    low, high = (-end - 0.1, -half - 0.2, 0.15), (end + 0.1, half + 0.2, roof + 0.05)
    m = solid(parts, low, high, 0.038)

    x, y, z = m.v.T
    n = np.zeros_like(m.v)
    face = np.cross(m.v[m.f[:, 1]] - m.v[m.f[:, 0]], m.v[m.f[:, 2]] - m.v[m.f[:, 0]])
    for k in range(3):
        np.add.at(n, m.f[:, k], face)
    n /= np.linalg.norm(n, axis=1, keepdims=True) + 1e-9
    deep, w = -profile(m.v), width(m.v)
    sideways, fore = np.abs(n[:, 1]) > 0.6, np.abs(n[:, 0]) > 0.3
    window = (z > belt + 0.04) & (z < roof - 0.09) & (np.abs(y) < half + 0.02)
    panes = window & sideways & (deep > 0.11) & (np.abs(x - pillar) > 0.05)
    panes &= ~((kind == "van") & (x < pillar)) & ~((kind == "pickup") & (x < -0.75))
    screens = (
        window
        & fore
        & ~sideways
        & (np.abs(y) < w - 0.1)
        & (np.abs(x) < end - 0.02 if kind != "van" else (x > 0) | (np.abs(y) > 0.05) & (z > 1.3) & (z < 1.8))
    )
    if kind == "pickup":
        screens &= x > -0.9
    glass = panes | screens

    rgb = np.ones_like(m.v)
    trim = np.zeros(len(x), bool)

    def paint(where, colour):
        rgb[where] = colour
        trim[where] = True

    front, back = (n[:, 0] > 0.25) & (x > 0.8 * end), (n[:, 0] < -0.25) & (x < -0.85 * end)
    nose = side[-2][1]
    paint(z < 0.36, (0.02, 0.02, 0.02))
    paint(front & (np.abs(y) < 0.42 * half) & (np.abs(z - nose + 0.05) < 0.09), (0.012, 0.012, 0.014))
    paint(front & (np.abs(np.abs(y) - 0.72 * half) < 0.19 * half) & (np.abs(z - nose) < 0.085), (0.75, 0.78, 0.8))
    tail = 0.88 if kind != "van" else 1.05
    paint(back & (np.abs(np.abs(y) - 0.78 * half) < 0.17 * half) & (np.abs(z - tail) < 0.1), (0.35, 0.008, 0.008))
    paint((front & (np.abs(z - 0.47) < 0.06) | back & (np.abs(z - 0.62) < 0.06)) & (np.abs(y) < 0.27), (0.7, 0.7, 0.62))
    doors = np.min([np.abs(x - q) for q in (pillar, mirror_x - 0.08, pillar - 0.95)], axis=0) < 0.02
    paint(sideways & doors & (z > 0.4) & (z < belt) & ~glass, (0.05, 0.05, 0.05))
    rgb[glass] = (0.012, 0.015, 0.018)
    kind_of = np.where(glass, 1, np.where(trim, 2, 0))[m.f]
    of_face = np.median(kind_of, axis=1).astype(int)
    # one colour a face, that of a corner of the face's own kind: blended corners would draw white seams
    corner = m.f[np.arange(len(m.f)), (kind_of == of_face[:, None]).argmax(1)]
    flat = mesh(m.v[m.f], np.arange(m.f.size), rgb=np.repeat(rgb[corner], 3, 0))
    return tuple(flat.faces(of_face == k) for k in range(3))


@cache
def _wheel() -> Mesh:
    def hub(p):
        r, t = np.hypot(p[:, 0], p[:, 2]), np.arctan2(p[:, 2], p[:, 0])
        rim = (r < 0.215) & ((np.cos(5 * t) > -0.3) | (r < 0.07) | (r > 0.185))
        return np.where(rim[:, None], (0.42, 0.43, 0.45), (0.018, 0.018, 0.018))

    dish = less(
        drum((0, 0, 0), 0.315, 0.1, 1, 0.04),
        ball((0, 0.16, 0), (0.23, 0.1, 0.23)),
        ball((0, -0.16, 0), (0.23, 0.1, 0.23)),
    )
    return solid([(dish, hub)], (-0.33, -0.12, -0.33), (0.33, 0.12, 0.33), 0.026)


def car(kind: str, colour) -> list[Part]:
    """A car of one of the CARS in a colour."""
    paint, glass, trim = _bodywork(kind)
    _, half, _, axles, _ = CARS[kind]
    wheels = [_wheel().moved((x, y * (half - 0.12), 0.315)) for x in axles for y in (-1, 1)]
    return [(CAR, paint.tinted(colour), PAINT), (CAR, glass, GLASS), (CAR, merge([trim, *wheels]), SATIN)]


@cache
def _person(seed: int) -> Mesh:
    """Someone walking or standing, in one coloured mesh."""
    rng = np.random.default_rng([7, seed])
    stride, tall, girth = (
        rng.uniform(0.05, 0.34) * (rng.random() < 0.75),
        rng.uniform(0.93, 1.06),
        rng.uniform(0.9, 1.2),
    )
    skin = np.array((0.45, 0.27, 0.18)) * rng.choice([1.1, 0.8, 0.35, 0.2])
    shirt = rng.uniform(0.02, 0.4) * (1 + 0.7 * rng.uniform(-1, 1, 3))
    trousers = np.array([(0.05, 0.06, 0.09), (0.07, 0.065, 0.055)][rng.integers(2)]) * rng.uniform(0.3, 3.5)
    hair = np.array([(0.02, 0.015, 0.01), (0.12, 0.06, 0.03), (0.35, 0.24, 0.1), (0.3, 0.3, 0.3)][rng.integers(4)])
    cloth, jeans = mottled(shirt, 0.2, 0.08, seed), mottled(trousers, 0.2, 0.1, seed)
    parts = []
    for s in (-1, 1):
        hip, knee = np.array((0, 0.09 * s, 0.92)), np.array((stride * s * 0.55 + 0.03, 0.1 * s, 0.5))
        foot = np.array((stride * s - 0.05 * (s < 0) * stride, 0.1 * s, 0.09 + 0.08 * (s < 0) * stride))
        shoulder = np.array((0, 0.175 * s * girth, 1.4))
        elbow = np.add(shoulder, (-stride * s * 0.5, 0.05 * s, -0.3))
        hand = np.add(elbow, (0.1 - stride * s * 0.35, 0.0, -0.24))
        parts += [(limb(hip, knee, 0.09 * girth, 0.06), jeans), (limb(knee, foot, 0.06, 0.042), jeans)]
        parts += [(ball(np.add(foot, (0.07, 0, -0.04)), (0.14, 0.05, 0.05)), (0.03, 0.025, 0.02))]
        parts += [(limb(shoulder, elbow, 0.052, 0.045), cloth), (limb(elbow, hand, 0.046, 0.034), cloth)]
        parts += [(ball(np.add(hand, (0.02, 0, -0.05)), (0.04, 0.03, 0.06)), skin)]
    parts += [
        (ball((0, 0, 1.24), (0.11 * girth, 0.17 * girth, 0.27)), cloth),
        (ball((0, 0, 0.97), (0.11 * girth, 0.16 * girth, 0.13)), jeans),
    ]
    parts += [(limb((0, 0, 1.42), (0.01, 0, 1.56), 0.055), skin), (ball((0.02, 0, 1.64), (0.09, 0.075, 0.115)), skin)]
    parts += [(ball((-0.025, 0, 1.685), (0.09, 0.083, 0.09)), hair)]
    extra = rng.random()
    if extra < 0.25:
        parts += [
            (block((-0.28, -0.15, 1.08), (-0.08, 0.15, 1.48), 0.07), tuple(rng.uniform(0.01, 0.3, 3)))
        ]  # backpack
    elif extra < 0.5:
        parts += [(limb((0, 0, 0.62), (0, 0, 1.1), 0.2, 0.15), cloth)]  # coat
    m = solid(parts, (-0.5, -0.45, 0), (0.55, 0.45, 1.8), 0.024, 0.035)
    return m.moved(scale=tall)


def person(seed: int) -> list[Part]:
    """Someone walking or standing."""
    return [(PERSON, _person(seed % 12), MATTE)]
