"""Draws a MOVi-A stand-in scene from its seed and simulates it with MuJoCo, bit for bit the same on every repeat."""

import itertools
from functools import cache

import numpy as np
from movi_geometry import EXTENT, FRAMES, RATE, REACH, SHAPES, Scene

# Kubric's MOVi-A worker: what is drawn, and from where.
SPAWN = np.array([[-5.0, -5.0, 1.0], [5.0, 5.0, 5.0]])
SPEED = np.array([[-4.0, -4.0, 0.0], [4.0, 4.0, 0.0]])
CAMERA = np.array([7.48113, -6.50764, 5.34367])
LAMPS = np.array(  # sun, back, key, fill
    [
        [11.6608, -6.62799, 25.8232],
        [-1.1685, 2.64602, 5.81574],
        [6.44671, -2.90517, 4.2584],
        [-4.67112, -4.0136, 3.01122],
    ]
)
# Indexed by material label, then the floor. Bullet, Kubric's engine, multiplies the two of a contact; so do we.
FRICTION = np.array([0.4, 0.8, 0.3])
RESTITUTION = np.array([0.3, 0.7, 0.5])
DENSITY = np.array([2.7, 1.1])  # Kubric's units: mass = density * volume of the unit solid * extent ** 3
VOLUME = np.array([1.0, np.pi / 4, np.pi / 6])  # of a solid one metre from side to side, by shape label

STEP = 1 / 960  # seconds
STIFFNESS = 240.0  # natural frequency of a contact, radians a second: sinks 2 cm at 5 m/s


def draw(rng: np.random.Generator, count: int, mixed: bool) -> Scene | None:
    """A scene of `count` objects before the simulation: every frame holds the start. None where they do not fit."""
    shape, size, colour = rng.integers(3, size=count), rng.integers(2, size=count), rng.integers(8, size=count)
    material = rng.integers(2, size=count) if mixed else np.zeros(count, int)
    reach = REACH[shape] * EXTENT[size] / 2
    placed = np.empty((0, 3))
    for radius in reach:
        for _ in range(200):
            spot = rng.uniform(SPAWN[0] + [radius, radius, 0], SPAWN[1] - radius)
            spot[2] = max(spot[2], radius + 0.02)
            if (np.linalg.norm(placed - spot, axis=1) > reach[: len(placed)] + radius).all():
                placed = np.vstack([placed, spot])
                break
        else:
            return None
    quaternion = rng.normal(size=(count, 4))
    quaternion /= np.linalg.norm(quaternion, axis=1, keepdims=True)
    velocity = rng.uniform(*SPEED, size=(count, 3)) - placed * [1, 1, 0]  # towards the centre

    def still(x):
        return np.repeat(x[:, None], FRAMES, 1)

    return Scene(
        shape, size, colour, material, still(placed), still(quaternion), still(velocity), still(np.zeros((count, 3))),
        camera=(CAMERA + rng.random(3)).astype(np.float32), lamps=LAMPS + rng.random((4, 3)),
    )  # fmt: skip


def mass(scene: Scene) -> np.ndarray:
    """Masses float64 `[n]` in Kubric's units (a metal cube of one metre weighs 2.7)."""
    return DENSITY[scene.material] * VOLUME[scene.shape] * EXTENT[scene.size] ** 3


def _model(scene: Scene, damping):
    """The MuJoCo model of a scene; `damping(restitution)` gives the damping ratio of a contact."""
    import mujoco

    geoms = {
        "cube": "type='box' size='{0} {0} {0}'",
        "cylinder": "type='cylinder' size='{0} {0}'",
        "sphere": "type='sphere' size='{0}'",
    }
    bodies, pairs = [], []
    weights = mass(scene)
    for i in range(len(scene)):
        half = float(EXTENT[scene.size[i]] / 2)
        at, turn = (" ".join(map(repr, map(float, x[i, 0]))) for x in (scene.positions, scene.quaternions))
        bodies.append(
            f"<body pos='{at}' quat='{turn}'><freejoint/><geom name='{i}' mass='{float(weights[i])!r}' contype='0' "
            f"conaffinity='0' {geoms[SHAPES[scene.shape[i]]].format(half)}/></body>"
        )
    kinds = [*scene.material.tolist(), 2]  # the floor comes last
    for i, j in itertools.combinations(range(len(kinds)), 2):
        slide = float(FRICTION[kinds[i]] * FRICTION[kinds[j]])
        ratio = damping(float(RESTITUTION[kinds[i]] * RESTITUTION[kinds[j]]))
        pairs.append(
            f"<pair geom1='{i}' geom2='{j if j < len(scene) else 'floor'}' condim='3' "
            f"friction='{slide!r} {slide!r} 0 0 0' solref='{1 / (STIFFNESS * ratio)!r} {ratio!r}'/>"
        )
    return mujoco.MjModel.from_xml_string(
        f"<mujoco><option timestep='{STEP!r}' gravity='0 0 -9.8' cone='elliptic' impratio='10'/>"
        f"<worldbody><geom name='floor' type='plane' size='0 0 1' contype='0' conaffinity='0'/>{''.join(bodies)}"
        f"</worldbody><contact>{''.join(pairs)}</contact></mujoco>"
    )


def bounce(ratio: float) -> float:
    """Speed after over speed before, of a ball that meets the floor at 5 m/s in a contact of this damping ratio."""
    import mujoco

    ball = {"shape": np.array([2]), "size": np.array([1]), "colour": np.array([0]), "material": np.array([0])}
    path = np.array([[[0, 0, 0.75]]])
    turn = np.array([[[1.0, 0, 0, 0]]])
    model = _model(Scene(**ball, positions=path, quaternions=turn, velocities=path, angular_velocities=path,
                         camera=CAMERA, lamps=LAMPS), lambda _: ratio)  # fmt: skip
    data = mujoco.MjData(model)
    data.qvel[2] = -5
    before = 0.0
    for _ in range(200):
        mujoco.mj_step(model, data)
        if data.qvel[2] < 0:
            before = max(before, -data.qvel[2])
        elif data.ncon == 0:
            return float(data.qvel[2] / before)
    return 0.0


@cache
def damping_for(restitution: float) -> float:
    """The damping ratio whose measured `bounce` is `restitution`: MuJoCo has no such setting, so it is searched for."""
    low, high = 0.02, 2.0
    for _ in range(30):
        ratio = (low + high) / 2
        low, high = (ratio, high) if bounce(ratio) > restitution else (low, ratio)
    return round((low + high) / 2, 4)


def simulate(scene: Scene) -> Scene:
    """The scene 24 frames on, in float32 as the records store it: 2 seconds of rigid bodies on a floor."""
    import mujoco

    model = _model(scene, damping_for)
    data = mujoco.MjData(model)
    count = len(scene)
    data.qvel.reshape(count, 6)[:, :3] = scene.velocities[:, 0]
    tracks = np.zeros((FRAMES, count, 13), np.float64)
    for frame in range(FRAMES):
        mujoco.mj_forward(model, data)
        turn = data.xmat[1:].reshape(count, 3, 3)
        speed = data.qvel.reshape(count, 6)
        spin = np.einsum("nij,nj->ni", turn, speed[:, 3:])  # MuJoCo keeps it in the frame of the body
        tracks[frame] = np.concatenate([data.xpos[1:], data.xquat[1:], speed[:, :3], spin], 1)
        for _ in range(round(1 / RATE / STEP)):
            mujoco.mj_step(model, data)
    position, quaternion, velocity, spin = np.split(tracks.transpose(1, 0, 2).astype(np.float32), [3, 7, 10], -1)
    return Scene(scene.shape, scene.size, scene.colour, scene.material, position, quaternion, velocity, spin,
                 scene.camera, scene.lamps)  # fmt: skip
