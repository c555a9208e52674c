"""The ground: road, crossing road, pavements with kerbs, grass, and the paint on the road."""

import numpy as np
from street_mesh import merge, quad, sheet
from street_parts import GREEN, LINE, ROAD, SIDEWALK, Part
from street_textures import Material, asphalt

FAR, BACK = 150.0, -14.0  # metres of street ahead of the camera, and behind it


def ground(rng, street, half, lanes, lane, parking, pavement, cross, looks, wet) -> list[Part]:
    """Road, pavements with kerbs, the crossing road, and grass beyond."""
    tar = Material(
        *asphalt(rng, 2 * half, lanes, rng.uniform(0.10, 0.19), wet),
        specular=0.4 + 0.3 * wet,
        repeat=(0.5 / half, 1 / 24),
    )
    road, edge = [street.strip([(-half, 0), (0, 0.04), (half, 0)], BACK, FAR + 60)], half + pavement
    gaps = [(BACK, FAR + 60)]
    kerb, slab, top = [], [], 0.14
    if cross is not None:
        at, reach = cross
        gaps = [(BACK, at - reach), (at + reach, FAR + 60)]
        for side in (-1, 1):
            us = side * np.linspace(half, 90, 40)
            road.append(street.strip(np.c_[us, 0 * us + 0.002], at - reach, at + reach, 1.0))
            for a, b, lip in (
                (at - reach - pavement, at - reach, at - reach),
                (at + reach, at + reach + pavement, at + reach),
            ):
                us = side * np.linspace(edge, 90, 36)
                slab.append(street.strip(np.c_[us, 0 * us + top], a, b, 1.0))
                us = side * np.linspace(half, 90, 36)
                kerb.append(
                    sheet(
                        street.at(us[:, None], np.full((1, 2), lip), np.array([[0.0, top]])),
                        np.stack(np.broadcast_arrays(us[:, None], np.array([[0.0, 1.0]])), -1),
                    )
                )
    for side in (-1, 1):
        for a, b in gaps:
            kerb.append(street.strip([(side * half, -0.02), (side * half, top), (side * (half + 0.16), top)], a, b))
            slab.append(street.strip([(side * (half + 0.16), top), (side * edge, top)], a, b))
            slab.append(street.strip([(side * edge, top), (side * edge, -0.3)], a, b))
    ground = [
        street.strip([(side * edge, -0.02), (side * (edge + 25), -0.04), (side * 160, -0.1)], BACK - 20, 360, 4)
        for side in (-1, 1)
    ]
    far = quad((-200, -500, -0.6), (900, -500, -0.6), (900, 500, -0.6), (-200, 500, -0.6), 1100, 1000)
    return [
        (ROAD, merge(road), tar),
        (SIDEWALK, merge(kerb), looks["kerb"]),
        (SIDEWALK, merge(slab), looks["slab"]),
        (GREEN, merge([*ground, far]), looks["grass"]),
    ]


def markings(rng, street, half, lanes, lane, parking, cross, paint) -> list[Part]:
    """Centre and lane lines, edges, parking bays, crossings and stop lines, a few millimetres over the road."""

    def lift(u):
        return 0.04 * (1 - np.abs(u) / half) + 0.008  # the road is cambered

    lines, stop = [], [] if cross is None else [(cross[0] - cross[1] - 5.2, cross[0] + cross[1] + 5.2)]
    spans = [(BACK, FAR)] if not stop else [(BACK, stop[0][0]), (stop[0][1], FAR)]

    def line(u, a, b, w=0.07):
        lines.append(street.strip([(u - w, lift(u)), (u + w, lift(u))], a, b))

    double, dash = rng.random() < 0.45, rng.uniform(2.2, 4.0)
    for a, b in spans:
        for k in range(-lanes // 2 + 1, lanes // 2):
            if k == 0 and double:
                line(-0.14, a, b)
                line(0.14, a, b)
            else:
                for s in np.arange(a + rng.uniform(0, 3), b - dash, 2.2 * dash):
                    line(k * lane, s, s + dash, 0.075)
        for side in (-1, 1):
            u = side * (lanes * lane / 2 - (0.25 if not parking else 0))
            if parking:
                for s in np.arange(a, b - 6, 6.2):
                    lines.append(street.strip([(u, lift(u)), (side * half * 0.99, lift(half))], s, s + 0.12))
            line(u, a, b, 0.06)
    zebra = []
    if cross is not None:
        zebra = [cross[0] - cross[1] - 3.6, cross[0] + cross[1] + 0.8] if rng.random() < 0.8 else []
        u = -half * 0.98, -0.2
        lines.append(street.strip([(u[0], lift(u[0])), (u[1], lift(u[1]))], stop[0][0] + 0.1, stop[0][0] + 0.55, 0.4))
    elif rng.random() < 0.5:
        zebra = [rng.uniform(9, 35)]
    for s in zebra:
        for u in np.arange(-half + 0.4, half - 0.6, 1.05):
            lines.append(street.strip([(u, lift(u) + 0.004), (u + 0.5, lift(u + 0.5) + 0.004)], s, s + 2.8, 1.4))
    return [(LINE, merge(lines), paint)]
