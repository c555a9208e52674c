"""What is hidden is known from pose and camera alone."""

import numpy as np
import pytest

from lib.studies.backbones import materials, silhouettes


def test_hidden_is_known_where_nothing_is_in_the_way(table):
    """Whole objects lack only the rounding of their edges; none shows more than its outline by much."""
    assert table.hidden.between(0, 1).all()
    alone = table[(table.distance > 3) & (table.area > 100)]
    assert len(alone) > 10 and alone.hidden.max() < 0.08
    assert table[table.distance == 1].hidden.max() > 0.3


def test_an_object_half_covered_is_half_hidden(scenes, frames):
    scene = scenes[0]
    before = materials.objects_of([scene], frames)
    row = before[(before.image == 0) & (before.hidden < 0.05)].sort_values("area").iloc[-1]
    masks = scene.masks.copy()
    where = np.argwhere(masks[0] == row["id"])
    gone = where[: len(where) // 2]
    masks[0][tuple(gone.T)] = 0
    after = materials.objects_of([type(scene)(**{**vars(scene), "masks": masks})], frames)
    assert after[(after.image == 0) & (after["id"] == row["id"])].hidden.item() == pytest.approx(
        1 - (1 - row.hidden) * (1 - len(gone) / len(where)), abs=0.02
    )


def test_a_scene_without_its_geometry_says_so(scenes):
    with pytest.raises(KeyError, match="FIELDS"):
        silhouettes.full_pixels(type(scenes[0])(**{**vars(scenes[0]), "extra": {}}), np.array([0]))
