"""data/make/street*.py: what renders the StreetHazards stand-in. Only the last test needs the renderer itself."""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lib import ROOT
from lib.data.streethazards import ANOMALY, CLASSES, SPLITS

sys.path.insert(0, str(ROOT / "data" / "make"))
import street
import street_mesh as sm
import street_parts
import street_scene
import street_towns
from street_anomalies import KINDS
from street_course import Camera
from street_placing import MARGIN, places


def volume(m) -> float:
    """Signed volume of a closed mesh; positive if its faces look outwards."""
    a, b, c = (m.v[m.f[:, i]].astype(float) for i in range(3))
    return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6)


def closed(m, above: float = -9.0) -> bool:
    """Every edge above a height joins two faces, or four where two surfaces touch."""
    edges = np.sort(np.concatenate([m.f[:, pair] for pair in ([0, 1], [1, 2], [2, 0])]), 1)
    edges, faces = np.unique(edges, axis=0, return_counts=True)
    return bool((faces[m.v[edges, 2].min(1) > above] % 2 == 0).all())


# shapes


@settings(max_examples=15, deadline=None)
@given(st.tuples(*[st.floats(0.3, 1.2)] * 3), st.tuples(*[st.floats(-2, 2)] * 3))
def test_a_solid_is_closed_looks_outwards_and_has_the_right_volume(radii, centre):
    low, high = np.subtract(centre, radii), np.add(centre, radii)
    m = sm.solid([(sm.ball(centre, radii), (1, 0, 0))], low, high, 0.06)
    assert closed(m)
    assert volume(m) == pytest.approx(4 / 3 * np.pi * np.prod(radii), rel=0.05)
    assert (m.v.min(0) > low - 0.05).all() and (m.v.max(0) < high + 0.05).all()


def test_a_vertex_takes_the_colour_of_the_nearest_shape():
    red, top = (1, 0, 0), (0, 1, 0)
    m = sm.solid([(sm.ball((0, 0, 0), 0.5), red), (sm.ball((0, 0, 2), 0.5), lambda p: np.tile(top, (len(p), 1)))],
                 (-1, -1, -1), (1, 1, 3), 0.1)  # fmt: skip
    assert ((m.v[:, 2] > 1) == (m.rgb == top).all(1)).all()


def test_cuts_and_blends():
    shell = sm.less(sm.ball((0, 0, 0), 1), sm.ball((0, 0, 0), 0.7))
    hollow = sm.solid([(shell, (1, 1, 1))], (-1, -1, -1), (1, 1, 1), 0.06)
    assert volume(hollow) == pytest.approx(4 / 3 * np.pi * (1 - 0.343), rel=0.05)
    two = [(sm.ball((x, 0, 0), 0.5), (1, 1, 1)) for x in (-0.55, 0.55)]
    apart, melted = (sm.solid(two, (-1.2, -1, -1), (1.2, 1, 1), 0.05, blend) for blend in (0, 0.5))
    assert volume(melted) > 1.02 * volume(apart)
    assert np.abs(apart.v[:, 0]).min() > 0.03 > np.abs(melted.v[:, 0]).min()


@pytest.mark.parametrize(
    "m, expected",
    [
        (sm.box((0, 0, 0), (1, 2, 3)), 6),
        (sm.tube((0, 0, 0), (0, 1, 2), 0.5, sides=64), np.pi * 0.25 * 5**0.5),
        (sm.tube((1, 0, 0), (1, 0, 3), 1, 0.0001, sides=64), np.pi),
        (sm.box((0, 0, 0), (1, 2, 3)).moved((4, 5, 6), 2.0, 2), 48),
    ],
)
def test_builders_look_outwards(m, expected):
    assert volume(m) == pytest.approx(expected, rel=0.01)


def test_a_moved_mesh_turns_to_the_left():
    m = sm.mesh([(1, 0, 0)], np.zeros((0, 3), int)).moved((10, 0, 5), np.pi / 2)
    assert m.v[0] == pytest.approx((10, 1, 5), abs=1e-6)


# anomalies


@pytest.mark.parametrize("kind", ["beach ball", "pumpkin", "chess piece", "statue", "tent", "sofa", "giraffe"])
def test_an_anomaly_is_a_closed_coloured_thing_on_the_ground_and_different_every_time(kind):
    maker, low, high = KINDS[kind]
    (one, material), (other, _) = (maker(np.random.default_rng(seed)) for seed in (1, 2))
    assert low <= high and closed(one, above=0.0) and volume(one) > 0.02
    assert -0.1 < one.v[:, 2].min() < 0.02 and 0.5 < np.ptp(one.v, axis=0).max() < 4.5
    assert material.colour is None and 0 <= one.rgb.min() and one.rgb.max() <= 1
    assert (one.rgb.std(0) > 0.03 * one.rgb.mean(0)).any(), "it has no texture"
    assert one.v.shape != other.v.shape or (one.rgb != other.rgb).any()


# streets


@pytest.fixture(scope="module")
def scene():
    return street_scene.compose("t5", 6)


def test_classes_are_those_of_the_loader():
    names = "SKY BUILDING FENCE OTHER PERSON POLE LINE ROAD SIDEWALK GREEN CAR WALL SIGN ANOMALY".split()
    assert [getattr(street_parts, name) for name in names] == list(range(len(CLASSES)))
    for ours, theirs in (
        ("BUILDING", "building"),
        ("LINE", "road line"),
        ("GREEN", "vegetation"),
        ("SIGN", "traffic sign"),
    ):
        assert CLASSES[getattr(street_parts, ours)] == theirs
    assert street_parts.ANOMALY == ANOMALY


def test_a_street_follows_from_town_and_seed(scene):
    again, other = street_scene.compose("t5", 6), street_scene.compose("t5", 7)
    assert len(again.parts) == len(scene.parts)
    for (c, m, _), (cc, mm, _) in zip(again.parts, scene.parts, strict=True):
        assert c == cc and (m.v == mm.v).all()
    assert (other.camera.at != scene.camera.at).any()


def test_a_street_is_finite_and_free_of_anomalies(scene):
    classes = {c for c, _, _ in scene.parts}
    assert ANOMALY not in classes and {street_parts.ROAD, street_parts.SIDEWALK, street_parts.BUILDING} <= classes
    for _, m, material in scene.parts:
        assert np.isfinite(m.v).all() and m.f.max() < len(m.v)
        assert (m.rgb is None) <= (material.colour is not None), "a part without any colour"


def test_test_towns_share_no_facade_with_training_towns():
    towns = {split: {town for town, _, _ in street.PLAN[split][2]} for split in SPLITS}
    assert towns["train"] == towns["validation"] and not towns["train"] & towns["test"]
    walls = {s: {str(front) for town in towns[s] for front in street_towns.TOWNS[town]["fronts"]} for s in towns}
    assert not walls["train"] & walls["test"]


def test_plan():
    frames = street.frames()
    assert [sum(f["split"] == s for f in frames) for s in SPLITS] == [120, 30, 60]
    assert len({(f["town"], f["seed"]) for f in frames}) == len(frames), "a validation street is a training street"
    kinds = [f.get("kind") for f in frames if f["split"] == "test"]
    assert set(kinds) == set(KINDS) and not any("kind" in f for f in frames if f["split"] != "test")


def test_camera_projects_as_a_pinhole():
    camera = Camera(np.array([1.0, 2.0, 1.5]), heading=0.3, pitch=-0.1, fov=90)
    ahead = camera.at + 10 * camera.forward
    left, up = np.array([-np.sin(0.3), np.cos(0.3), 0]), np.array([0, 0, 1])
    assert camera.project(ahead[None], 640, 360)[0] == pytest.approx((320, 180, 10))
    assert camera.project((ahead + 10 * left)[None], 640, 360)[0, 0] == pytest.approx(0), "45 degrees is the border"
    assert camera.project((ahead + up)[None], 640, 360)[0, 1] < 180


def test_places_are_in_the_frame_on_the_road_or_pavement_and_in_nobodys_way(scene):
    found = list(places(scene, "chess piece", np.random.default_rng(0), 640, 360))
    assert len(found) > 20 and {"road"} <= {about["surface"] for _, about in found} <= {"road", "pavement"}
    for parts, about in found:
        (c, m, _), = parts  # fmt: skip
        x, y, _ = scene.camera.project(m.v, 640, 360).T
        assert c == ANOMALY and about["kind"] == "chess piece"
        assert MARGIN <= x.min() and x.max() <= 640 - MARGIN and MARGIN <= y.min() and y.max() <= 360 - MARGIN
    for u, s, r in scene.taken:
        base = np.array([m[0][1].v[:, :2].mean(0) for m, _ in found])
        assert np.linalg.norm(base - scene.street.at(u, s)[:2], axis=1).min() > r


def test_sizes_are_drawn(scene):
    sizes = []
    for seed in range(3):
        parts, _ = next(places(scene, "beach ball", np.random.default_rng(seed), 640, 360))
        x, y, _ = scene.camera.project(parts[0][1].v, 640, 360).T
        sizes.append(np.ptp(x) * np.ptp(y))
    assert max(sizes) > 1.3 * min(sizes), "sizes are not drawn"


# the work folder


def test_frames_that_exist_are_kept_and_the_rest_is_made(tmp_path, monkeypatch):
    made = []

    def fake(frame, samples):
        made.append((frame["town"], frame["number"]))
        return np.full((4, 6, 3), frame["seed"] % 256, np.uint8), np.full((4, 6), 7, np.uint8), {"town": frame["town"]}

    monkeypatch.setattr(street, "make", fake)
    street.render_all(tmp_path, 1, "validation", 3)
    (tmp_path / "validation_t1_001.json").unlink()  # written last, so this frame was interrupted
    street.render_all(tmp_path, 1, "validation", 4)
    assert made == [("t1", 0), ("t1", 1), ("t1", 2), ("t1", 1), ("t1", 3)]
    assert (np.array(Image.open(tmp_path / "validation_t1_003.label.png")) == 8).all(), "ids in files are index + 1"
    assert not list(tmp_path.glob(".*")), "a temporary file was left behind"


@pytest.mark.parametrize("split, town, number", [("train", "t2", 3), ("test", "t6", 5)])
def test_a_frame_made_again_has_the_same_label(split, town, number):
    pytest.importorskip("mitsuba", reason="rendering needs data/make/requirements.txt")
    frame = next(f for f in street.frames() if (f["split"], f["town"], f["number"]) == (split, town, number))
    _, label, _ = street.make(frame, samples=1)
    part, folder, _ = street.PLAN[split]
    path = Path("annotations") / folder / town / f"{number:03d}.png"
    kept = np.array(Image.open(ROOT / "data" / "streethazards" / part / path))
    assert (kept != label + 1).mean() < 1e-4
