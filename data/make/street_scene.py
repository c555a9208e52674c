"""One frame's street: its course, what lines it, what moves on it, the camera and the light, all from one seed."""

import numpy as np
from street_buildings import building
from street_cars import CARS, car, person
from street_course import Camera, Scene, Street
from street_ground import BACK, FAR, ground, markings
from street_mesh import box
from street_parts import WALL, Part
from street_plants import bush, hedge, tree
from street_props import fence, furniture, lamp, sign, traffic_light, utility_pole
from street_towns import CLIMATE, PEDESTRIAN_CHANCE, TOWNS, WEATHER, surfaces


def compose(town: str, seed: int) -> Scene:
    """The street of one frame, without an anomaly."""
    rng, t, looks = np.random.default_rng([3, sum(map(ord, town)), seed]), TOWNS[town], surfaces(town)
    street = Street(rng)
    name = CLIMATE[town][rng.integers(len(CLIMATE[town]))]
    weather = WEATHER[name]
    lanes = int(rng.choice(t["lanes"]))
    lane = t["lane"] * rng.uniform(0.93, 1.07)
    parking = 2.1 if rng.random() < 0.5 and lanes == 2 else 0.0
    half = lanes * lane / 2 + parking
    pavement = rng.uniform(*t["pavement"])
    cross = None if rng.random() > t["junction"] else (rng.uniform(16, 60), rng.uniform(3.2, 4.5))
    scene = Scene([], _camera(rng, street, lanes, lane), weather, _sun(rng, weather), street)
    scene.half, scene.pavement, scene.about = half, pavement, dict(town=town, seed=seed, weather=name)
    add = scene.parts.extend

    add(ground(rng, street, half, lanes, lane, parking, pavement, cross, looks, weather["wet"]))
    add(markings(rng, street, half, lanes, lane, parking, cross, looks["paint"]))
    gaps = [] if cross is None else [(cross[0] - cross[1] - 2.6, cross[0] + cross[1] + 2.6)]
    for side in (-1, 1):
        add(_frontage(rng, street, town, side, half + pavement, gaps))
        add(_verge(rng, scene, town, side, half, pavement, gaps))
    if cross is not None:
        add(_corners(rng, street, town, half, pavement, cross))
    add(_backdrop(rng, street, town, half + pavement))
    _traffic(rng, scene, t, half, lanes, lane, parking)
    low, high = t["people"]
    people = rng.integers(low, high + 1) if high else int(rng.random() < PEDESTRIAN_CHANCE)
    for _ in range(people):
        u, s = rng.choice([-1, 1]) * (half + rng.uniform(0.6, max(0.7, pavement - 0.4))), 6 + 34 * rng.random() ** 1.5
        if rng.random() < 0.08:
            u = rng.uniform(-half, half)
        if all(np.hypot(u - a, s - b) > r + 0.5 for a, b, r in scene.taken):
            add(
                street.put(
                    person(int(rng.integers(99))),
                    u,
                    s,
                    0.14 if abs(u) > half else 0,
                    rng.choice([0, np.pi]) + rng.normal(0, 0.4),
                )
            )
            scene.taken.append((u, s, 0.4))
    return scene


def _camera(rng, street, lanes, lane) -> Camera:
    u = -lane * (rng.integers(lanes // 2) + 0.5) + rng.normal(0, 0.25)
    at = street.at(u, 0.0, rng.uniform(1.35, 2.3))
    ahead = street.at(u, 14.0)
    heading = np.arctan2(ahead[1] - at[1], ahead[0] - at[0]) + rng.normal(0, 0.07)
    if rng.random() < 0.15:  # the car is turning or changes lanes
        heading += rng.choice([-1, 1]) * rng.uniform(0.15, 0.5)
    return Camera(at, float(heading), float(np.radians(rng.uniform(-4.5, 2.0))), float(rng.uniform(74, 92)))


def _sun(rng, weather) -> np.ndarray:
    e, a = np.radians(rng.uniform(*weather["sun"])), rng.uniform(0, 2 * np.pi)
    return np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])


def _frontage(rng, street, town, side, edge, gaps) -> list[Part]:
    """The lots on one side: houses, walled and fenced gardens, open ground with trees."""
    t, looks, out, s = TOWNS[town], surfaces(town), [], BACK + rng.uniform(0, 6)
    turn = -side * np.pi / 2
    kinds, weights = list(t["lots"]), np.array(list(t["lots"].values()))
    while s < FAR:
        width = float(rng.choice([9.0, 12.0, 15.0, 18.0]))
        hit = [g for g in gaps if s < g[1] and s + width > g[0]]
        if hit:
            if hit[0][0] - s < 6:
                s = hit[0][1]
                continue
            width = hit[0][0] - s
        kind = rng.choice(kinds, p=weights / weights.sum())
        anchor = (
            s if side > 0 else s + width
        )  # +y of a house runs along the street on the left, against it on the right
        if kind == "house":
            back = rng.uniform(*t["setback"])
            floors = int(rng.integers(t["floors"][0], t["floors"][1] + 1))
            out += street.put(
                building(rng, town, width - 0.05, rng.uniform(9, 13), floors),
                side * (edge + back + 0.05),
                anchor,
                0,
                turn,
            )
            if back > 1:
                for _ in range(rng.integers(0, 3)):
                    out += street.put(
                        bush(int(rng.integers(9))),
                        side * (edge + 0.5),
                        s + rng.uniform(0.5, width - 0.5),
                        0,
                        rng.uniform(0, 6),
                        rng.uniform(0.6, 1.0),
                    )
        else:
            if kind == "wall":
                h, n = rng.uniform(1.5, 3.0), max(1, round(width / 4.5))
                for k in range(n):
                    a, step = s + k * width / n, width / n
                    piece = [
                        (WALL, box((-0.15, 0, -0.5), (0.12, step + 0.03, h)), looks["wall"]),
                        (WALL, box((-0.22, 0, h), (0.19, step + 0.03, h + 0.1)), looks["kerb"]),
                    ]
                    out += street.put(piece, side * (edge + 0.2), a if side > 0 else a + step, 0, turn)
            elif kind == "fence":
                style, n = t["fence"][rng.integers(len(t["fence"]))], max(1, round(width / 4.8))
                for k in range(n):
                    out += street.put(fence(style, width / n), side * (edge + 0.15), s + k * width / n)
                if rng.random() < 0.35:
                    for a in np.arange(s, s + width - 2, 3.8):
                        out += street.put(hedge(), side * (edge + 0.9), a)
            elif rng.random() < 0.5:
                for a in np.arange(s, s + width - 2, 3.8):
                    out += street.put(hedge(), side * (edge + 0.6), a)
            for _ in range(rng.integers(0, 3)):
                kind_ = t["trees"][rng.integers(len(t["trees"]))]
                at = s + rng.uniform(0, width)
                out += street.put(
                    tree(kind_, int(rng.integers(99)), at > 38),
                    side * (edge + rng.uniform(2.5, 13)),
                    at,
                    0,
                    rng.uniform(0, 6),
                    rng.uniform(0.8, 1.25),
                )
            if rng.random() < 0.25:  # a house behind
                floors = int(rng.integers(1, t["floors"][1] + 1))
                out += street.put(
                    building(rng, town, width * 0.9, 10, floors), side * (edge + rng.uniform(14, 24)), anchor, 0, turn
                )
        s += width + (rng.uniform(0.5, 3) if rng.random() < 0.3 else 0)
    return out


def _verge(rng, scene, town, side, half, pavement, gaps) -> list[Part]:
    """What stands on one pavement: lamps, trees, signs, furniture."""
    t, street, out, lip = TOWNS[town], scene.street, [], 0.14

    def stand(parts, u, s, turn=0.0, scale=1.0, radius=0.4):
        if any(a - 0.5 < s < b + 0.5 for a, b in gaps) or any(
            np.hypot(u - x, s - y) < radius + r for x, y, r in scene.taken
        ):
            return
        out.extend(street.put(parts, u, s, lip, turn, scale))
        scene.taken.append((u, s, radius))

    kerbside, wall = side * (half + 0.5), side * (half + pavement - 0.5)
    inward = -side * np.pi / 2
    for s in np.arange(rng.uniform(3, 14), FAR, rng.uniform(15, 24)):
        stand(lamp(t["lamp"][rng.integers(len(t["lamp"]))]), kerbside, s, inward)
    if rng.random() < t["poles"]:
        for s in np.arange(rng.uniform(4, 18), FAR, 27):
            stand(utility_pole(), side * (half + pavement - 0.25), s, np.pi / 2 * 0)
    for s in np.sort(rng.uniform(4, 90, rng.integers(1, t["street_trees"] + 1))):
        kind = t["trees"][rng.integers(len(t["trees"]))]
        stand(
            tree(kind, int(rng.integers(99)), s > 45),
            side * (half + 0.75),
            s,
            rng.uniform(0, 6),
            rng.uniform(0.7, 1.0),
            1.0,
        )
    for s in rng.uniform(7, 60, rng.integers(1, 4)):
        stand(sign(int(rng.integers(6))), side * (half + 0.4), s, 0 if side < 0 or rng.random() < 0.3 else np.pi)
    kinds = ("bench", "bin", "hydrant", "letterbox", "cabinet", "planter", "bollards", "shelter", "bin")
    for s in rng.uniform(5, 55, rng.integers(1, 5)):
        kind = kinds[rng.integers(len(kinds))]
        near = kind in ("hydrant", "bollards", "letterbox", "bin")
        if kind == "shelter" and pavement < 2.4:
            continue
        u = kerbside if near else wall if kind != "shelter" else side * (half + pavement - 0.9)
        stand(furniture(kind, rng), u, s, inward, 1.0, {"shelter": 2.2, "bollards": 0.6}.get(kind, 0.7))
    if gaps and side < 0:
        out += street.put(traffic_light(bool(rng.random() < 0.5)), side * (half + 0.5), gaps[0][0] - 1.2, lip)
    elif gaps:
        out += street.put(traffic_light(bool(rng.random() < 0.5)), side * (half + 0.5), gaps[0][1] + 1.2, lip, np.pi)
    return out


def _corners(rng, street, town, half, pavement, cross) -> list[Part]:
    """Houses, walls and trees along the crossing road, beyond the corner lots."""
    out, (at, reach), t = [], cross, TOWNS[town]
    for side in (-1, 1):
        for ahead in (-1, 1):
            u = half + pavement + 15
            while u < 75:
                s = at + ahead * (reach + 2.4 + rng.uniform(0, 2))
                if rng.random() < 0.55:  # the front faces the crossing road
                    w = float(rng.choice([9.0, 12.0, 15.0]))
                    anchor = u + w if (side > 0) == (ahead > 0) else u
                    anchor = u if (side > 0) != (ahead > 0) else u + w
                    out += street.put(
                        building(rng, town, w, 9, int(rng.integers(1, t["floors"][1] + 1))),
                        side * anchor,
                        s,
                        0,
                        np.pi if ahead > 0 else 0.0,
                    )
                    u += w + rng.uniform(0, 3)
                else:
                    kind = t["trees"][rng.integers(len(t["trees"]))]
                    out += street.put(
                        tree(kind, int(rng.integers(99)), True), side * u, s + ahead * 3, 0, rng.uniform(0, 6)
                    )
                    u += 6
    return out


def _backdrop(rng, street, town, edge) -> list[Part]:
    """Woods and towers at the horizon, so that the street does not end in nothing."""
    out = []
    for _ in range(42):
        s, u = rng.uniform(90, 280), rng.choice([-1, 1]) * rng.uniform(0, 130)
        if s < FAR + 15 and abs(u) < edge + 22:
            continue
        out += street.put(bush(int(rng.integers(9)), True), u, s, -0.5, rng.uniform(0, 6), rng.uniform(6, 11))
    for _ in range(rng.integers(1, 5)):
        u, s = rng.choice([-1, 1]) * rng.uniform(edge + 35, 120), rng.uniform(60, 220)
        out += street.put(
            building(rng, town, rng.uniform(14, 24), 14, int(rng.integers(5, 10))),
            u,
            s,
            0,
            rng.choice([np.pi, np.pi / 2, -np.pi / 2]),
        )
    return out


#: paint of cars
TONES = (
    (0.6, 0.6, 0.6), (0.4, 0.41, 0.43), (0.02, 0.02, 0.022), (0.14, 0.15, 0.16), (0.3, 0.015, 0.015),
    (0.02, 0.05, 0.2), (0.05, 0.09, 0.06), (0.5, 0.33, 0.04), (0.13, 0.09, 0.06),
)  # fmt: skip


def _traffic(rng, scene, t, half, lanes, lane, parking) -> None:
    """Cars: parked along the kerb, and driving on the right."""
    kinds = list(CARS)
    for _ in range(rng.integers(2, t["cars"] + 1)):
        side = rng.choice([-1, 1])
        if parking and rng.random() < 0.75:
            u, s = side * (half - 1.0), rng.uniform(7, 70)
        else:
            u, s = side * lane * (rng.integers(lanes // 2) + 0.5) + rng.normal(0, 0.15), rng.uniform(13, 90)
        if any(abs(u - a) < 2.2 and abs(s - b) < 5.8 for a, b, r in scene.taken if r > 2):
            continue
        turn = (0 if u < 0 else np.pi) + rng.normal(0, 0.015)
        tone = np.asarray(TONES[rng.integers(len(TONES))]) * rng.uniform(0.85, 1.15)
        scene.parts.extend(
            scene.street.put(car(kinds[rng.choice(5, p=[0.3, 0.28, 0.22, 0.1, 0.1])], tone), u, s, 0.01, turn)
        )
        scene.taken.append((u, s, 2.3))
