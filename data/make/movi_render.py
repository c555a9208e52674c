"""Renders the frames of a MOVi-A stand-in scene with Mitsuba 3: path tracing in a curved studio, then denoising.

Works with the `llvm_ad_rgb` variant where an LLVM library is found, else with `scalar_rgb`, which needs none.
"""

import ctypes.util
import functools
import os
import re

import numpy as np
from movi_geometry import BEVEL, COLOURS, EXTENT, FOCAL, SENSOR, SHAPES, SIZE, Scene, rotation

SAMPLES, DEPTH = 16, 5  # paths a pixel, and their longest
EXPOSURE = 1.6
FLOOR = 0.22  # albedo
# CLEVR's eight colours, sRGB.
RGB = {
    "blue": (42, 75, 215), "brown": (129, 74, 25), "cyan": (41, 208, 208), "gray": (87, 87, 87),
    "green": (29, 105, 20), "purple": (129, 38, 192), "red": (173, 35, 35), "yellow": (255, 238, 51),
}  # fmt: skip
WHITE, WARM, COOL = (255, 255, 255), (255, 237, 208), (194, 208, 255)


def find_llvm() -> str | None:
    """The LLVM library that Mitsuba should load: DRJIT_LIBLLVM_PATH, else the newest that the loader knows, else None.

    LLVM 15 and 16 abort the process in a render ("Cannot select: fminimum"), so nothing older than 17 is taken.
    """
    if given := os.environ.get("DRJIT_LIBLLVM_PATH"):
        return given
    for name in ("LLVM", "LLVM-19", "LLVM-18", "LLVM-17"):
        found = ctypes.util.find_library(name)
        if found and (version := re.search(r"(\d+)", found)) and int(version[1]) >= 17:
            return found
    return None


def load_mitsuba():
    """The Mitsuba module, its variant set unless it was: `llvm_ad_rgb` where LLVM is found, else `scalar_rgb`."""
    llvm = find_llvm()
    if llvm:
        os.environ["DRJIT_LIBLLVM_PATH"] = llvm  # read when Mitsuba is imported
    import mitsuba

    if mitsuba.variant() is None:
        mitsuba.set_variant("llvm_ad_rgb" if llvm else "scalar_rgb")
    return mitsuba


def linear(colour: tuple[int, int, int]) -> np.ndarray:
    """Linear RGB in 0..1 of an sRGB colour in 0..255."""
    c = np.asarray(colour) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def rounded_cube(steps: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices `[v, 3]`, normals `[v, 3]` and triangles `[f, 3]` of the bevelled cube of half extent 1."""
    arc = BEVEL * (1 - np.cos(np.linspace(0, np.pi / 2, steps + 1)))
    ticks = np.concatenate([-1 + arc, 1 - arc[::-1]])
    grid_u, grid_v = np.meshgrid(ticks, ticks, indexing="ij")
    vertices, normals, faces = [], [], []
    corner = np.arange(len(ticks) - 1)[:, None] * len(ticks) + np.arange(len(ticks) - 1)
    for axis in range(3):
        for side in (-1, 1):
            p = np.empty((*grid_u.shape, 3))
            p[..., axis], p[..., (axis + 1) % 3], p[..., (axis + 2) % 3] = side, grid_u, grid_v
            core = np.clip(p, BEVEL - 1, 1 - BEVEL).reshape(-1, 3)
            normal = p.reshape(-1, 3) - core
            normal /= np.linalg.norm(normal, axis=1, keepdims=True)
            a = corner.ravel() + sum(map(len, vertices))
            b, c, d = a + len(ticks), a + len(ticks) + 1, a + 1
            quads = [[a, b, c], [a, c, d]] if side > 0 else [[a, c, b], [a, d, c]]
            faces += [np.stack(q, 1) for q in quads]
            vertices.append(core + BEVEL * normal)
            normals.append(normal)
    return np.concatenate(vertices), np.concatenate(normals), np.concatenate(faces)


def revolve(profile: np.ndarray, around: int = 96) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A surface of revolution about z from a profile `[k, 4]` of radius, height and the normal's two parts."""
    turn = np.linspace(0, 2 * np.pi, around + 1)
    cos, sin = np.cos(turn)[None], np.sin(turn)[None]

    def spin(r, z):
        return np.stack([r[:, None] * cos, r[:, None] * sin, np.repeat(z[:, None], around + 1, 1)], -1).reshape(-1, 3)

    a = (np.arange(len(profile) - 1)[:, None] * (around + 1) + np.arange(around)).ravel()
    b = a + around + 1
    faces = np.concatenate([np.stack([a, b, b + 1], 1), np.stack([a, b + 1, a + 1], 1)])
    return spin(profile[:, 0], profile[:, 1]), spin(profile[:, 2], profile[:, 3]), faces


def rounded_cylinder(steps: int = 6):
    """The bevelled cylinder of half extent 1, as `rounded_cube`."""
    turn = np.linspace(0, np.pi / 2, steps + 1)
    core = 1 - BEVEL
    upper = np.stack([core + BEVEL * np.sin(turn), core + BEVEL * np.cos(turn), np.sin(turn), np.cos(turn)], 1)
    lower = upper[::-1] * [1, -1, 1, -1]
    return revolve(np.concatenate([[[0, 1, 0, 1]], upper, lower, [[0, -1, 0, -1]]]))


def dome(flat: float = 13.0, bend: float = 9.0, top: float = 11.0):
    """The studio: a flat round floor, a quarter-circle bend, a wall, and an open top, in metres."""
    turn = np.linspace(0, np.pi / 2, 33)
    curve = np.stack([flat + bend * np.sin(turn), bend - bend * np.cos(turn), -np.sin(turn), np.cos(turn)], 1)
    return revolve(np.concatenate([[[0, 0, 0, 1]], curve, [[flat + bend, top, -1, 0]]]))


@functools.cache
def mesh(kind: str):
    """The Mitsuba mesh `kind` with its own normals, made once; the caller gives material and place."""
    return {"cube": rounded_cube, "cylinder": rounded_cylinder, "dome": dome}[kind]()


def placed(kind: str, bsdf: dict, matrix: np.ndarray):
    """A Mitsuba shape: mesh `kind` moved by a rigid-and-scale matrix `[4, 4]`; spheres are exact."""
    mi = load_mitsuba()
    if kind == "sphere":
        return {"type": "sphere", "bsdf": bsdf, "to_world": mi.ScalarTransform4f(matrix)}
    vertices, normals, faces = mesh(kind)
    properties = mi.Properties()
    properties["bsdf"] = mi.load_dict(bsdf)
    shape = mi.Mesh(kind, len(vertices), len(faces), has_vertex_normals=True, props=properties)
    parameters = mi.traverse(shape)
    parameters["vertex_positions"] = (vertices @ matrix[:3, :3].T + matrix[:3, 3]).astype(np.float32).ravel()
    turn = matrix[:3, :3] / np.cbrt(np.linalg.det(matrix[:3, :3]))
    parameters["vertex_normals"] = (normals @ turn.T).astype(np.float32).ravel()
    parameters["faces"] = faces.astype(np.uint32).ravel()
    parameters.update()
    return shape


def surface(material: int, colour: int) -> dict:
    """Kubric's two materials: metal of roughness 0.2, and rubber of roughness 0.7 with a weak highlight."""
    base = {"type": "rgb", "value": linear(RGB[COLOURS[colour]]).tolist()}
    if material == 0:
        return {"type": "principled", "base_color": base, "metallic": 1.0, "roughness": 0.2, "specular": 0.5}
    return {"type": "principled", "base_color": base, "metallic": 0.0, "roughness": 0.7, "specular": 0.17}


def lamp(position: np.ndarray, side: float, radiance: float, colour: tuple[int, int, int]) -> dict:
    """A square lamp at `position` that faces the origin; the camera never sees it, mirrors do."""
    mi = load_mitsuba()
    frame = mi.ScalarTransform4f().look_at(origin=list(map(float, position)), target=[0, 0, 0], up=[0, 0, 1])
    return {
        "type": "rectangle",
        "to_world": frame @ mi.ScalarTransform4f().scale([side / 2, side / 2, 1]),
        "emitter": {"type": "area", "radiance": {"type": "rgb", "value": (linear(colour) * radiance).tolist()}},
        "bsdf": {"type": "null"},
    }


def lights(positions: np.ndarray) -> dict:
    """Sun, back, key and fill of CLEVR at `positions` `[4, 3]`, and a dim sky over the open top of the dome."""
    sun = positions[0] / np.linalg.norm(positions[0])
    return {
        "sun": lamp(sun * 60, 12.0, 1.1 / 0.2**2, WHITE),
        "back": lamp(positions[1], 1.0, 50 / np.pi, WHITE),
        "key": lamp(positions[2], 0.5, 100 / (np.pi * 0.25), WARM),
        "fill": lamp(positions[3], 0.5, 30 / (np.pi * 0.25), COOL),
        "sky": {"type": "constant", "radiance": {"type": "rgb", "value": 0.4}},
    }


def bodies(scene: Scene, frame: int) -> dict:
    """The objects of one frame, and the dome around them."""
    grey = {"type": "twosided", "bsdf": {"type": "diffuse", "reflectance": {"type": "rgb", "value": FLOOR}}}
    shapes = {"floor": placed("dome", grey, np.eye(4))}
    for i in range(len(scene)):
        matrix = np.eye(4)
        matrix[:3, :3] = rotation(scene.quaternions[i, frame]) * EXTENT[scene.size[i]] / 2
        matrix[:3, 3] = scene.positions[i, frame]
        look = surface(scene.material[i], scene.colour[i])
        shapes[f"object{i}"] = placed(SHAPES[scene.shape[i]], look, matrix)
    return shapes


def sensor(scene: Scene, size: int):
    """The camera of a scene, with square pixels that average the light that falls on them."""
    mi = load_mitsuba()
    return mi.load_dict({
        "type": "perspective",
        "fov": float(np.degrees(2 * np.arctan(SENSOR / 2 / FOCAL))),
        "to_world": mi.ScalarTransform4f().look_at(origin=scene.camera.tolist(), target=[0, 0, 0], up=[0, 0, 1]),
        "film": {"type": "hdrfilm", "width": size, "height": size, "rfilter": {"type": "box"},
                 "pixel_format": "rgb", "component_format": "float32"},
        "sampler": {"type": "independent"},
    })  # fmt: skip


def render(scene: Scene, frame: int, seed: int, samples: int = SAMPLES, size: int = SIZE, clean: bool = True):
    """One frame, linear RGB float32 `[size, size, 3]`; `clean` removes the noise with Intel's denoiser."""
    mi = load_mitsuba()
    film = sensor(scene, size)
    shapes = bodies(scene, frame)
    path = {"type": "path", "max_depth": DEPTH, "rr_depth": 99, "hide_emitters": True}
    # optimize=False: merging meshes is on by default and mixes their materials up.
    world = mi.load_dict({"type": "scene", "integrator": path, **shapes, **lights(scene.lamps)}, optimize=False)
    light = np.array(mi.render(world, sensor=film, spp=samples, seed=seed))[..., :3]
    if not clean:
        return light
    # A stray path that finds a lamp through a mirror is far too bright, and the denoiser would keep its spark.
    light = np.minimum(light, 2.0)
    # Guides from a scene without lamps: a lamp's square would show in them.
    guides = {"type": "aov", "aovs": "albedo:albedo,normal:sh_normal"}
    world = mi.load_dict({"type": "scene", "integrator": guides, **shapes}, optimize=False)
    seen = np.array(mi.render(world, sensor=film, spp=8, seed=seed))[..., -6:]
    import mitsuba_oidn

    albedo, normal = np.ascontiguousarray(np.clip(seen[..., :3], 0, 1)), np.ascontiguousarray(seen[..., 3:])
    return np.asarray(mitsuba_oidn.denoise(np.ascontiguousarray(light), albedo=albedo, normal=normal, hdr=True))


def develop(light: np.ndarray) -> np.ndarray:
    """Frames uint8 from linear light: exposure, a shoulder above 0.8 that keeps highlights from clipping, sRGB."""
    x = np.maximum(light * EXPOSURE, 0)
    x = np.where(x > 0.8, 0.8 + 0.2 * (1 - np.exp(-(x - 0.8) / 0.2)), x)
    srgb = np.where(x <= 0.0031308, 12.92 * x, 1.055 * np.maximum(x, 1e-9) ** (1 / 2.4) - 0.055)
    return np.round(np.clip(srgb, 0, 1) * 255).astype(np.uint8)
