"""Anomalies from field, park and shore. Each maker gives a mesh and its material."""

import numpy as np
from street_mesh import ball, block, drum, less, limb, outline, rotated, solid, turned
from street_parts import BLACK, CLOTH, GLOSS, STONE, WOOD, Made, pick
from street_textures import Material, bands, gores, mottled, patches, rough, timber


def tent(rng) -> Made:
    a, b = pick(
        rng,
        ((0.6, 0.2, 0.02), (0.35, 0.36, 0.36)),
        ((0.04, 0.2, 0.1), (0.55, 0.45, 0.1)),
        ((0.05, 0.15, 0.45), (0.6, 0.55, 0.5)),
        ((0.5, 0.05, 0.05), (0.6, 0.55, 0.45)),
    )
    cloth = gores([a, b, a, b, a, b, a, b], 2)
    half, deep, tall = rng.uniform(1.1, 1.5), rng.uniform(1.0, 1.3), rng.uniform(1.1, 1.5)

    def shell(p):
        t = np.arctan2(p[:, 1] / deep, p[:, 0] / half)
        r = np.sqrt((p[:, 0] / half) ** 2 + (p[:, 1] / deep) ** 2) * (1 + 0.045 * np.abs(np.sin(2 * t)))
        return ((r**2.3 + np.clip(p[:, 2] / tall, 0, 9) ** 2.0) ** 0.45 - 1) * 0.7 * tall

    door = ball((half * 1.05, 0, 0.2), (0.5, 0.42, tall * 0.62))
    parts = [
        (less(shell, door), cloth),
        (ball((0.62 * half, 0, 0.3 * tall), (0.2, 0.5, 0.45 * tall)), (0.02, 0.02, 0.02)),
    ]
    parts += [
        (
            limb((half * 1.25 * x, deep * 1.15 * y, 0), (half * 0.5 * x, deep * 0.5 * y, tall * 0.72), 0.014),
            (0.7, 0.7, 0.65),
        )
        for x in (-1, 1)
        for y in (-1, 1)
    ]
    return solid(parts, (-half * 1.35, -deep * 1.25, 0), (half * 1.35, deep * 1.25, tall + 0.1), 0.034), CLOTH


def hay(rng) -> Made:
    def straw(p):
        q = p * (9.0, 3.0, 9.0)
        x = rough(q, 0.35, 3, 4)[:, None]
        spiral = (
            0.8
            + 0.2
            * np.sin(46 * np.hypot(p[:, 0], (p[:, 2] - 0.66) % 1.3 - 0.0) + 2 * np.arctan2(p[:, 2] - 0.66, p[:, 0]))[
                :, None
            ]
        )
        return np.clip(np.array((0.5, 0.36, 0.12)) * (1 + 0.45 * x) * spiral, 0.02, 0.9)

    def bale(c):
        plain = drum(c, 0.66, 0.6, 1, 0.06)
        return lambda p: plain(p) - 0.03 * rough(p, 0.16, 3, 2)

    centres = [(0, 0, 0.66)] if rng.random() < 0.5 else [(-0.68, 0, 0.66), (0.68, 0, 0.66), (0, 0.05, 1.82)]
    w = 0.8 if len(centres) == 1 else 1.5
    return solid([(bale(c), straw) for c in centres], (-w, -0.75, 0), (w, 0.75, centres[-1][2] + 0.75), 0.035), STONE


def boat(rng) -> Made:
    paint, inner = (
        pick(rng, (0.05, 0.16, 0.32), (0.45, 0.05, 0.04), (0.55, 0.53, 0.48), (0.06, 0.2, 0.14)),
        timber((0.3, 0.17, 0.07), 0, 0.12, 1),
    )

    def hull(g):
        def f(p):
            t = np.clip(p[:, 0] / (1.75 - g), -1.2, 1.2)
            w = (
                (0.66 - g)
                * np.clip(1 - np.abs(t) ** 2.4, 0.0, 1)
                * np.clip(1.02 - 0.35 * np.clip(-t - 0.6, 0, 1), 0, 1)
            )
            keel, rim = 0.1 + g + 0.22 * np.clip(np.abs(t) - 0.5, 0, 1) ** 2, 0.6 + 0.16 * t * t
            depth = np.clip((p[:, 2] - keel) / (rim - keel), 0, 1) ** 0.55
            return np.maximum.reduce([np.abs(p[:, 1]) - w * depth - 0.002, keel - p[:, 2], p[:, 2] - rim + 0.0]) * 0.8

        return f

    def boards(p):
        return (
            np.where((np.abs(p[:, 2] * 9 % 1 - 0.5) > 0.42)[:, None], 0.5, 1.0)
            * np.asarray(paint)
            * (1 + 0.12 * rough(p, 0.2, 3)[:, None])
        )

    inside = hull(0.055)

    def side(p):
        return np.where((inside(p - np.array((0, 0, 0.03), np.float32)) < 0.012)[:, None], inner(p), boards(p))

    shell = less(
        hull(0.0),
        lambda p: inside(p - np.array((0, 0, 0.05), np.float32)),
        lambda p: np.maximum(inside(p - np.array((0, 0, 0.05), np.float32)), 0.3 - p[:, 2]),
    )
    parts = [(shell, side)] + [
        (block((x - 0.12, -w, 0.44), (x + 0.12, w, 0.48), 0.01), inner)
        for x, w in ((-0.9, 0.42), (0, 0.6), (0.85, 0.44))
    ]
    parts += [(block((x - 0.08, -0.5, 0), (x + 0.08, 0.5, 0.14), 0.02), (0.16, 0.1, 0.06)) for x in (-0.8, 0.8)]
    parts += [
        (limb((-1.2, 0.35, 0.62), (1.1, 0.5, 0.66), 0.022), (0.4, 0.26, 0.12)),
        (block((1.05, 0.42, 0.63), (1.55, 0.6, 0.66), 0.01), (0.4, 0.26, 0.12)),
    ]
    return solid(parts, (-1.85, -0.75, 0), (1.85, 0.75, 0.85), 0.028), WOOD


def snowman(rng) -> Made:
    snow = mottled((0.78, 0.8, 0.83), 0.06, 0.15, int(rng.integers(20)))
    scarf = np.array(pick(rng, (0.5, 0.02, 0.03), (0.03, 0.2, 0.45), (0.05, 0.3, 0.08)))

    def lump(c, r):
        return lambda p: ball(c, r)(p) - 0.02 * rough(p, 0.2, 3)

    parts = [
        (lump((0, 0, 0.52), (0.58, 0.58, 0.54)), snow),
        (lump((0, 0, 1.22), 0.42), snow),
        (lump((0, 0, 1.76), 0.29), snow),
    ]
    parts += [
        (drum((0, 0, 1.53), 0.3, 0.06, 2, 0.05), bands(scarf, (0.7, 0.68, 0.62), (0, 1, 0), 0.14)),
        (block((0.22, 0.12, 1.15), (0.42, 0.24, 1.5), 0.04), scarf),
    ]
    parts += [
        (limb((0.26, 0, 1.76), (0.58, 0, 1.72), 0.055, 0.012), (0.75, 0.22, 0.02)),
        (drum((0, 0, 2.03), 0.32, 0.025), BLACK),
        (drum((0, 0, 2.2), 0.22, 0.18), BLACK),
    ]
    for y in (-1, 1):
        parts += [
            (ball((0.255, 0.1 * y, 1.86), 0.04), BLACK),
            (limb((0, 0.35 * y, 1.3), (0.12, 0.85 * y, 1.62), 0.025, 0.015), (0.1, 0.06, 0.03)),
            (limb((0.08, 0.68 * y, 1.52), (0.0, 0.86 * y, 1.5), 0.018, 0.01), (0.1, 0.06, 0.03)),
        ]
    parts += [(ball((x, 0, z), 0.045), BLACK) for x, z in ((0.43, 1.3), (0.41, 1.12), (0.5, 0.8))]
    return solid(parts, (-0.7, -0.95, 0), (0.7, 0.95, 2.4), 0.028), STONE


def toadstool(rng) -> Made:
    cap = np.array(pick(rng, (0.5, 0.02, 0.015), (0.45, 0.14, 0.03), (0.3, 0.16, 0.08)))
    seed = int(rng.integers(20))
    spots = patches((0.78, 0.74, 0.65), cap, 0.3, 0.11, seed)
    stem = mottled((0.66, 0.6, 0.48), 0.12, 0.1, seed)

    def one(at, h, r):
        x, y = at
        hat = less(ball((x, y, h), (r, r, 0.62 * r)), block((x - 2, y - 2, -1), (x + 2, y + 2, h - 0.08 * r), 0.0))
        return [
            (hat, spots),
            (limb((x, y, 0.05), (x, y, h + 0.1), 0.24 * r + 0.05, 0.16 * r + 0.03), stem),
            (ball((x, y, 0.08), (0.3 * r, 0.3 * r, 0.16)), stem),
            (drum((x, y, 0.68 * h), 0.27 * r, 0.025), stem),
        ]

    parts = one((0, 0), 1.35, 0.75) + one((0.55, 0.6), 0.6, 0.36) + one((0.35, -0.7), 0.42, 0.28)
    return solid(parts, (-0.85, -1.05, 0), (1.0, 1.05, 1.95), 0.028), STONE


def beach_ball(rng) -> Made:
    r = rng.uniform(0.55, 0.85)
    tones = [
        (0.7, 0.04, 0.03),
        (0.75, 0.73, 0.7),
        (0.02, 0.16, 0.6),
        (0.75, 0.73, 0.7),
        (0.75, 0.55, 0.03),
        (0.75, 0.73, 0.7),
    ]
    lean = rng.uniform(-1, 1, 2)
    stripes = gores(tones, 2, (0, 0, r))
    c, s = np.cos(lean), np.sin(lean)

    def skin(p):
        q = p - np.array((0, 0, r))
        q = np.stack([c[0] * q[:, 0] + s[0] * q[:, 2], q[:, 1], -s[0] * q[:, 0] + c[0] * q[:, 2]], 1)
        q = np.stack([q[:, 0], c[1] * q[:, 1] + s[1] * q[:, 2], -s[1] * q[:, 1] + c[1] * q[:, 2]], 1)
        return np.where((np.abs(q[:, 2:]) > 0.94 * r), (0.75, 0.73, 0.7), stripes(q + np.array((0, 0, r))))

    return solid([(ball((0, 0, r), r), skin)], (-r, -r, 0), (r, r, 2 * r), r / 34), GLOSS


def aeroplane(rng) -> Made:
    body = np.array(pick(rng, (0.62, 0.6, 0.56), (0.55, 0.06, 0.04), (0.65, 0.48, 0.05), (0.06, 0.16, 0.36)))
    trim = np.array(pick(rng, (0.5, 0.03, 0.03), (0.03, 0.08, 0.3), (0.02, 0.02, 0.02)))

    def paint(p):
        return np.where((np.abs(p[:, 2:] - 0.93) < 0.06), trim, body) * (1 + 0.05 * rough(p, 0.3, 3)[:, None])

    def tips(p):
        return np.where((np.abs(p[:, 1:2]) > 1.55), trim, body)

    parts = [
        (limb((0.6, 0, 0.95), (-1.6, 0, 1.1), 0.3, 0.09), paint),
        (limb((0.55, 0, 0.95), (1.0, 0, 0.93), 0.3, 0.2), paint),
        (ball((0.15, 0, 1.22), (0.42, 0.22, 0.24)), (0.03, 0.04, 0.05)),
    ]
    parts += [
        (block((0.0, -1.9, 1.36), (0.62, 1.9, 1.42), 0.03), tips),
        (block((0.0, -1.7, 0.72), (0.55, 1.7, 0.78), 0.03), tips),
        (block((-1.65, -0.6, 1.08), (-1.3, 0.6, 1.12), 0.02), tips),
    ]
    parts += [
        (outline([(-1.75, 1.05), (-1.2, 1.1), (-1.5, 1.65), (-1.75, 1.65)], -0.025, 0.025), trim),
        (ball((1.15, 0, 0.93), (0.14, 0.1, 0.1)), trim),
    ]
    parts += [
        (
            rotated(block((1.13, -0.62, 0.88), (1.16, 0.62, 0.98), 0.015), 0, rng.uniform(0, 3), (1.15, 0, 0.93)),
            (0.12, 0.06, 0.03),
        )
    ]
    for y in (-1, 1):
        parts += [
            (limb((0.5, 1.3 * y, 0.75), (0.5, 1.3 * y, 1.38), 0.025), (0.3, 0.25, 0.2)),
            (limb((0.1, 1.3 * y, 0.75), (0.1, 1.3 * y, 1.38), 0.025), (0.3, 0.25, 0.2)),
            (limb((0.2, 0.12 * y, 1.15), (0.3, 0.3 * y, 1.38), 0.025), (0.3, 0.25, 0.2)),
        ]
        parts += [
            (limb((0.45, 0.15 * y, 0.75), (0.6, 0.5 * y, 0.24), 0.03), (0.2, 0.2, 0.2)),
            (drum((0.6, 0.55 * y, 0.22), 0.22, 0.06, 1), (0.02, 0.02, 0.02)),
        ]
    parts += [
        (limb((-1.5, 0, 1.0), (-1.62, 0, 0.12), 0.03), (0.2, 0.2, 0.2)),
        (drum((-1.62, 0, 0.1), 0.1, 0.04, 1), (0.02, 0.02, 0.02)),
    ]
    return solid(parts, (-1.85, -2.0, 0), (1.35, 2.0, 1.75), 0.034, 0.03), GLOSS


def barrels(rng) -> Made:
    wooden = rng.random() < 0.5
    tone = np.array(
        pick(rng, (0.28, 0.15, 0.06), (0.2, 0.1, 0.04))
        if wooden
        else pick(rng, (0.05, 0.15, 0.4), (0.5, 0.25, 0.02), (0.4, 0.04, 0.03))
    )

    def coat(centre):
        def f(p):
            q = p - centre
            t = np.arctan2(q[:, 1], q[:, 0]) / 0.35
            hoop = (np.abs(np.abs(q[:, 2]) - 0.27) < 0.035) | (np.abs(np.abs(q[:, 2]) - 0.42) < 0.03)
            stave = (
                tone
                * (
                    1 + (0.2 * np.sin(np.floor(t) * 12.9) if wooden else 0 * t) + 0.3 * rough(p * (1, 1, 0.25), 0.06, 3)
                )[:, None]
            )
            rust = np.clip(rough(p, 0.25, 4, 3) * 1.6 - 0.25, 0, 1)[:, None] * (not wooden)
            stave = stave * (1 - rust) + rust * np.array((0.16, 0.06, 0.025))
            return np.clip(np.where(hoop[:, None], (0.06, 0.055, 0.05) if wooden else tone * 0.6, stave), 0.004, 1)

        return f

    bulge = 0.06 if wooden else 0.0
    parts = []
    for c in ((0, -0.34, 0.46), (0, 0.34, 0.46), (0.56, 0.02, 0.46), (0.2, 0.0, 1.39)):
        c = np.array(c, np.float32)
        profile = [
            (0.25 + bulge * 0, -0.46),
            (0.27 + bulge * 0.5, -0.25),
            (0.27 + bulge, 0.0),
            (0.27 + bulge * 0.5, 0.25),
            (0.25, 0.46),
        ]
        shape = turned(profile)
        parts.append((lambda p, c=c, f=shape: f(p - c), coat(c)))
    return solid(parts, (-0.4, -0.75, 0), (0.95, 0.75, 1.9), 0.026), Material(roughness=0.6, specular=0.4)


def crates(rng) -> Made:
    tone = np.array(pick(rng, (0.42, 0.28, 0.13), (0.3, 0.2, 0.1), (0.25, 0.24, 0.2)))
    plank, frame = timber(tone, 1, 0.13, 2, int(rng.integers(9))), timber(tone * 0.8, 2, 9, 0, 3)
    parts = []
    for low, e, turn in (((-0.5, -0.85, 0), 0.8, 0.1), ((-0.45, 0.1, 0), 0.75, -0.12), ((-0.42, -0.4, 0.79), 0.7, 0.3)):
        low = np.array(low)
        mid = low + e / 2
        inner = [(block(low + 0.035, low + e - 0.035, 0.005), plank)]
        for a in range(3):
            for j in (0, 1):
                for k in (0, 1):
                    lo, hi = low.copy().astype(float), low + 0.0
                    hi[a] += e
                    b, c = (a + 1) % 3, (a + 2) % 3
                    lo[b], hi[b] = (low[b], low[b] + 0.1) if j == 0 else (low[b] + e - 0.1, low[b] + e)
                    lo[c], hi[c] = (low[c], low[c] + 0.1) if k == 0 else (low[c] + e - 0.1, low[c] + e)
                    inner.append((block(lo, hi, 0.006), frame))
        parts += [(rotated(shape, 2, turn, mid), colour) for shape, colour in inner]
    return solid(parts, (-0.75, -1.05, 0), (0.6, 1.05, 1.6), 0.024), WOOD


def statue(rng) -> Made:
    """A robed figure on a plinth."""
    rock = pick(
        rng,
        mottled((0.58, 0.56, 0.52), 0.14, 0.3, int(rng.integers(20))),
        mottled((0.09, 0.16, 0.12), 0.4, 0.25, other=(0.2, 0.26, 0.2)),
        mottled((0.36, 0.3, 0.24), 0.25, 0.12),
    )
    base = mottled((0.4, 0.38, 0.35), 0.15, 0.3)

    def folds(p):
        return turned([(0.36, 0.95), (0.28, 1.4), (0.2, 1.9), (0.25, 2.25), (0.1, 2.48)])(p) - 0.025 * np.sin(
            11 * np.arctan2(p[:, 1], p[:, 0])
        ) * np.clip(2.2 - p[:, 2], 0, 1)

    parts = [
        (block((-0.5, -0.5, 0), (0.5, 0.5, 0.16), 0.02), base),
        (block((-0.4, -0.4, 0.1), (0.4, 0.4, 0.9), 0.015), base),
        (block((-0.47, -0.47, 0.86), (0.47, 0.47, 0.98), 0.03), base),
    ]
    parts += [
        (folds, rock),
        (limb((0, 0, 2.4), (0.02, 0, 2.56), 0.07), rock),
        (ball((0.03, 0, 2.66), (0.12, 0.1, 0.15)), rock),
        (ball((-0.03, 0, 2.7), (0.13, 0.125, 0.14)), rock),
    ]
    parts += [
        (limb((0, 0.24, 2.25), (0.12, 0.42, 1.95), 0.075, 0.06), rock),
        (limb((0.12, 0.42, 1.95), (0.38, 0.3, 2.1), 0.055, 0.045), rock),
    ]
    parts += [
        (limb((0, -0.24, 2.25), (0.0, -0.5, 2.45), 0.075, 0.06), rock),
        (limb((0.0, -0.5, 2.45), (0.1, -0.52, 2.85), 0.055, 0.045), rock),
        (ball((0.12, -0.52, 2.95), (0.1, 0.1, 0.12)), rock),
    ]
    return solid(parts, (-0.55, -0.7, 0), (0.55, 0.6, 3.1), 0.03, 0.05), STONE


def pumpkin(rng) -> Made:
    tone = np.array(pick(rng, (0.6, 0.2, 0.02), (0.5, 0.26, 0.04), (0.35, 0.3, 0.16)))
    ribs, tall = int(rng.integers(9, 13)), rng.uniform(0.75, 1.05)

    def skin(p):
        t = np.abs(np.sin(ribs / 2 * np.arctan2(p[:, 1], p[:, 0])))[:, None]
        return tone * (0.55 + 0.5 * t) * (1 + 0.15 * rough(p, 0.2, 4)[:, None])

    def body(p):
        t = np.abs(np.sin(ribs / 2 * np.arctan2(p[:, 1], p[:, 0])))
        r = np.hypot(p[:, 0], p[:, 1]) - 0.12
        return (np.hypot(r / (0.72 + 0.09 * t), (p[:, 2] - 0.6 * tall) / (0.6 * tall)) - 1) * 0.5

    parts = [
        (body, skin),
        (limb((0, 0, 1.05 * tall), (0.05, 0, 1.32 * tall), 0.1, 0.06), (0.12, 0.14, 0.05)),
        (limb((0.05, 0, 1.3 * tall), (0.2, 0.05, 1.4 * tall), 0.06, 0.05), (0.12, 0.14, 0.05)),
    ]
    return solid(parts, (-1.0, -1.0, 0), (1.0, 1.0, 1.5 * tall), 0.03), Material(roughness=0.35, specular=0.5)
