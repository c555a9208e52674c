"""Light transport for the street with Mitsuba 3: pictures, and labels from one ray through each pixel centre."""

import os
from pathlib import Path

import numpy as np
from street_mesh import Mesh, merge
from street_scene import Camera, Scene
from street_textures import Material, sky

WIDTH, HEIGHT = 640, 360
SAMPLES, DEPTH = 8, 3  # per pixel; path length


def find_llvm() -> str | None:
    """An LLVM that Dr.Jit works with: 17 or newer (15 and 16 abort the process on a render), or DRJIT_LIBLLVM_PATH."""
    if os.environ.get("DRJIT_LIBLLVM_PATH"):
        return os.environ["DRJIT_LIBLLVM_PATH"]
    roots = [Path("/usr/lib"), Path("/usr/local/lib"), Path("/opt/homebrew/opt/llvm/lib")]
    folders = [f for root in roots for f in (root, *root.glob("*-linux-*"), *root.glob("llvm*/lib"))]
    names = [n for v in (21, 20, 19, 18, 17) for n in (f"libLLVM.so.{v}.1", f"libLLVM-{v}.so", f"libLLVM.{v}.dylib")]
    return next((str(f / n) for n in names for f in folders if (f / n).exists()), None)


LLVM = find_llvm()
if LLVM:
    os.environ["DRJIT_LIBLLVM_PATH"] = LLVM  # read when mitsuba is imported
import drjit as dr  # noqa: E402
import mitsuba as mi  # noqa: E402
import mitsuba_oidn  # noqa: E402

mi.set_variant("llvm_ad_rgb" if LLVM else "scalar_rgb")
Transform = mi.ScalarTransform4f


def render(scene: Scene, seed: int, samples: int = SAMPLES) -> tuple[np.ndarray, np.ndarray]:
    """Picture uint8 [H, W, 3] and class indices uint8 [H, W] of a scene."""
    rng = np.random.default_rng([5, seed])
    world, classes = _world(scene.parts)
    world["sky"] = {
        "type": "envmap",
        "bitmap": mi.Bitmap(sky(rng, scene.weather, scene.sun)),
        "to_world": Transform().rotate([1, 0, 0], 90),
    }
    irradiance = [float(x) for x in scene.weather["light"]]
    world["sun"] = {
        "type": "directional",
        "direction": [-float(x) for x in scene.sun],
        "irradiance": {"type": "rgb", "value": irradiance},
    }
    world["integrator"] = {"type": "path", "max_depth": DEPTH, "rr_depth": 99}
    loaded, sensor = mi.load_dict(world, optimize=False), _sensor(scene.camera)  # optimising would merge meshes
    colour = np.array(mi.render(loaded, sensor=sensor, spp=samples, seed=seed), dtype=np.float32)
    surfaces = mi.load_dict(
        {"type": "aov", "aovs": "albedo:albedo,normal:sh_normal"}
    )  # apart: together costs twice as much
    guides = np.array(mi.render(loaded, sensor=sensor, spp=samples, seed=seed, integrator=surfaces), dtype=np.float32)
    albedo, normal = (np.ascontiguousarray(guides[..., i : i + 3]) for i in (0, 3))
    clean = np.asarray(mitsuba_oidn.denoise(colour, albedo=np.clip(albedo, 0, 1), normal=normal, hdr=True))
    label, distance = _cast(loaded, sensor, classes)
    return clear_edges(_develop(_haze(clean, distance, scene.weather)), label), label


def look(parts, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Class index and distance at every pixel centre, [H, W] each, without light; sky is class 0, infinitely far."""
    world, classes = _world(parts)
    world["integrator"] = {"type": "path"}
    return _cast(mi.load_dict(world, optimize=False), _sensor(camera), classes)


def _world(parts) -> tuple[dict, dict[str, int]]:
    """A Mitsuba scene of one mesh for each class and material, and the class of each mesh id."""
    groups: dict[tuple[int, Material], list[Mesh]] = {}
    for c, m, material in parts:
        groups.setdefault((c, material), []).append(m)
    world, classes = {"type": "scene"}, {}
    for i, ((c, material), meshes) in enumerate(groups.items()):
        name = f"mesh{i:03d}"
        world[name] = _mesh(name, merge(meshes), material)
        classes[name] = c
    return world, classes


def _mesh(name: str, m: Mesh, material: Material):
    properties = mi.Properties()
    properties["bsdf"] = mi.load_dict({"type": "twosided", "inner": _bsdf(material)})
    out = mi.Mesh(name, len(m.v), len(m.f), has_vertex_normals=False, has_vertex_texcoords=True, props=properties)
    if material.colour is None:
        out.add_attribute("vertex_color", 3, m.rgb.astype(np.float32).ravel())
    values = mi.traverse(out)
    values["vertex_positions"] = m.v.astype(np.float32).ravel()
    values["faces"] = m.f.astype(np.uint32).ravel()
    values["vertex_texcoords"] = (m.uv * np.asarray(material.repeat)).astype(np.float32).ravel()
    values.update()
    return out


def _bsdf(material: Material) -> dict:
    def bitmap(a):
        return {"type": "bitmap", "bitmap": mi.Bitmap(np.ascontiguousarray(a, dtype=np.float32)), "raw": True}

    colour = (
        {"type": "mesh_attribute", "name": "vertex_color"} if material.colour is None else bitmap(material.colour[::-1])
    )
    shine = (
        material.roughness if np.isscalar(material.roughness) else bitmap(np.asarray(material.roughness)[::-1, :, None])
    )
    out = {"type": "principled", "base_color": colour, "roughness": shine, "specular": material.specular}
    if material.metallic:
        out["metallic"] = material.metallic
    if material.coat:
        out |= {"clearcoat": material.coat, "clearcoat_gloss": 0.95}
    return out


def _sensor(camera: Camera):
    at = [float(x) for x in camera.at]
    target = [float(x) for x in camera.at + camera.forward]
    return mi.load_dict({
        "type": "perspective",
        "fov": camera.fov,
        "near_clip": 0.05,
        "to_world": Transform().look_at(origin=at, target=target, up=[0, 0, 1]),
        "film": {
            "type": "hdrfilm", "width": WIDTH, "height": HEIGHT, "pixel_format": "rgb", "component_format": "float32",
            "rfilter": {"type": "box"},  # the denoiser needs pixels that share no samples
        },
        "sampler": {"type": "independent"},
    })  # fmt: skip


def _cast(loaded, sensor, classes: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Class index and distance at every pixel centre; sky is class 0 at an infinite distance."""
    if not LLVM:
        return _cast_one_by_one(loaded, sensor, classes)
    i = dr.arange(mi.UInt32, WIDTH * HEIGHT)
    y = i // WIDTH
    centre = mi.Point2f((mi.Float(i - y * WIDTH) + 0.5) / WIDTH, (mi.Float(y) + 0.5) / HEIGHT)
    ray, _ = sensor.sample_ray(0.0, 0.0, centre, mi.Point2f(0.5, 0.5))
    hit = loaded.ray_intersect(ray)
    number = np.array(dr.reinterpret_array(mi.UInt32, hit.shape))
    table = np.zeros(number.max() + 1, np.uint8)
    for shape in loaded.shapes():
        k = int(dr.reinterpret_array(mi.UInt32, mi.ShapePtr(shape))[0])
        if k < len(table):
            table[k] = classes[shape.id()]
    shape = (HEIGHT, WIDTH)
    return table[number].reshape(shape), np.array(hit.t).reshape(shape)


def _cast_one_by_one(loaded, sensor, classes):
    label, distance = np.zeros((HEIGHT, WIDTH), np.uint8), np.full((HEIGHT, WIDTH), np.inf)
    for y in range(HEIGHT):
        for x in range(WIDTH):
            ray, _ = sensor.sample_ray(0, 0, mi.Point2f((x + 0.5) / WIDTH, (y + 0.5) / HEIGHT), mi.Point2f(0.5, 0.5))
            hit = loaded.ray_intersect(ray)
            if hit.is_valid():
                label[y, x], distance[y, x] = classes[hit.shape.id()], hit.t
    return label, distance


def _haze(colour, distance, weather) -> np.ndarray:
    """Air between the camera and things: they fade towards the horizon's colour."""
    left = np.where(np.isfinite(distance), np.exp(-weather["haze"] * np.where(np.isfinite(distance), distance, 0)), 1)
    return colour * left[..., None] + np.asarray(weather["horizon"]) * 0.9 * (1 - left[..., None])


def _develop(linear: np.ndarray) -> np.ndarray:
    """Exposure by the mean of log luminance, a film curve (Narkowicz' fit of ACES), then sRGB."""
    linear = np.clip(linear, 0, None)
    luminance = linear @ (0.2126, 0.7152, 0.0722)
    x = linear * (0.19 / np.exp(np.log(luminance + 1e-3).mean()))
    x = np.clip(x * (2.51 * x + 0.03) / (x * (2.43 * x + 0.59) + 0.14), 0, 1)
    x = np.where(x <= 0.0031308, 12.92 * x, 1.055 * np.maximum(x, 1e-8) ** (1 / 2.4) - 0.055)
    return (x * 255 + 0.5).astype(np.uint8)


def clear_edges(picture: np.ndarray, label: np.ndarray) -> np.ndarray:
    """A picture without the dark specks that haze by pixel centres leaves where sky meets far things.

    A pixel whose centre is sky gets no haze, even where a leaf fills a part of it. What is part sky and part leaf
    cannot be darker than both, so such a pixel is raised to the darkest thing next to it or the darkest open sky.
    """
    height, width = label.shape
    thing = np.pad(label > 0, 1, mode="edge")
    colour = np.where(thing[..., None], np.pad(picture, ((1, 1), (1, 1), (0, 0)), mode="edge"), 255)
    around = [(slice(i, i + height), slice(j, j + width)) for i in range(3) for j in range(3)]
    open_sky = ~np.logical_or.reduce([thing[w] for w in around])
    if not open_sky.any():
        return picture
    darkest = np.percentile(picture[open_sky], 1, axis=0).astype(np.uint8)
    bound = np.minimum(np.minimum.reduce([colour[w] for w in around]).astype(np.uint8), darkest)
    return np.where((label == 0)[..., None], np.maximum(picture, bound), picture)
