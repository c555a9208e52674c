"""What stands beside the road: lamps, poles, signs, furniture, fences. Things face +x and stand on z = 0."""

from functools import cache

import numpy as np
from street_mesh import Mesh, box, merge, mesh, quad, tube
from street_parts import FENCE, GLASS, GREEN, LEAVES, MATTE, METAL, OTHER, POLE, SATIN, SIGN, Part
from street_plants import bush
from street_textures import Material, grain, sign_face


def lamp(kind: str) -> list[Part]:
    """A street lamp whose arm points to +x: arm, double, or lantern."""
    grey = np.array((0.16, 0.165, 0.17))
    if kind == "lantern":
        post = [
            tube((0, 0, 0), (0, 0, 0.6), 0.13, 0.09),
            tube((0, 0, 0.5), (0, 0, 3.6), 0.06, 0.05),
            tube((0, 0, 3.6), (0, 0, 3.75), 0.16, 0.13, 6),
        ]
        glow = tube((0, 0, 3.75), (0, 0, 4.2), 0.13, 0.2, 6).tinted((0.8, 0.76, 0.6))
        return [
            (
                POLE,
                merge(
                    [
                        merge(post).tinted((0.02, 0.03, 0.025)),
                        glow,
                        tube((0, 0, 4.2), (0, 0, 4.4), 0.23, 0.03, 6).tinted((0.02, 0.03, 0.025)),
                    ]
                ),
                SATIN,
            )
        ]
    post = [tube((0, 0, 0), (0, 0, 1.1), 0.13, 0.12), tube((0, 0, 1), (0, 0, 7.2), 0.095, 0.06)]
    for s in (1, -1) if kind == "double" else (1,):
        post += [
            tube((0, 0, 7.1), (1.9 * s, 0, 7.5), 0.05),
            box((1.5 * s - 0.35, -0.13, 7.42), (1.5 * s + 0.55, 0.13, 7.56)),
        ]
    return [(POLE, merge(post).tinted(grey), METAL)]


def utility_pole() -> list[Part]:
    """A wooden pole with cross-arms."""
    parts = [
        tube((0, 0, 0), (0, 0, 9), 0.16, 0.11),
        box((-0.06, -1.1, 8.3), (0.06, 1.1, 8.45)),
        box((-0.06, -0.8, 7.6), (0.06, 0.8, 7.73)),
    ]
    parts += [tube((0, y, 8.45), (0, y, 8.65), 0.05, 0.03, 6) for y in (-1, -0.5, 0.5, 1)]
    return [(POLE, merge(parts).tinted((0.16, 0.11, 0.075)), MATTE)]


@cache
def _face(kind: int) -> Material:
    return Material(sign_face(kind), roughness=0.4)


def sign(kind: int) -> list[Part]:
    """A traffic sign whose face looks to -x, at the traffic that comes along +x."""
    r, z, x = 0.38, 2.45, -0.05
    top = z + r
    if kind in (0, 1):
        t = np.linspace(0, 2 * np.pi, 29)[:-1]
        ring = np.stack([np.full(28, x), -r * np.cos(t), z + r * np.sin(t)], 1)
        f = np.stack([np.full(28, 28), np.arange(28), (np.arange(28) + 1) % 28], 1)
        face = mesh(np.r_[ring, [[x, 0, z]]], f, np.c_[np.r_[np.cos(t), 0], np.r_[np.sin(t), 0]] / 2 + 0.5)
    elif kind == 2:
        face = mesh(
            [[x, 0, z - 1.2 * r], [x, -1.2 * r, z], [x, 0, z + 1.2 * r], [x, 1.2 * r, z]],
            [[0, 1, 2], [0, 2, 3]],
            [[0.5, 0], [1, 0.5], [0.5, 1], [0, 0.5]],
        )
    elif kind == 3:
        face = mesh(
            [[x, 1.15 * r, z - r], [x, -1.15 * r, z - r], [x, 0, z + r]], [[0, 1, 2]], [[0, 0], [1, 0], [0.5, 1]]
        )
    else:
        w, h = (0.36, 0.36) if kind == 4 else (0.95, 0.5)
        face = quad((x, w, z - h), (x, -w, z - h), (x, -w, z + h), (x, w, z + h))
        top = z + h
    back = face.moved((0.02, 0, 0)).tinted((0.25, 0.26, 0.27))
    back = Mesh(back.v, back.f[:, ::-1], back.uv, back.rgb)
    post = tube((0, 0, 0), (0, 0, top - 0.08), 0.045, sides=8).tinted((0.3, 0.31, 0.32))
    return [(SIGN, face, _face(kind)), (SIGN, back, SATIN), (POLE, post, METAL)]


def traffic_light(red: bool) -> list[Part]:
    """A signal on a mast whose arm reaches 2.6 m over the road to +y; it faces traffic that comes along +x."""
    mast = merge([tube((0, 0, 0), (0, 0, 5.2), 0.1, 0.08), tube((0, 0, 5.1), (0, 2.6, 5.3), 0.06, 0.05)]).tinted(
        (0.14, 0.15, 0.15)
    )
    heads = []
    for y, z in ((0, 2.6), (2.5, 4.75)):
        heads.append(box((-0.32, y - 0.16, z - 0.45), (-0.1, y + 0.16, z + 0.45)).tinted((0.015, 0.015, 0.015)))
        for k, lit in enumerate(((0.9, 0.04, 0.02), (0.9, 0.45, 0.02), (0.03, 0.9, 0.25))):
            on = (k == 0) == red and k != 1
            c = np.asarray(lit) * (1 if on else 0.12)
            heads.append(tube((-0.3, y, z + 0.28 - 0.28 * k), (-0.36, y, z + 0.28 - 0.28 * k), 0.1, sides=12).tinted(c))
    return [(POLE, mast, METAL), (SIGN, merge(heads), SATIN)]


def furniture(kind: str, rng) -> list[Part]:
    """Small things of the class `other`: bench, bin, hydrant, letterbox, cabinet, planter, bollards or shelter."""
    if kind == "bench":
        wood = [box((-0.2 + 0.14 * k, -0.85, 0.43), (-0.09 + 0.14 * k, 0.85, 0.47)) for k in range(4)]
        wood += [box((-0.3, -0.85, 0.58 + 0.15 * k), (-0.26, 0.85, 0.69 + 0.15 * k)) for k in range(2)]
        legs = [box((-0.28, y - 0.04, 0), (0.3, y + 0.04, 0.43)) for y in (-0.7, 0.7)]
        legs += [box((-0.3, y - 0.04, 0.4), (-0.25, y + 0.04, 0.9)) for y in (-0.7, 0.7)]
        return [(OTHER, merge([merge(wood).tinted((0.22, 0.12, 0.05)), merge(legs).tinted((0.03, 0.03, 0.03))]), MATTE)]
    if kind == "bin":
        m = merge([tube((0, 0, 0.05), (0, 0, 0.95), 0.26, 0.3), tube((0, 0, 0.95), (0, 0, 1.08), 0.31, 0.2)])
        return [(OTHER, m.tinted([(0.02, 0.09, 0.04), (0.05, 0.05, 0.055), (0.3, 0.12, 0.02)][rng.integers(3)]), SATIN)]
    if kind == "hydrant":
        m = [
            tube((0, 0, 0), (0, 0, 0.08), 0.19),
            tube((0, 0, 0), (0, 0, 0.6), 0.13),
            tube((0, 0, 0.6), (0, 0, 0.78), 0.15, 0.04),
            tube((0, -0.24, 0.45), (0, 0.24, 0.45), 0.07),
        ]
        return [(OTHER, merge(m).tinted((0.45, 0.03, 0.02)), SATIN)]
    if kind == "letterbox":
        m = [
            box((-0.2, -0.25, 0.35), (0.2, 0.25, 1.3)),
            tube((-0.2, 0, 1.3), (0.2, 0, 1.3), 0.25),
            box((-0.12, -0.18, 0), (0.12, 0.18, 0.4)),
        ]
        return [
            (OTHER, merge(m).tinted([(0.5, 0.35, 0.02), (0.02, 0.06, 0.3), (0.4, 0.02, 0.02)][rng.integers(3)]), SATIN)
        ]
    if kind == "cabinet":
        m = [
            box((-0.22, -0.5, 0), (0.22, 0.5, 1.25)).tinted((0.3, 0.31, 0.29)),
            box((0.21, -0.01, 0.1), (0.225, 0.01, 1.2)).tinted((0.1, 0.1, 0.1)),
        ]
        return [(OTHER, merge(m), MATTE)]
    if kind == "planter":
        plant = bush(int(rng.integers(4)))[0][1]
        pot = [
            box((-0.5, -0.5, 0), (0.5, 0.5, 0.5)).tinted((0.3, 0.28, 0.25)),
            box((-0.43, -0.43, 0.45), (0.43, 0.43, 0.51)).tinted((0.06, 0.04, 0.03)),
        ]
        return [(OTHER, merge(pot), MATTE), (GREEN, plant.moved((0, 0, 0.3), scale=0.8), LEAVES)]
    if kind == "bollards":
        return [
            (
                OTHER,
                merge([tube((0, y, 0), (0, y, 0.85), 0.07, 0.06) for y in (-2.4, -0.8, 0.8, 2.4)]).tinted(
                    (0.04, 0.045, 0.05)
                ),
                SATIN,
            )
        ]
    frame = [box((x - 0.04, y - 0.04, 0), (x + 0.04, y + 0.04, 2.4)) for x in (-0.6, 0.6) for y in (-1.8, 1.8)]
    frame += [
        box((-0.75, -2, 2.4), (0.85, 2, 2.52)),
        box((-0.62, -1.8, 0.4), (-0.58, 1.8, 0.5)),
        box((-0.5, -1.2, 0.45), (-0.15, 1.2, 0.5)),
    ]
    panel = box((-0.6, 1.76, 0.4), (0.6, 1.84, 2.2)).tinted(rng.uniform(0.05, 0.5, 3))
    pane = box((-0.61, -1.75, 0.55), (-0.59, 1.75, 2.25)).tinted((0.05, 0.065, 0.07))
    return [(OTHER, merge([merge(frame).tinted((0.1, 0.11, 0.12)), panel]), SATIN), (OTHER, pane, GLASS)]


@cache
def _boards(tone: tuple) -> Material:
    return Material(grain(np.random.default_rng(5), tone, 0.25, 64, 0.8))


def fence(kind: str, length: float) -> list[Part]:
    """A fence along x from 0: pickets, railings, mesh (wire between posts) or boards."""
    x = np.arange(0, length, {"pickets": 0.16, "railings": 0.14, "mesh": 0.11, "boards": 0.17}[kind])
    if kind == "pickets":
        m = [box((a, -0.015, 0.05), (a + 0.1, 0.015, 1.05)) for a in x] + [
            box((0, 0.015, z), (length, 0.05, z + 0.08)) for z in (0.25, 0.75)
        ]
        tone = (0.5, 0.49, 0.46)
    elif kind == "railings":
        m = [box((a, -0.012, 0.05), (a + 0.028, 0.012, 1.25)) for a in x] + [
            box((0, -0.02, z), (length, 0.02, z + 0.05)) for z in (0.15, 1.1)
        ]
        tone = (0.02, 0.03, 0.025)
    elif kind == "mesh":
        m = [box((a, -0.006, 0.05), (a + 0.018, 0.006, 1.9)) for a in x] + [
            box((0, -0.006, z), (length, 0.006, z + 0.018)) for z in np.arange(0.1, 1.95, 0.22)
        ]
        m += [tube((a, 0, 0), (a, 0, 2.05), 0.04, sides=6) for a in np.arange(0, length + 0.1, 2.4)]
        tone = (0.22, 0.25, 0.23)
    else:
        m = [
            box((a, -0.015, 0.05), (a + 0.155, 0.015 + 0.02 * (k % 2), 1.75 + 0.03 * (k % 3))) for k, a in enumerate(x)
        ]
        tone = (0.2, 0.12, 0.065)
    return [(FENCE, merge(m), _boards(tone))]
