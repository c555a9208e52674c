"""The course of a street, the camera on it, and the frame's scene as it is put together."""

from dataclasses import dataclass, field

import numpy as np
from street_mesh import Mesh, sheet
from street_parts import Part


@dataclass
class Camera:
    """A pinhole: `fov` degrees across, at `at`, looking along (heading, pitch) in radians."""

    at: np.ndarray
    heading: float
    pitch: float
    fov: float

    @property
    def forward(self) -> np.ndarray:
        c = np.cos(self.pitch)
        return np.array([c * np.cos(self.heading), c * np.sin(self.heading), np.sin(self.pitch)])

    def project(self, points: np.ndarray, width: int, height: int) -> np.ndarray:
        """Pixels (x, y) and depth along the axis [n, 3] of points [n, 3]."""
        f = self.forward
        right = np.array([np.sin(self.heading), -np.cos(self.heading), 0])
        q = points - self.at
        depth = q @ f
        scale = width / 2 / np.tan(np.radians(self.fov) / 2) / np.maximum(depth, 1e-6)
        return np.stack([width / 2 + q @ right * scale, height / 2 - q @ np.cross(right, f) * scale, depth], 1)


@dataclass
class Scene:
    """Everything that a frame needs."""

    parts: list[Part]
    camera: Camera
    weather: dict
    sun: np.ndarray  # unit vector towards it
    street: "Street"
    half: float = 0.0  # metres from the centre line to the kerb
    pavement: float = 0.0  # and from there to the lots
    taken: list = field(default_factory=list)  # (u, s, radius) of what already stands on the ground
    about: dict = field(default_factory=dict)


class Street:
    """A centre line that may bend and rise. u is metres to the left of it, s metres along it, z above it."""

    def __init__(self, rng):
        self.grid = np.arange(-40, 400, 0.5)
        bend = rng.choice([0.0, 1.0], p=[0.3, 0.7]) * rng.choice([-1, 1]) / rng.uniform(45, 170)
        turn = bend * np.clip(self.grid - rng.uniform(0, 30), 0, 80)
        self.turn = np.convolve(np.pad(turn, 20, "edge"), np.ones(41) / 41, "valid")
        self.x, self.y = (np.cumsum(f(self.turn)) * 0.5 for f in (np.cos, np.sin))
        self.x, self.y = self.x - self.x[80], self.y - self.y[80]
        rise = rng.choice([0.0, 1.0], p=[0.5, 0.5]) * rng.uniform(-0.8, 2.0)
        t = np.clip((self.grid - 12) / rng.uniform(60, 110), 0, 1)
        self.z = rise * t * t * (3 - 2 * t)

    def heading(self, s):
        return np.interp(s, self.grid, self.turn)

    def at(self, u, s, z=0.0) -> np.ndarray:
        """World points [..., 3]."""
        h = self.heading(s)
        x, y, rise = (np.interp(s, self.grid, c) for c in (self.x, self.y, self.z))
        return np.stack(np.broadcast_arrays(x - u * np.sin(h), y + u * np.cos(h), rise + z), -1)

    def put(self, parts: list[Part], u, s, z=0.0, turn=0.0, scale=1.0) -> list[Part]:
        """Parts moved to (u, s), turned by `turn` from the direction of the street."""
        at, h = self.at(u, s, z), float(self.heading(s)) + turn
        return [(c, m.moved(at, h, scale), material) for c, m, material in parts]

    def strip(self, across, s0: float, s1: float, step: float = 2.0) -> Mesh:
        """A band from s0 to s1 whose cross-section is the line through points (u, z); textured in metres."""
        across = np.asarray(across, float)
        s = np.linspace(s0, s1, max(2, int((s1 - s0) / step) + 1))
        along = np.r_[0, np.cumsum(np.linalg.norm(np.diff(across, axis=0), axis=1))] + across[0, 0]
        grid = self.at(across[:, 0][None], s[:, None], across[:, 1][None])
        uv = np.stack(np.broadcast_arrays(along[None], s[:, None]), -1)
        return sheet(grid, uv)
