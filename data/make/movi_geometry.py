"""The geometry of a MOVi-A stand-in scene: camera, rounded primitives, and masks by exact ray casting in NumPy.

No renderer and no physics engine is needed here, so the shipped masks can be recomputed from the shipped poses on any
machine. Every solid is one formula: a ball, a cylinder or a cube, shrunk by a bevel and grown again by it.
"""

from dataclasses import dataclass, replace

import numpy as np

FRAMES, RATE, SIZE = 24, 12, 128  # frames, frames a second, side in pixels
FOCAL, SENSOR = 35.0, 32.0  # millimetres, as in Kubric's MOVi-A worker
SHAPES = ("cube", "cylinder", "sphere")
SIZES = ("small", "large")
COLOURS = ("blue", "brown", "cyan", "gray", "green", "purple", "red", "yellow")
MATERIALS = ("metal", "rubber")
EXTENT = np.array([0.7, 1.4])  # metres from side to side, indexed by size label
SEEN = 20  # pixels that make an object visible in a frame: a small one covers about 50 in mid-scene
BEVEL = 0.06  # rounding radius as a share of half the extent
REACH = np.sqrt([3.0, 2.0, 1.0])  # circumscribed sphere as a multiple of half the extent, indexed by shape label


@dataclass(frozen=True)
class Scene:
    """One simulated scene; n objects, 24 frames, metres, seconds, quaternions as (w, x, y, z).

    Labels index `SHAPES`, `SIZES`, `COLOURS` and `MATERIALS`. `lamps` holds the positions of sun, back, key and fill.
    """

    shape: np.ndarray  # int [n]
    size: np.ndarray  # int [n]
    colour: np.ndarray  # int [n]
    material: np.ndarray  # int [n]
    positions: np.ndarray  # float32 [n, 24, 3]
    quaternions: np.ndarray  # float32 [n, 24, 4]
    velocities: np.ndarray  # float32 [n, 24, 3]
    angular_velocities: np.ndarray  # float32 [n, 24, 3], world frame
    camera: np.ndarray  # float32 [3]
    lamps: np.ndarray  # float64 [4, 3]

    def __len__(self) -> int:
        return len(self.shape)

    def take(self, order: np.ndarray) -> "Scene":
        """The same scene with its objects in another order, or with some of them only."""
        per_object = [name for name in self.__dataclass_fields__ if name not in ("camera", "lamps")]
        return Scene(**{n: getattr(self, n)[order] for n in per_object}, camera=self.camera, lamps=self.lamps)

    def at(self, moments: slice) -> "Scene":
        """The same scene in some of its frames."""
        moving = ("positions", "quaternions", "velocities", "angular_velocities")
        return replace(self, **{name: getattr(self, name)[:, moments] for name in moving})


def rotation(quaternions: np.ndarray) -> np.ndarray:
    """Rotation matrices float64 `[..., 3, 3]` of quaternions `[..., 4]` (w, x, y, z), normalised first."""
    q = np.asarray(quaternions, np.float64)
    w, x, y, z = np.moveaxis(q / np.linalg.norm(q, axis=-1, keepdims=True), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def camera_axes(position: np.ndarray) -> np.ndarray:
    """Columns right, up, back (float64 `[3, 3]`) of a camera at `position` that looks at the origin, z up."""
    back = np.asarray(position, np.float64) / np.linalg.norm(np.asarray(position, np.float64))
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(back, right), back], -1)


def camera_quaternion(position: np.ndarray) -> np.ndarray:
    """The same orientation as a quaternion float64 `[4]` (w, x, y, z): looking along -z with y up, as Kubric has it."""
    m = camera_axes(position)
    w = np.sqrt(max(1 + np.trace(m), 1e-12)) / 2  # never near zero: the camera only looks down and around
    return np.array([w, *(np.array([m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]]) / (4 * w))])


def project(points: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """Image positions (x, y) `[..., 2]` of points `[..., 3]`: 0..1 inside the frame, y down, as Kubric stores them."""
    local = (np.asarray(points, np.float64) - camera) @ camera_axes(camera)
    plane = local[..., :2] / -local[..., 2:] * (FOCAL / SENSOR)
    return plane * [1, -1] + 0.5


def signed_distance(points: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Distance `[m]` from points `[m, 3]` to a solid of half extent 1; below zero inside. `shape` `[m]` are labels."""
    core = 1 - BEVEL
    x, y, z = np.abs(points).T
    radial = np.sqrt(x * x + y * y)
    ball = np.sqrt(x * x + y * y + z * z)
    # A cube is bounded on three axes, a cylinder on its radius and its height, a sphere on one radius alone.
    a = np.choose(shape, [x, radial, ball]) - core
    b = np.choose(shape, [y, z, 0.0]) - core
    c = np.choose(shape, [z, 0.0, 0.0]) - core
    outside = np.sqrt(np.maximum(a, 0) ** 2 + np.maximum(b, 0) ** 2 + np.maximum(c, 0) ** 2)
    return outside + np.minimum(np.maximum(np.maximum(a, b), c), 0) - BEVEL


def first_hits(origin: np.ndarray, direction: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """How far each ray travels to its solid, `[m]`; infinite where it misses.

    The distance to a convex solid is convex along a ray, so a golden-section search finds its lowest point and a
    bisection in front of that point finds the entry: exact to about 1e-8 of half the extent, with no mesh.

    Args:
        origin: `[m, 3]` in the frame of the solid, in units of half its extent.
        direction: `[m, 3]` unit vectors in that frame.
        shape: int `[m]` shape labels.
    """
    closest = -(origin * direction).sum(1)
    near, far = closest - REACH[shape], closest + REACH[shape]

    def value(t):
        return signed_distance(origin + t[:, None] * direction, shape)

    golden = (np.sqrt(5) - 1) / 2
    low, high = near.copy(), far.copy()
    left, right = high - golden * (high - low), low + golden * (high - low)
    at_left, at_right = value(left), value(right)
    for _ in range(40):
        lower = at_left < at_right
        low, high = np.where(lower, low, left), np.where(lower, right, high)
        new = np.where(lower, high - golden * (high - low), low + golden * (high - low))
        at_new = value(new)
        left, right = np.where(lower, new, right), np.where(lower, left, new)
        at_left, at_right = np.where(lower, at_new, at_right), np.where(lower, at_left, at_new)
    lowest = np.where(at_left < at_right, left, right)
    hit = np.minimum(at_left, at_right) <= 0
    low, high = near, lowest
    for _ in range(30):
        middle = (low + high) / 2
        inside = value(middle) <= 0
        low, high = np.where(inside, low, middle), np.where(inside, middle, high)
    return np.where(hit & (high > 0), high, np.inf)


def cast_masks(scene: Scene, frames: range | list[int] = range(FRAMES), size: int = SIZE) -> np.ndarray:
    """Masks uint8 `[frames, size, size]`, one ray through each pixel centre: 0 background, i+1 object i.

    Used by data/make/movi.py to make the shipped masks and by its tests to make them again from the shipped poses.
    """
    axes, camera = camera_axes(scene.camera), np.asarray(scene.camera, np.float64)
    at = ((np.arange(size) + 0.5) / size - 0.5) * (SENSOR / FOCAL)
    x, y = np.meshgrid(at, -at)
    rays = np.stack([x, y, -np.ones_like(x)], -1) @ axes.T
    rays = (rays / np.linalg.norm(rays, axis=-1, keepdims=True)).reshape(-1, 3)
    half = EXTENT[scene.size] / 2
    masks = np.zeros((len(frames), size * size), np.uint8)
    for k, frame in enumerate(frames):
        offset = scene.positions[:, frame].astype(np.float64) - camera  # [n, 3]
        along = rays @ offset.T  # [pixels, n]
        miss = (offset**2).sum(1) - along**2  # squared distance of the ray from the centre
        pixel, item = np.nonzero((miss < ((REACH * (1 + 1e-9))[scene.shape] * half) ** 2) & (along > 0))
        turn = rotation(scene.quaternions[:, frame])[item]  # object to world
        start = np.einsum("mij,mi->mj", turn, -offset[item]) / half[item, None]
        heading = np.einsum("mij,mi->mj", turn, rays[pixel])
        depth = np.full((len(scene), size * size), np.inf)
        depth[item, pixel] = first_hits(start, heading, scene.shape[item]) * half[item]
        nearest = depth.argmin(0)
        masks[k] = np.where(np.isfinite(depth.min(0)), nearest + 1, 0)
    return masks.reshape(len(frames), size, size)


def visibility(masks: np.ndarray, count: int) -> np.ndarray:
    """Visible pixels int `[count, frames]` of each object in masks `[frames, h, w]`."""
    return np.stack([(masks == i + 1).sum((1, 2)) for i in range(count)])
