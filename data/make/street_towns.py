"""Four towns and seven kinds of weather: what is built, planted and parked where, and in which light.

The two training towns (t1, t2) and the two test towns (t5, t6) differ in facades, layout and light: the test
split is a change of domain as well as the place of the anomalies, as in the real set.
"""

from functools import cache

import numpy as np
from street_textures import Material, courses, facade, grain, shopfront


def _front(kind, wall, window, frame, trim=1.25, panes=2, shutter=None, shops=0.4):
    return dict(kind=kind, wall=wall, window=window, frame=frame, trim=trim, panes=panes, shutter=shutter, shops=shops)


WHITE, DARK = (0.62, 0.61, 0.58), (0.03, 0.03, 0.032)

TOWNS = {
    "t1": dict(  # brick terraces with pitched roofs
        fronts=[
            _front("brick", (0.30, 0.12, 0.075), (0.36, 0.54), WHITE),
            _front("brick", (0.22, 0.09, 0.06), (0.32, 0.5), WHITE, 1.5),
            _front("brick", (0.38, 0.26, 0.15), (0.4, 0.5), DARK, 1.3),
            _front("plaster", (0.55, 0.51, 0.42), (0.34, 0.5), WHITE, 1.2),
            _front("plaster", (0.50, 0.42, 0.28), (0.36, 0.54), (0.08, 0.05, 0.03), 1.2),
            _front("plaster", (0.34, 0.40, 0.44), (0.34, 0.52), WHITE, 1.4),
        ],
        floors=(1, 2), pitched=0.75, balcony=0.06, setback=(0.5, 6.0), roof=(0.16, 0.07, 0.05),
        lots=dict(house=0.28, wall=0.22, fence=0.28, park=0.22), trees=("broad",), street_trees=5,
        fence=("pickets", "railings"), wall=("brick", (0.30, 0.13, 0.08)), lamp=("arm",), poles=0.35,
        lane=3.3, lanes=(2, 2), pavement=(2.0, 3.2), yellow=0.0, slab=(0.33, 0.32, 0.30),
        cars=6, people=(1, 5), junction=0.6,
    ),
    "t2": dict(  # the centre: flat roofs, shops, wide roads
        fronts=[
            _front("stone", (0.47, 0.44, 0.38), (0.42, 0.62), (0.2, 0.2, 0.2), 1.2, 2, None, 0.7),
            _front("panel", (0.50, 0.50, 0.50), (0.74, 0.5), DARK, 0.9, 3, None, 0.7),
            _front("panel", (0.33, 0.36, 0.39), (0.62, 0.56), WHITE, 1.1, 2, None, 0.6),
            _front("plaster", (0.58, 0.55, 0.50), (0.5, 0.5), (0.25, 0.25, 0.26), 1.1, 2, None, 0.7),
            _front("stone", (0.40, 0.31, 0.24), (0.4, 0.66), (0.05, 0.09, 0.06), 1.35, 2, None, 0.8),
            _front("brick", (0.36, 0.20, 0.13), (0.56, 0.56), DARK, 1.1, 3, None, 0.7),
        ],
        floors=(1, 4), pitched=0.05, balcony=0.2, setback=(0.5, 5.0), roof=(0.2, 0.2, 0.2),
        lots=dict(house=0.28, wall=0.22, fence=0.26, park=0.24), trees=("broad", "column"), street_trees=4,
        fence=("railings", "pickets"), wall=("plaster", (0.42, 0.41, 0.38)), lamp=("double",), poles=0.0,
        lane=3.5, lanes=(2, 4), pavement=(2.8, 4.0), yellow=0.0, slab=(0.38, 0.36, 0.34),
        cars=8, people=(2, 7), junction=0.7,
    ),
    "t5": dict(  # the south: ochre and stone, shutters and balconies, palms, low light
        fronts=[
            _front("plaster", (0.62, 0.42, 0.20), (0.28, 0.6), WHITE, 1.25, 2, (0.05, 0.14, 0.09), 0.35),
            _front("plaster", (0.58, 0.30, 0.20), (0.3, 0.58), (0.3, 0.2, 0.12), 1.2, 2, (0.16, 0.08, 0.04), 0.35),
            _front("plaster", (0.66, 0.60, 0.48), (0.28, 0.56), WHITE, 1.1, 2, (0.06, 0.12, 0.24), 0.3),
            _front("stone", (0.50, 0.42, 0.30), (0.3, 0.56), (0.2, 0.12, 0.07), 1.2, 2, (0.2, 0.16, 0.12), 0.3),
            _front("stone", (0.42, 0.35, 0.27), (0.26, 0.5), (0.1, 0.07, 0.05), 1.3, 1, None, 0.2),
        ],
        floors=(1, 2), pitched=0.35, balcony=0.5, setback=(0.0, 5.0), roof=(0.34, 0.15, 0.08),
        lots=dict(house=0.28, wall=0.28, fence=0.22, park=0.22), trees=("palm", "column"), street_trees=4,
        fence=("mesh",), wall=("stone", (0.46, 0.39, 0.29)), lamp=("lantern",), poles=0.6,
        lane=3.1, lanes=(2, 2), pavement=(1.6, 2.6), yellow=0.8, slab=(0.40, 0.35, 0.28),
        cars=5, people=(0, 0), junction=0.45,
    ),
    "t6": dict(  # the new outskirts: dark panels and glass, conifers, concrete, rain
        fronts=[
            _front("panel", (0.10, 0.11, 0.12), (0.84, 0.78), (0.12, 0.12, 0.13), 0.8, 2, None, 0.4),
            _front("panel", (0.24, 0.25, 0.25), (0.9, 0.42), DARK, 0.8, 4, None, 0.3),
            _front("panel", (0.30, 0.18, 0.10), (0.5, 0.7), DARK, 0.8, 1, None, 0.3),
            _front("stone", (0.20, 0.20, 0.21), (0.7, 0.5), WHITE, 0.8, 3, None, 0.3),
            _front("plaster", (0.60, 0.61, 0.62), (0.66, 0.44), DARK, 0.9, 1, None, 0.2),
        ],
        floors=(1, 5), pitched=0.0, balcony=0.3, setback=(1.0, 8.0), roof=(0.08, 0.08, 0.085),
        lots=dict(house=0.28, wall=0.20, fence=0.26, park=0.26), trees=("conifer",), street_trees=4,
        fence=("boards", "mesh"), wall=("panel", (0.36, 0.36, 0.35)), lamp=("arm",), poles=0.0,
        lane=3.7, lanes=(2, 4), pavement=(1.8, 3.0), yellow=0.35, slab=(0.27, 0.27, 0.27),
        cars=5, people=(0, 0), junction=0.5,
    ),
}  # fmt: skip
PEDESTRIAN_CHANCE = 0.12  # of a test frame to hold one

#: sun: elevation in degrees and irradiance; sky: colours and clouds (see street_textures.sky); haze: per metre
WEATHER = {
    "clear": dict(sun=(32, 62), light=(4.6, 4.3, 3.9), zenith=(0.14, 0.25, 0.50), horizon=(0.55, 0.68, 0.85),
                  warm=(1.0, 0.9, 0.7), glow=1.0, falloff=0.5, clear=2.2, cloud=(0.9, 0.9, 0.92),
                  cloud_size=0.10, haze=0.0008, wet=0.0),
    "scattered": dict(sun=(28, 58), light=(4.4, 4.1, 3.7), zenith=(0.15, 0.27, 0.51), horizon=(0.55, 0.68, 0.84),
                      warm=(1.0, 0.9, 0.7), glow=0.9, falloff=0.5, clear=0.35, cloud=(1.05, 1.04, 1.04),
                      cloud_size=0.13, haze=0.001, wet=0.0),
    "overcast": dict(sun=(40, 70), light=(0.25, 0.25, 0.25), zenith=(0.52, 0.56, 0.62), horizon=(0.62, 0.65, 0.69),
                     warm=(0.3, 0.3, 0.3), glow=0.5, falloff=0.7, clear=-0.6, cloud=(0.62, 0.64, 0.68),
                     cloud_size=0.09, haze=0.003, wet=0.0),
    "after rain": dict(sun=(25, 50), light=(2.6, 2.5, 2.35), zenith=(0.22, 0.32, 0.52), horizon=(0.58, 0.66, 0.76),
                       warm=(0.8, 0.75, 0.65), glow=0.8, falloff=0.55, clear=-0.15, cloud=(0.72, 0.73, 0.77),
                       cloud_size=0.11, haze=0.002, wet=0.55),
    "low sun": dict(sun=(11, 20), light=(4.6, 3.0, 1.7), zenith=(0.14, 0.22, 0.42), horizon=(0.85, 0.62, 0.42),
                    warm=(1.6, 0.9, 0.4), glow=1.2, falloff=0.42, clear=0.75, cloud=(1.1, 0.85, 0.68),
                    cloud_size=0.08, haze=0.003, wet=0.0),
    "hazy": dict(sun=(28, 50), light=(2.9, 2.55, 2.05), zenith=(0.36, 0.45, 0.56), horizon=(0.82, 0.78, 0.68),
                 warm=(1.0, 0.85, 0.6), glow=1.4, falloff=0.5, clear=2.5, cloud=(0.9, 0.85, 0.8),
                 cloud_size=0.1, haze=0.0055, wet=0.0),
    "rain": dict(sun=(40, 60), light=(0.06, 0.06, 0.065), zenith=(0.34, 0.38, 0.44), horizon=(0.44, 0.48, 0.53),
                 warm=(0.1, 0.1, 0.1), glow=0.3, falloff=0.8, clear=-1.2, cloud=(0.36, 0.39, 0.44),
                 cloud_size=0.07, haze=0.007, wet=1.0),
}  # fmt: skip
#: The weather of each town, drawn at random; half of the test weather was never seen in training.
CLIMATE = {
    "t1": ("clear", "scattered", "scattered", "overcast", "after rain"),
    "t2": ("clear", "scattered", "overcast", "clear", "after rain"),
    "t5": ("low sun", "hazy", "clear", "low sun", "scattered", "clear"),
    "t6": ("rain", "overcast", "after rain", "rain", "hazy"),
}


def _seed(town: str, *more: int) -> np.random.Generator:
    return np.random.default_rng([29, sum(map(ord, town)), *more])


@cache
def fronts(town: str) -> list[tuple[Material, Material]]:
    """Facade and ground floor of each kind of building of a town; two of each kind."""
    out = []
    for i, style in enumerate(TOWNS[town]["fronts"] * 2):
        rng = _seed(town, i)
        upper, lower = facade(rng, style), shopfront(rng, style)
        out.append(
            (
                Material(*upper, specular=0.6, repeat=(1 / 12, 1 / 12)),
                Material(*lower, specular=0.6, repeat=(1 / 12, 1 / 3.6)),
            )
        )
    return out


@cache
def surfaces(town: str) -> dict[str, Material]:
    """The other surfaces of a town: roof, wall, slabs, kerb, grass, soil, and paint on the road."""
    t, rng = TOWNS[town], _seed(town, 99)
    kind, tone = t["wall"]
    wall = {
        "brick": lambda: courses(rng, tone, (0.4, 0.38, 0.35), 26, 8),
        "stone": lambda: courses(rng, tone, (0.2, 0.17, 0.13), 9, 5, vary=0.3),
        "panel": lambda: courses(rng, tone, np.asarray(tone) * 0.4, 2, 1, vary=0.06),
        "plaster": lambda: grain(rng, tone, 0.12, 256, 1.9),
    }[kind]()
    paint = (0.58, 0.40, 0.06) if rng.random() < t["yellow"] else (0.62, 0.62, 0.6)
    worn = np.clip(1 - 0.35 * np.clip(grain(rng, (0.5,) * 3, 0.8, 256, 1.2) * 2 - 1.2, 0, 1), 0, 1)
    return {
        "roof": Material(courses(rng, t["roof"], np.asarray(t["roof"]) * 0.45, 24, 24), repeat=(0.2, 0.2)),
        "wall": Material(wall, repeat=(0.5, 0.5)),
        "slab": Material(
            courses(rng, t["slab"], np.asarray(t["slab"]) * 0.5, 4, 4, vary=0.1), roughness=0.75, repeat=(0.4, 0.4)
        ),
        "kerb": Material(
            courses(rng, np.asarray(t["slab"]) * 1.25, np.asarray(t["slab"]) * 0.6, 1, 1, vary=0), repeat=(1.0, 1.0)
        ),
        "grass": Material(
            grain(rng, (0.075, 0.115, 0.03), 0.4, 256, 1.1), roughness=0.95, specular=0.1, repeat=(0.25, 0.25)
        ),
        "gravel": Material(
            grain(rng, (0.24, 0.21, 0.17), 0.25, 256, 0.7), roughness=0.95, specular=0.1, repeat=(0.4, 0.4)
        ),
        "paint": Material((worn * np.asarray(paint)).astype(np.float32), roughness=0.7, repeat=(0.6, 0.3)),
    }
