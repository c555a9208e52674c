"""What an object would show if nothing stood in front of it: its outline from pose and camera.

MOVi-A stores how many pixels of an object are visible, not how many another one hides. Its solids are convex, so the
outline is the convex hull of a few projected points. Introduced in notebooks/backbone_comparison.ipynb.
"""

from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull
from scipy.spatial.transform import Rotation
from skimage.draw import polygon

from lib.data.movi import SHAPES, SIZES, Scene

#: Keys of the record to ask `MoviDataset` for.
GEOMETRY = (
    "instances/positions",
    "instances/quaternions",
    "camera/positions",
    "camera/quaternions",
    "camera/focal_length",
    "camera/sensor_width",
)
HALF = dict(zip(SIZES, (0.35, 0.7), strict=True))  # metres from the centre to a side, Kubric's MOVi-A


def _circle(height: float, radius: float) -> NDArray[np.float64]:
    turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    return np.column_stack([radius * np.cos(turn), radius * np.sin(turn), np.full(48, height)])


#: Points on the surface of each shape of half extent 1, `[P, 3]`; edges are sharp, the data's are rounded.
SOLIDS = {
    "cube": np.array(list(product((-1.0, 1.0), repeat=3))),
    "cylinder": np.concatenate([_circle(z, 1) for z in (-1, 1)]),
    "sphere": np.concatenate([_circle(z, (1 - z * z) ** 0.5) for z in np.linspace(-1, 1, 25)]),
}


def full_pixels(scene: Scene, frames: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pixels inside the frame that each object would cover if it were alone, `[n, len(frames)]`.

    Args:
        scene: with `shape`, `size`, `masks` and the keys of `GEOMETRY`, whose arrays hold all frames of the record.
        frames: numbers of the frames in the record.

    Raises:
        KeyError: the scene was loaded without `GEOMETRY`.
    """
    count, (height, width) = len(scene.shape), scene.masks.shape[-2:]
    if missing := [key for key in GEOMETRY if key not in scene.extra]:
        raise KeyError(f"scene {scene.name} lacks {missing}; load it with fields=materials.FIELDS")
    positions, quaternions, eyes, views, focal, sensor = (np.asarray(scene.extra[k], float) for k in GEOMETRY)
    positions, quaternions = positions.reshape(count, -1, 3), quaternions.reshape(count, -1, 4)
    eyes, views = eyes.reshape(-1, 3), views.reshape(-1, 4)
    pixels = np.zeros((count, len(frames)), int)
    for k, t in enumerate(frames):
        camera = Rotation.from_quat(views[t], scalar_first=True)
        for i in range(count):
            points = HALF[SIZES[scene.size[i]]] * SOLIDS[SHAPES[scene.shape[i]]]
            world = Rotation.from_quat(quaternions[i, t], scalar_first=True).apply(points) + positions[i, t]
            x, y, back = camera.inv().apply(world - eyes[t]).T  # the camera looks along -z, y is up
            depth = np.maximum(-back, 0.1)
            plane = np.column_stack([-y, x]) / depth[:, None] * (focal[0] / sensor[0]) + 0.5  # rows, columns
            outline = plane[ConvexHull(plane).vertices] * (height, width) - 0.5  # pixel centres are whole numbers
            pixels[i, k] = len(polygon(*outline.T, shape=(height, width))[0])
    return pixels
