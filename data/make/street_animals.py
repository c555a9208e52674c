"""Anomalies that are animals, or look like one. Each maker gives a mesh and its material."""

import numpy as np
from street_mesh import Mesh, ball, drum, limb, solid
from street_parts import BLACK, FUR, GLOSS, WHITE, Made, pick
from street_textures import Material, bands, mottled, patches


def _animal(
    rng, coat, *, leg, length, girth, neck, head, horn=None, ear=0.1, tail=0.5, trunk=0.0, thick=0.32, eye=True
) -> Mesh:
    """Four legs, a barrel of a body, a neck from the shoulders, a head with ears, a tail; all melted together.

    `neck` is (length, angle above the horizontal), `head` is (length, height).
    """
    top, half = leg + girth, length / 2
    pose = rng.uniform(-0.12, 0.12, 4) * leg
    parts = [
        (ball((0, 0, top), (half, girth * 0.86, girth)), coat),
        (ball((half * 0.6, 0, top + 0.05 * girth), (half * 0.5, girth * 0.8, girth)), coat),
    ]
    parts += [(ball((-half * 0.62, 0, top), (half * 0.45, girth * 0.82, girth * 0.95)), coat)]
    r = thick * girth
    for k, (x, y) in enumerate([(0.68, 1), (0.68, -1), (-0.72, 1), (-0.72, -1)]):
        hip = np.array((x * half, y * girth * 0.5, top - 0.2 * girth))
        knee = np.array((x * half + 0.5 * pose[k], y * girth * 0.52, leg * 0.48))
        foot = np.array((x * half + pose[k], y * girth * 0.52, 0.07 * leg))
        parts += [(limb(hip, knee, r * 1.25, r * 0.75), coat), (limb(knee, foot, r * 0.75, r * 0.6), coat)]
        parts += [(drum((foot[0] + 0.1 * r, foot[1], 0.05 * leg), r * 0.85, 0.05 * leg + 0.004), (0.03, 0.025, 0.02))]
    (reach, angle), (hl, hh) = neck, head
    base = np.array((half * 0.72, 0, top + 0.35 * girth))
    crown = base + reach * np.array((np.cos(angle), 0, np.sin(angle)))
    parts += [(limb(base, crown, girth * 0.52, max(0.3 * girth, hh * 0.42)), coat)]
    nose = crown + np.array((hl, 0, -0.35 * hl))
    parts += [(limb(np.add(crown, (0.05 * hl, 0, 0)), nose, hh * 0.5, hh * 0.3), coat)]
    for y in (-1, 1):
        tip = crown + np.array((-0.1 * hl, y * (0.3 * hh + ear), 0.3 * hh + (ear * 0.5 if ear < 0.3 else -0.3 * ear)))
        if ear < 0.3:
            parts += [(limb(np.add(crown, (0, y * 0.3 * hh, 0.25 * hh)), tip, 0.06 * hh + 0.02, 0.02), coat)]
        else:  # ears like sails
            parts += [
                (
                    ball(
                        np.add(crown, (-0.1 * hl, y * (0.4 * hh + 0.45 * ear), -0.1 * ear)),
                        (0.05, 0.55 * ear, 0.75 * ear),
                    ),
                    coat,
                )
            ]
        if eye:
            parts += [(ball(np.add(crown, (0.38 * hl, y * 0.36 * hh, 0.1 * hh)), 0.075 * hh + 0.008), BLACK)]
        if horn is not None:
            parts += [
                (
                    limb(
                        np.add(crown, (-0.02, y * 0.2 * hh, 0.35 * hh)),
                        np.add(crown, (-0.05, y * (0.2 * hh + horn[1]), 0.35 * hh + horn[0])),
                        0.035,
                        0.02,
                    ),
                    (0.3, 0.25, 0.18),
                )
            ]
    if trunk:
        bend = nose + np.array((0.12, 0, -0.55 * trunk))
        parts += [
            (limb(nose, bend, hh * 0.3, hh * 0.2), coat),
            (limb(bend, np.add(bend, (0.1 * trunk, 0, -0.45 * trunk)), hh * 0.2, hh * 0.12), coat),
        ]
        parts += [
            (
                limb(np.add(nose, (-0.1, y * 0.25 * hh, -0.05)), np.add(nose, (0.35, y * 0.3 * hh, -0.25)), 0.05, 0.02),
                WHITE,
            )
            for y in (-1, 1)
        ]
    end = np.array((-half * 1.02 - 0.12 * tail, 0, top - tail * 0.9))
    parts += [
        (limb((-half * 0.95, 0, top + 0.4 * girth), end, 0.05 * girth + 0.02, 0.03), coat),
        (ball(end, (0.05, 0.05, 0.12)), BLACK),
    ]
    high = max(crown[2] + 0.6 * hh + (horn[0] if horn else ear), top + girth) + 0.1
    wide = max(girth, ear + 0.5 * hh, horn[1] + 0.3 if horn else 0) + 0.15
    size = max(high, length) / 95
    return solid(
        parts, (-half - 0.5 - 0.2 * tail, -wide, 0), (nose[0] + 0.5 + 0.2 * trunk, wide, high), size, 0.16 * girth
    )


def giraffe(rng) -> Made:
    coat = patches((0.28, 0.12, 0.035), (0.62, 0.47, 0.26), rng.uniform(0.24, 0.34), 0.05, int(rng.integers(20)))
    return _animal(
        rng,
        coat,
        leg=1.55,
        length=1.6,
        girth=0.42,
        neck=(1.75, 1.2),
        head=(0.5, 0.28),
        horn=(0.16, 0.02),
        ear=0.12,
        tail=0.7,
        thick=0.24,
    ), FUR


def zebra(rng) -> Made:
    coat = bands((0.66, 0.64, 0.6), (0.015, 0.014, 0.013), (0.94, 0.0, 0.34), 0.17, 0.09, 0.52, int(rng.integers(20)))
    return _animal(
        rng, coat, leg=0.8, length=1.5, girth=0.36, neck=(0.6, 0.85), head=(0.48, 0.3), ear=0.14, tail=0.55, thick=0.27
    ), FUR


def cow(rng) -> Made:
    coat = mottled((0.02, 0.017, 0.015), size=0.75, seed=int(rng.integers(20)), other=(0.66, 0.63, 0.58))

    def sharp(p):
        return np.where(coat(p)[:, :1] > 0.33, (0.66, 0.63, 0.58), _pick_coat)

    _pick_coat = np.array(pick(rng, (0.015, 0.014, 0.013), (0.2, 0.07, 0.03)))
    return _animal(
        rng,
        sharp,
        leg=0.72,
        length=1.9,
        girth=0.47,
        neck=(0.5, 0.45),
        head=(0.5, 0.36),
        horn=(0.14, 0.16),
        ear=0.16,
        tail=0.8,
        thick=0.25,
    ), FUR


def elephant(rng) -> Made:
    hide = mottled((0.17, 0.155, 0.14), 0.3, 0.16, int(rng.integers(20)))
    return _animal(
        rng,
        hide,
        leg=1.0,
        length=2.3,
        girth=0.75,
        neck=(0.55, 0.45),
        head=(0.45, 0.75),
        ear=0.7,
        tail=0.8,
        trunk=1.5,
        thick=0.32,
    ), FUR


def pig(rng) -> Made:
    hide = mottled((0.55, 0.28, 0.23), 0.18, 0.2, int(rng.integers(20)), other=(0.62, 0.38, 0.3))
    return _animal(
        rng, hide, leg=0.42, length=1.45, girth=0.4, neck=(0.25, 0.2), head=(0.4, 0.42), ear=0.15, tail=0.22, thick=0.28
    ), FUR


def dinosaur(rng) -> Made:
    one, two = pick(
        rng,
        ((0.10, 0.17, 0.05), (0.26, 0.27, 0.1)),
        ((0.22, 0.13, 0.06), (0.08, 0.06, 0.04)),
        ((0.09, 0.15, 0.16), (0.25, 0.22, 0.12)),
    )
    hide = bands(one, two, (0.9, 0, 0.2), 0.35, 0.2, 0.65, int(rng.integers(20)))
    belly = mottled((0.45, 0.38, 0.22), 0.15, 0.2)
    parts = [
        (limb((-0.5, 0, 1.35), (0.55, 0, 1.6), 0.36, 0.32), hide),
        (limb((0.5, 0, 1.6), (0.95, 0, 2.1), 0.3, 0.2), hide),
    ]
    parts += [(limb((0.0, 0, 1.24), (0.5, 0, 1.45), 0.28, 0.24), belly)]
    parts += [
        (limb((0.95, 0, 2.18), (1.5, 0, 2.12), 0.23, 0.14), hide),
        (limb((0.98, 0, 2.02), (1.4, 0, 1.93), 0.13, 0.08), belly),
    ]
    parts += [
        (limb((-0.5, 0, 1.35), (-1.35, 0, 1.15), 0.32, 0.18), hide),
        (limb((-1.35, 0, 1.15), (-2.3, 0, 1.3), 0.18, 0.03), hide),
    ]
    for y in (-1, 1):
        k = 0.18 * y
        parts += [
            (limb((-0.25, 0.25 * y, 1.3), (0.15 + k, 0.3 * y, 0.8), 0.27, 0.15), hide),
            (limb((0.15 + k, 0.3 * y, 0.8), (-0.15 + k, 0.3 * y, 0.35), 0.14, 0.09), hide),
        ]
        parts += [
            (limb((-0.15 + k, 0.3 * y, 0.35), (0.0 + k, 0.3 * y, 0.06), 0.09, 0.07), hide),
            (limb((0.0 + k, 0.3 * y, 0.055), (0.3 + k, 0.32 * y, 0.05), 0.07, 0.05), hide),
        ]
        parts += [
            (limb((0.55, 0.25 * y, 1.5), (0.8, 0.3 * y, 1.3), 0.08, 0.05), hide),
            (limb((0.8, 0.3 * y, 1.3), (0.98, 0.26 * y, 1.36), 0.05, 0.02), hide),
        ]
        parts += [(ball((1.16, 0.17 * y, 2.28), 0.05), (0.6, 0.45, 0.03))]
    parts += [
        (limb((-0.7 + 0.2 * k, 0, 1.7 + 0.05 * k), (-0.78 + 0.2 * k, 0, 1.85 + 0.05 * k), 0.07, 0.02), one)
        for k in range(7)
    ]
    return solid(parts, (-2.4, -0.7, 0), (1.7, 0.7, 2.5), 0.036, 0.07), Material(roughness=0.6, specular=0.4)


def duck(rng) -> Made:
    yellow = mottled(pick(rng, (0.75, 0.52, 0.03), (0.7, 0.42, 0.04)), 0.05, 0.3)
    parts = [
        (ball((0, 0, 0.55), (0.85, 0.62, 0.55)), yellow),
        (ball((0.5, 0, 1.3), 0.46), yellow),
        (limb((-0.6, 0, 0.75), (-0.98, 0, 1.12), 0.3, 0.06), yellow),
    ]
    parts += [(ball((-0.1, 0.56 * y, 0.68), (0.5, 0.16, 0.3)), yellow) for y in (-1, 1)]
    parts += [
        (ball((0.98, 0, 1.26), (0.26, 0.24, 0.07)), (0.7, 0.18, 0.02)),
        (ball((0.92, 0, 1.16), (0.2, 0.2, 0.05)), (0.6, 0.13, 0.02)),
    ]
    parts += [(ball((0.85, 0.2 * y, 1.46), (0.06, 0.06, 0.09)), BLACK) for y in (-1, 1)]
    return solid(parts, (-1.1, -0.75, 0), (1.3, 0.75, 1.85), 0.03, 0.12), GLOSS
