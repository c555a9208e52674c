"""Anomalies out of a house: sofa, piano, bathtub, wardrobe, teapot. Each maker gives a mesh and its material."""

from itertools import pairwise

import numpy as np
from street_mesh import ball, block, drum, less, limb, outline, rotated, solid, turned
from street_parts import BLACK, CLOTH, GLOSS, WHITE, WOOD, Made, pick
from street_textures import bands, mottled, rough, tartan, timber


def sofa(rng) -> Made:
    tone = np.array(pick(rng, (0.35, 0.04, 0.03), (0.05, 0.14, 0.12), (0.42, 0.3, 0.12), (0.1, 0.11, 0.25)))
    cover = pick(
        rng,
        mottled(tone, 0.25, 0.03),
        tartan(tone, tone * 0.35, WHITE),
        bands(tone, (0.5, 0.46, 0.38), (0, 1, 0), 0.16, 0.0, 0.6),
    )
    w = rng.uniform(0.85, 1.15)
    parts = [
        (block((-0.45, -w, 0.14), (0.45, w, 0.42), 0.06), cover),
        (rotated(block((-0.52, -w, 0.3), (-0.26, w, 0.98), 0.1), 1, -0.13, (-0.4, 0, 0.3)), cover),
    ]
    for y in (-1, 1):
        parts += [(block((-0.48, y * w - 0.13, 0.14), (0.47, y * w + 0.13, 0.66), 0.11), cover)]
        parts += [(drum((x, y * (w - 0.05), 0.07), 0.035, 0.08), (0.06, 0.03, 0.015)) for x in (-0.38, 0.38)]
        parts += [(block((-0.28, y * w / 2 - 0.47 * w, 0.41), (0.46, y * w / 2 + 0.47 * w, 0.58), 0.075), cover)]
        parts += [
            (
                rotated(
                    block((-0.32, y * w / 2 - 0.44 * w, 0.56), (-0.14, y * w / 2 + 0.44 * w, 0.95), 0.08),
                    1,
                    -0.16,
                    (-0.25, 0, 0.5),
                ),
                cover,
            )
        ]
    return solid(parts, (-0.7, -w - 0.2, 0), (0.55, w + 0.2, 1.1), 0.024), CLOTH


def piano(rng) -> Made:
    wood = pick(rng, timber((0.1, 0.03, 0.015), 1, 9.0), (0.012, 0.011, 0.011), timber((0.23, 0.11, 0.045), 1, 9.0))

    def keys(p):
        t = (p[:, 1] + 9) / 0.024
        black = (p[:, 0] < 0.29) & np.isin(np.floor(t / 1.0).astype(int) % 7, (1, 3, 6)) & (t % 1 < 0.8)
        return np.where(black[:, None], BLACK, (0.75, 0.73, 0.68))

    parts = [
        (block((-0.3, -0.75, 0.06), (0.05, 0.75, 1.28), 0.015), wood),
        (block((-0.34, -0.8, 1.26), (0.1, 0.8, 1.32), 0.015), wood),
    ]
    parts += [
        (block((0.0, -0.75, 0.62), (0.4, 0.75, 0.72), 0.015), wood),
        (block((0.1, -0.66, 0.7), (0.38, 0.66, 0.75), 0.01), keys),
    ]
    parts += [
        (block((0.03, -0.6, 0.85), (0.075, 0.6, 1.2), 0.01), mottled((0.3, 0.16, 0.07), 0.2, 0.1)),
        (block((0.05, -0.3, 0.82), (0.14, 0.3, 1.1), 0.01), (0.7, 0.68, 0.6)),
    ]
    for y in (-0.72, 0.72):
        parts += [
            (block((-0.3, y - 0.06, 0), (0.42, y + 0.06, 0.1), 0.02), wood),
            (limb((0.36, y, 0.08), (0.36, y, 0.64), 0.035, 0.05), wood),
        ]
    parts += [(block((0.42, -0.35, 0.42), (0.75, 0.35, 0.5), 0.03), (0.02, 0.02, 0.02))] + [
        (limb((x, y, 0), (x, y, 0.44), 0.025), wood) for x in (0.47, 0.7) for y in (-0.28, 0.28)
    ]
    return solid(parts, (-0.4, -0.9, 0), (0.8, 0.9, 1.4), 0.022), GLOSS


def bathtub(rng) -> Made:
    outside = pick(rng, WHITE, (0.06, 0.12, 0.2), (0.3, 0.04, 0.04))

    def bowl(g):
        return lambda p: np.maximum(
            (
                np.hypot(p[:, 0] / (0.86 - g), p[:, 1] / (0.42 - g)) ** 3
                + np.clip((0.72 - p[:, 2]) / (0.55 - g), 0, 9) ** 3
            )
            ** (1 / 3)
            * 0.4
            - 0.4,
            p[:, 2] - 0.72,
        )

    tub = less(bowl(0.0), lambda p: np.maximum(bowl(0.06)(p - np.array((0, 0, 0.06), np.float32)), -9))

    def skin(p):
        return np.where((bowl(0.05)(p) > -0.004)[:, None] & (p[:, 2:] < 0.68), outside, (0.78, 0.77, 0.75))

    def rim(p):
        return np.hypot((np.hypot(p[:, 0] / 0.86, p[:, 1] / 0.42) - 1) * 0.42, p[:, 2] - 0.72) - 0.03

    parts = [
        (tub, skin),
        (rim, (0.8, 0.79, 0.77)),
        (limb((0.78, 0, 0.72), (0.78, 0, 1.0), 0.025), (0.5, 0.5, 0.52)),
        (limb((0.78, 0, 1.0), (0.6, 0, 0.96), 0.025), (0.5, 0.5, 0.52)),
    ]
    for x in (-0.55, 0.55):
        for y in (-0.24, 0.24):
            parts += [
                (limb((x, y, 0.3), (x * 1.12, y * 1.25, 0.06), 0.06, 0.045), (0.42, 0.32, 0.1)),
                (ball((x * 1.14, y * 1.3, 0.04), (0.07, 0.06, 0.045)), (0.42, 0.32, 0.1)),
            ]
    return solid(parts, (-1, -0.55, 0), (1, 0.55, 1.05), 0.02), GLOSS


def wardrobe(rng) -> Made:
    tone = pick(rng, (0.22, 0.1, 0.04), (0.12, 0.05, 0.025), (0.4, 0.27, 0.14))
    wood, dark = timber(tone, 2, 0.5, 1, int(rng.integers(9))), np.asarray(tone) * 0.4
    parts = [
        (block((-0.3, -0.7, 0.12), (0.26, 0.7, 1.95), 0.01), wood),
        (block((-0.34, -0.76, 1.93), (0.33, 0.76, 2.04), 0.03), wood),
        (block((-0.33, -0.74, 0.06), (0.31, 0.74, 0.2), 0.02), wood),
    ]
    parts += [(outline([(-0.06, 2.02), (0.0, 2.02), (0.0, 2.2), (-0.06, 2.2)], -0.4, 0.4), wood)]
    for y in (-1, 1):
        parts += [
            (block((0.25, y * 0.345 - 0.33, 0.5), (0.29, y * 0.345 + 0.33, 1.9), 0.012), wood),
            (block((0.285, y * 0.345 - 0.22, 0.62), (0.3, y * 0.345 + 0.22, 1.15), 0.008), dark),
            (block((0.285, y * 0.345 - 0.22, 1.25), (0.3, y * 0.345 + 0.22, 1.8), 0.008), dark),
        ]
        parts += [
            (block((0.25, y * 0.345 - 0.33, 0.22), (0.29, y * 0.345 + 0.33, 0.47), 0.012), wood),
            (ball((0.31, 0.06 * y, 1.15), 0.03), (0.5, 0.38, 0.12)),
            (ball((0.31, 0.345 * y, 0.35), 0.03), (0.5, 0.38, 0.12)),
        ]
        parts += [(drum((x, 0.6 * y, 0.05), 0.05, 0.055), wood) for x in (-0.24, 0.22)]
    return solid(parts, (-0.4, -0.82, 0), (0.4, 0.82, 2.25), 0.022), WOOD


def chess_piece(rng) -> Made:
    light = rng.random() < 0.5
    wood = timber((0.5, 0.36, 0.19) if light else (0.06, 0.03, 0.018), 2, 9, 0, int(rng.integers(9)))
    pawn = [
        (0.5, 0),
        (0.5, 0.14),
        (0.42, 0.2),
        (0.44, 0.28),
        (0.3, 0.36),
        (0.2, 0.7),
        (0.16, 1.05),
        (0.3, 1.12),
        (0.3, 1.18),
        (0.15, 1.24),
        (0.15, 1.3),
    ]
    parts = [(turned(pawn), wood)]
    if rng.random() < 0.5:
        parts += [(ball((0, 0, 1.46), 0.27), wood)]
        top = 1.8
    else:
        tower = turned([(0.2, 1.25), (0.3, 1.45), (0.34, 1.5), (0.34, 1.85)])
        cut = [drum((0, 0, 1.85), 0.23, 0.18)] + [
            rotated(block((-0.5, -0.07, 1.7), (0.5, 0.07, 2.0), 0), 2, a) for a in (0, 1.05, 2.1)
        ]
        parts += [(less(tower, *cut), wood)]
        top = 1.95
    return solid(parts, (-0.6, -0.6, 0), (0.6, 0.6, top), 0.024), GLOSS


def teapot(rng) -> Made:
    ground, ink = (
        np.array((0.72, 0.72, 0.7)),
        np.array(pick(rng, (0.03, 0.09, 0.4), (0.45, 0.04, 0.05), (0.03, 0.22, 0.12))),
    )
    seed = int(rng.integers(20))

    def bloom(p):
        return np.where(
            (
                (np.abs(rough(p, 0.3, 2, seed)) < 0.12) & (np.abs(p[:, 2] - 0.55) < 0.28)
                | (np.abs(p[:, 2] - 0.9) < 0.025)
                | (np.abs(p[:, 2] - 0.17) < 0.025)
            )[:, None],
            ink,
            ground,
        )

    parts = [
        (
            turned(
                [
                    (0.42, 0),
                    (0.45, 0.06),
                    (0.62, 0.22),
                    (0.74, 0.45),
                    (0.72, 0.68),
                    (0.55, 0.9),
                    (0.4, 0.97),
                    (0.3, 1.06),
                    (0.12, 1.12),
                    (0.06, 1.13),
                ]
            ),
            bloom,
        ),
        (ball((0, 0, 1.19), 0.09), ink),
    ]
    parts += [
        (limb((0.6, 0, 0.4), (0.98, 0, 0.62), 0.15, 0.1), bloom),
        (limb((0.98, 0, 0.62), (1.2, 0, 0.98), 0.1, 0.065), bloom),
    ]
    a = np.linspace(-1.25, 1.25, 8)
    ring = np.stack([-0.66 - 0.42 * np.cos(a), 0 * a, 0.56 + 0.33 * np.sin(a)], 1)
    parts += [(limb(p, q, 0.06), bloom) for p, q in pairwise(ring)]
    return solid(parts, (-1.2, -0.8, 0), (1.35, 0.8, 1.32), 0.026, 0.03), GLOSS
