"""data/make/movi*: the geometry of the stand-in, and whether the shipped records are what their card says they are."""

import importlib.util
import io
import itertools
import json
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lib import ROOT

sys.path.insert(0, str(ROOT / "data" / "make"))

import movi
import movi_card as card
import movi_geometry as geometry
import movi_physics as physics
import movi_records as shards
import movi_render as render


def needs(*modules: str):
    """Skips where the environment of data/make/requirements.txt is not installed."""
    missing = [m for m in modules if importlib.util.find_spec(m) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed: data/make/requirements.txt")


def lone(shape: int, size: int = 1, at=(0.0, 0.0, 0.7), turn=(1.0, 0, 0, 0), count: int = 1, **fields):
    """A scene of equal objects that stand still."""
    still = {"positions": at, "quaternions": turn, "velocities": (0, 0, 0), "angular_velocities": (0, 0, 0)}
    tracks = {k: np.broadcast_to(np.float32(v), (count, geometry.FRAMES, len(v))) for k, v in still.items()}
    labels = {"shape": shape, "size": size, "colour": 0, "material": 0}
    labels = {k: np.full(count, v) for k, v in labels.items()}
    known = {**labels, **tracks, "camera": np.float32(physics.CAMERA + 0.5), "lamps": physics.LAMPS + 0.5, **fields}
    return geometry.Scene(**known)


unit = st.floats(-1, 1, allow_subnormal=False)
quaternions = st.tuples(unit, unit, unit, unit).filter(lambda q: sum(x * x for x in q) > 0.1)


@given(quaternions)
def test_rotations_are_rotations(q):
    m = geometry.rotation(np.array(q))
    assert np.allclose(m @ m.T, np.eye(3), atol=1e-12) and np.isclose(np.linalg.det(m), 1)


@given(st.floats(3, 9), st.floats(-9, -3), st.floats(1, 8))
def test_the_camera_quaternion_turns_like_the_camera(x, y, z):
    axes = geometry.camera_axes(np.array([x, y, z]))
    assert np.allclose(geometry.rotation(geometry.camera_quaternion(np.array([x, y, z]))), axes, atol=1e-9)
    assert np.allclose(axes[:, 2], np.array([x, y, z]) / np.linalg.norm([x, y, z]))  # it looks along -z, at the origin
    assert axes[2, 0] == 0 and axes[2, 1] > 0  # level, and upright


def test_the_origin_is_in_the_middle_and_up_is_up():
    camera = np.array([7.9, -6.0, 5.8])
    assert np.allclose(geometry.project(np.zeros(3), camera), 0.5)
    assert geometry.project(np.array([0, 0, 1.0]), camera)[1] < 0.45


@given(st.tuples(*[st.floats(-2, 2)] * 3), st.integers(0, 2))
def test_distances_are_those_of_rounded_solids(point, shape):
    p = np.array(point)
    core = 1 - geometry.BEVEL
    if shape == 0:
        inner = np.clip(p, -core, core)
    elif shape == 1:
        radius = np.hypot(p[0], p[1])
        inner = np.append(p[:2] * min(1, core / max(radius, 1e-12)), np.clip(p[2], -core, core))
    else:
        inner = p * min(1, core / max(np.linalg.norm(p), 1e-12))
    there = geometry.signed_distance(p[None], np.array([shape]))[0]
    gap = np.linalg.norm(p - inner)
    assert there == pytest.approx(gap - geometry.BEVEL, abs=1e-9) if gap > 0 else there <= -geometry.BEVEL


@settings(max_examples=25, deadline=None)
@given(st.floats(-2, 2), st.floats(-2, 2), st.floats(0.5, 3), quaternions)
def test_a_sphere_covers_the_pixels_that_see_it(x, y, z, turn):
    scene = lone(2, at=(x, y, z), turn=turn)
    mask = geometry.cast_masks(scene, [0])[0]
    camera = scene.camera.astype(float)
    at = (np.stack(np.meshgrid(*[(np.arange(128) + 0.5) / 128 - 0.5] * 2), -1)) * 32 / 35
    rays = np.concatenate([at * [1, -1], -np.ones((128, 128, 1))], -1) @ geometry.camera_axes(camera).T
    away = scene.positions[0, 0].astype(float) - camera
    cosine = rays @ away / np.linalg.norm(rays, axis=-1) / np.linalg.norm(away)
    sine = np.sqrt(1 - cosine**2) * np.linalg.norm(away)
    sure = abs(sine - 0.7) > 1e-6
    assert np.array_equal((mask == 1)[sure], (sine < 0.7)[sure])


@pytest.mark.parametrize("shape", range(3))
def test_the_nearer_object_hides_the_farther(shape):
    scene = lone(shape, count=2)
    positions = scene.positions.copy()
    positions[1] = scene.camera * 0.3  # between the camera and object 1
    front = geometry.cast_masks(geometry.Scene(**{**vars(scene), "positions": positions}), [0])[0]
    assert (front == 2).sum() > 300 and front[64, 64] == 2
    assert (geometry.cast_masks(scene.take(np.array([0])), [0])[0] == 1).sum() > (front == 1).sum()


# ------------------------------------------------------------------------------------------------ the shipped records


@pytest.fixture(scope="module")
def records():
    """Every record, by split."""
    return {split: list(shards.read(movi.HOME, split)) for split in movi.SPLITS}


def each(records):
    """Every record with the split and index that it was made for."""
    return [(split, index, record) for split in records for index, record in enumerate(records[split])]


def images(record: dict, key: str, frames) -> np.ndarray:
    return np.stack([np.asarray(Image.open(io.BytesIO(record[key][k]))) for k in frames])


def scene_of(record: dict) -> geometry.Scene:
    """The scene that a record describes; where the lamps were is not in it."""
    n = len(record["instances/shape_label"])
    names = {"shape": "shape", "size": "size", "colour": "color", "material": "material"}
    tracks = ("positions", "quaternions", "velocities", "angular_velocities")
    return geometry.Scene(
        **{ours: record[f"instances/{theirs}_label"] for ours, theirs in names.items()},
        **{x: record[f"instances/{x}"].reshape(n, geometry.FRAMES, -1) for x in tracks},
        camera=record["camera/positions"][:3], lamps=physics.LAMPS,
    )  # fmt: skip


def test_files_are_named_counted_and_small():
    info = json.loads((movi.HOME / "dataset_info.json").read_text())
    for split in info["splits"]:
        lengths = [int(n) for n in split["shardLengths"]]
        paths = [movi.HOME / shards.shard_name(split["name"], k, len(lengths)) for k in range(len(lengths))]
        assert lengths == [sum(1 for _ in shards.read_records(path)) for path in paths]
        assert sum(lengths) == movi.SPLITS[split["name"]][0]
        assert int(split["numBytes"]) == sum(path.stat().st_size for path in paths)
    sizes = {path.name: path.stat().st_size for path in movi.HOME.iterdir()}
    assert sum(sizes.values()) <= 16_000_000 and max(sizes.values()) <= 8_000_000
    drawn = [ROOT / "figures" / "movi_a_overview.jpg", *(ROOT / "figures").glob("movi_a_*.jpg")]  # sheets if drawn here
    assert max(path.stat().st_size for path in drawn) < 1_000_000
    assert len([name for name in sizes if "tfrecord" in name]) == sum(len(s["shardLengths"]) for s in info["splits"])


def test_the_card_says_what_the_files_hold():
    text = (movi.HOME / "README.md").read_text()
    block = text.split(card.MARK)[1].split(card.END)[0].strip()
    assert block == card.table(movi.HOME), "run `python data/make/movi.py stats`"


def test_the_card_is_rewritten_between_its_marks_only(tmp_path, monkeypatch):
    monkeypatch.setattr(card, "table", lambda folder: r"new \1")
    (tmp_path / "README.md").write_text(f"before\n{card.MARK}\nold\n{card.END}\nafter\n")
    card.write(tmp_path)
    assert (tmp_path / "README.md").read_text() == f"before\n{card.MARK}\nnew \\1\n{card.END}\nafter\n"
    (tmp_path / "README.md").write_text("nothing")
    with pytest.raises(ValueError, match="0 statistics blocks"):
        card.write(tmp_path)


def test_splits_share_no_seed_and_no_scene(records):
    names = [record["metadata/video_name"][0].decode() for _, _, record in each(records)]
    assert names == [f"{split}-{movi.plan(split, index)[0]}" for split, index, _ in each(records)]
    seeds = [int(name.split("-")[1]) for name in names]
    cameras = {record["camera/positions"][:3].tobytes() for _, _, record in each(records)}
    starts = {record["instances/positions"][:3].tobytes() for _, _, record in each(records)}
    assert len(set(seeds)) == len(cameras) == len(starts) == sum(n for n, _ in movi.SPLITS.values()) == 200


def test_every_record_is_complete_and_consistent(records):
    for split, index, record in each(records):
        _, count, mixed = movi.plan(split, index)
        scene = scene_of(record)
        assert len(scene) == record["metadata/num_instances"][0] == count
        assert len(record["video"]) == len(record["segmentations"]) == record["metadata/num_frames"][0] == 24
        assert set(scene.material.tolist()) == ({0, 1} if mixed else {0})
        for key, table in (("friction", physics.FRICTION), ("restitution", physics.RESTITUTION)):
            assert np.array_equal(record[f"instances/{key}"], np.float32(table[scene.material]))
        volume = np.array([1, np.pi / 4, np.pi / 6])[scene.shape] * np.array([0.7, 1.4])[scene.size] ** 3
        assert np.allclose(record["instances/mass"] / volume, np.array([2.7, 1.1])[scene.material], rtol=1e-5)
        seen = record["instances/visibility"].reshape(count, 24) >= geometry.SEEN
        assert (seen.sum(0) >= 2).all() and (seen.mean(1) >= 0.5).all()
        assert all((seen & (scene.material == m)[:, None]).any(0).all() for m in set(scene.material.tolist()))
        assert (np.diff(record["instances/visibility"].reshape(count, 24).sum(1)) <= 0).all()
        assert np.isfinite(scene.positions).all() and scene.positions[..., 2].min() > 0.3
        assert np.allclose(np.linalg.norm(scene.quaternions, axis=-1), 1, atol=1e-6)
        assert np.allclose(
            record["instances/image_positions"].reshape(count, 24, 2),
            geometry.project(scene.positions, scene.camera), atol=1e-5,
        )  # fmt: skip
        jitter = scene.camera - physics.CAMERA
        assert (jitter >= -1e-6).all() and (jitter <= 1).all()


def test_masks_are_what_the_stored_poses_and_camera_see(records):
    for split, index, record in each(records):
        frame = (7 * index) % 24
        stored = images(record, "segmentations", [frame])
        assert np.array_equal(geometry.cast_masks(scene_of(record), [frame]), stored), f"{split} {index} frame {frame}"


def test_boxes_and_visibility_are_those_of_the_masks(records):
    for _, _, record in each(records)[::8]:
        masks = images(record, "segmentations", range(24))
        count = int(record["metadata/num_instances"][0])
        assert masks.dtype == np.uint8 and masks.shape == (24, 128, 128) and masks.max() <= count
        assert np.array_equal(record["instances/visibility"].reshape(count, 24), geometry.visibility(masks, count))
        flat = record["instances/bboxes/ragged_flat_values"].reshape(-1, 4) * 128
        frames = record["instances/bbox_frames/ragged_flat_values"]
        lengths = record["instances/bboxes/ragged_row_lengths_0"]
        assert np.array_equal(lengths, record["instances/bbox_frames/ragged_row_lengths_0"])
        owner = np.repeat(np.arange(count), lengths)
        assert np.array_equal(lengths, (geometry.visibility(masks, count) > 0).sum(1))
        for box, frame, i in zip(flat, frames, owner, strict=True):
            rows, columns = np.nonzero(masks[frame] == i + 1)
            assert box.tolist() == [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]


def test_a_record_encoded_again_is_the_same(records):
    record = records["validation"][5]
    frames, masks = (images(record, key, range(24)) for key in ("video", "segmentations"))
    again = shards.decode_example(
        shards.encode_example(shards.features("validation-2005", scene_of(record), frames, masks))
    )
    assert again.keys() == record.keys()
    for key in set(record) - {"video", "segmentations"}:
        assert np.array_equal(again[key], record[key]), key
    assert np.array_equal(images(again, "segmentations", range(24)), masks)


def test_packing_says_what_has_not_been_rendered(tmp_path):
    (tmp_path / "train-0000.npz").touch()
    with pytest.raises(FileNotFoundError, match=r"lacks 2 of 3 scenes, train-0001\.npz first"):
        shards.pack(tmp_path, tmp_path / "out", {"train": (3, 1000)})
    assert not (tmp_path / "out").exists()


def test_a_folder_without_shards_says_what_makes_them(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no shard of twins; data/make/movi.py renders"):
        list(shards.read(tmp_path, "twins"))


def spread(frame: np.ndarray, mask: np.ndarray) -> float:
    """Squared distance of colours from the mean colour of their segment, summed over the picture."""
    ids, colours = mask.ravel(), frame.reshape(-1, 3).astype(float)
    n = np.maximum(np.bincount(ids, minlength=11), 1)
    total = np.stack([np.bincount(ids, c, minlength=11) for c in colours.T], 1)
    return float((colours**2).sum() - (total**2 / n[:, None]).sum())


def test_masks_fit_the_frames_best_where_they_are(records):
    shifts = list(itertools.product((-1, 0, 1), repeat=2))
    cost = dict.fromkeys(shifts, 0.0)
    for split in records:
        for record in records[split][::5]:
            frames, masks = (images(record, key, (3, 12, 21)) for key in ("video", "segmentations"))
            for dy, dx in shifts:
                moved = masks[:, 1 + dy : 127 + dy, 1 + dx : 127 + dx]
                cost[dy, dx] += sum(map(spread, frames[:, 1:127, 1:127], moved))
    away = [cost[s] / cost[0, 0] for s in shifts if s != (0, 0)]
    assert min(away) > 1.02, f"a shift by one pixel raises the variance to {min(away):.3f} of what it is"


def test_frames_are_lit_and_not_clipped(records):
    for split, index, record in each(records)[::4]:
        frames = images(record, "video", (0, 12, 23))
        assert 85 < frames.mean() < 165, f"{split} {index}"
        assert (frames == 255).all(-1).mean() < 0.01, f"{split} {index}"


# ------------------------------------------------------------------------------------------ made again from the seed


@needs("mujoco")
@pytest.mark.parametrize("restitution", [0.09, 0.15, 0.21, 0.35, 0.49])  # every product of two of 0.3, 0.7 and 0.5
def test_balls_bounce_as_high_as_they_should(restitution):
    assert physics.bounce(physics.damping_for(restitution)) == pytest.approx(restitution, abs=0.01)


@needs("mujoco")
def test_physics_repeats_bit_for_bit():
    draft = physics.draw(np.random.default_rng(5), 10, True)
    first, second = physics.simulate(draft), physics.simulate(draft)
    for name in first.__dataclass_fields__:
        assert np.array_equal(getattr(first, name), getattr(second, name)), name
    assert not np.array_equal(first.positions[:, 0], first.positions[:, -1])


@needs("mujoco")
@pytest.mark.parametrize(("split", "index"), [("train", 118), ("validation", 3), ("test", 0)])
def test_a_scene_made_again_has_the_same_masks(records, split, index):
    scene, masks, _ = movi.make_scene(split, index)
    record = records[split][index]
    assert np.array_equal(masks, images(record, "segmentations", range(24)))
    stored = scene_of(record)
    for name in ("shape", "size", "colour", "material", "camera"):
        assert np.array_equal(getattr(scene, name), getattr(stored, name)), name
    assert np.allclose(scene.positions, stored.positions, atol=1e-4)


@needs("mujoco")
def test_twins_differ_in_their_materials_alone():
    first, masks, _ = movi.make_scene("twins", 4)
    second, same, _ = movi.make_scene("twins", 5)
    assert movi.plan("twins", 4) == movi.plan("twins", 5) == (5002, 5, True)
    assert np.array_equal(first.material, 1 - second.material) and np.array_equal(masks, same) and len(masks) == 3
    for name in set(first.__dataclass_fields__) - {"material"}:
        assert np.array_equal(getattr(first, name), getattr(second, name)), name
    assert first.positions.shape[1] == len(masks)


def mitsuba_masks(scene: geometry.Scene, frame: int) -> np.ndarray:
    """Masks `[128, 128]` by Mitsuba's own rays through the pixel centres, against the meshes that are rendered."""
    mi = render.load_mitsuba()
    world = mi.load_dict({"type": "scene", **render.bodies(scene, frame)}, optimize=False)
    sensor = render.sensor(scene, 128)
    names = {f"object{i}": i + 1 for i in range(len(scene))}
    out = np.zeros((128, 128), np.uint8)
    if mi.variant().startswith("scalar"):
        for y, x in np.ndindex(128, 128):
            ray, _ = sensor.sample_ray(0, 0, mi.Point2f((x + 0.5) / 128, (y + 0.5) / 128), mi.Point2f(0.5, 0.5))
            hit = world.ray_intersect(ray)
            out[y, x] = names.get(hit.shape.id(), 0) if hit.is_valid() else 0
        return out
    import drjit

    pixel = drjit.arange(mi.UInt32, 128 * 128)
    centre = mi.Point2f((mi.Float(pixel % 128) + 0.5) / 128, (mi.Float(pixel // 128) + 0.5) / 128)
    ray, _ = sensor.sample_ray(0.0, 0.0, centre, mi.Point2f(0.5, 0.5))
    hit = np.array(drjit.reinterpret_array(mi.UInt32, world.ray_intersect(ray).shape)).reshape(128, 128)
    for shape in world.shapes():
        out[hit == int(drjit.reinterpret_array(mi.UInt32, mi.ShapePtr(shape))[0])] = names.get(shape.id(), 0)
    return out


@needs("mitsuba", "mitsuba_oidn", "mujoco")
def test_a_scene_rendered_again_looks_the_same(records):
    scene, masks, _ = movi.make_scene("test", 3)
    seed = movi.plan("test", 3)[0]
    for frame, stored in zip((4, 18), images(records["test"][3], "video", (4, 18)), strict=True):
        again = render.develop(render.render(scene, frame, seed * geometry.FRAMES + frame))
        assert shards.psnr(again, stored) > 33  # the scalar variant draws other samples than the LLVM one
        assert (mitsuba_masks(scene, frame) != masks[frame]).mean() < 0.0005  # its meshes are facetted, our solids not


@needs("mitsuba", "mitsuba_oidn")
def test_metal_mirrors_its_neighbour_and_rubber_does_not():
    positions = np.repeat(np.float32([[0, 0, 0.7], [1.0, -1.3, 0.7]])[:, None], geometry.FRAMES, 1)
    reddest = []
    for material in (0, 1):  # a grey ball and, beside it, a red one of rubber
        pair = lone(2, count=2, positions=positions, material=np.array([material, 1]), colour=np.array([3, 6]))
        ball = geometry.cast_masks(pair, [0])[0] == 1
        colours = [render.render(scene, 0, 1)[ball] for scene in (pair, pair.take(np.array([0])))]
        redness = [c[:, 0] / c.sum(1) for c in colours]
        reddest.append(np.percentile(redness[0] - redness[1], 90))  # rubber takes a faint tint, metal a red image
    assert reddest[0] > 0.04 and reddest[0] > 2 * reddest[1]
