"""Probes find what is there and nothing where nothing is; statistics of tokens are right where they are known."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.studies.backbones import probes


def planted(seed, strength, count=240, dim=6):
    """Vectors one of whose directions holds a label of two, in scenes of six objects."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(["metal", "rubber"], count, p=[0.7, 0.3])
    vectors = rng.normal(size=(count, dim))
    vectors[:, 2] += strength * (labels == "metal")
    return vectors, labels, np.repeat(np.arange(count // 6), 6)


def test_a_planted_attribute_is_recovered_and_a_shuffled_one_is_not():
    train, test = planted(0, 6.0), planted(1, 6.0)
    found = probes.probe(*train, *test)
    assert found["accuracy"] > 0.97 and found["balanced"] > 0.97 and found["low"] <= found["accuracy"] <= found["high"]
    assert found["majority"] == pytest.approx((test[1] == "metal").mean()) and found["chance"] == 0.5
    shuffled = np.random.default_rng(0).permutation(train[1])
    nothing = probes.probe(train[0], shuffled, train[2], *test)
    assert abs(nothing["balanced"] - 0.5) < 0.12 and nothing["accuracy"] <= nothing["majority"] + 0.05


def test_a_probe_does_not_look_at_the_scale():
    train, test = planted(0, 2.0), planted(1, 2.0)
    scale = np.array([1e-4, 1, 1e-5, 1e4, 1, 1])
    a, b = probes.probe(*train, *test), probes.probe(train[0] * scale, *train[1:], test[0] * scale, *test[1:])
    assert a["accuracy"] == pytest.approx(b["accuracy"], abs=0.02)


def test_no_scene_is_split_when_the_strength_is_chosen(monkeypatch):
    """Copies of one vector in a scene would be known by heart otherwise."""
    seen = []
    split = probes.GroupKFold.split

    def watched(self, x, y=None, groups=None):
        for fit, held in split(self, x, y, groups):
            seen.append(set(groups[fit]) & set(groups[held]))
            yield fit, held

    monkeypatch.setattr(probes.GroupKFold, "split", watched)
    probes.probe(*planted(0, 2.0), *planted(1, 2.0))
    assert seen and not any(seen)


def test_a_row_an_input_and_an_attribute(monkeypatch):
    monkeypatch.setattr(probes, "ATTRIBUTES", ("material",))
    (a, x, s), (b, y, t) = planted(0, 6.0), planted(1, 6.0)
    train, test = pd.DataFrame({"material": x, "scene": s}), pd.DataFrame({"material": y, "scene": t})
    rng = np.random.default_rng(2)
    found = probes.probes({"slots": (a, b), "noise": (rng.normal(size=a.shape), rng.normal(size=b.shape))}, train, test)
    assert found["input"].tolist() == ["slots", "noise"] and found.accuracy[0] > 0.97 > 0.8 > found.accuracy[1]


def test_vectors_belong_to_their_objects():
    slots = torch.arange(12.0).view(2, 3, 2)
    found = pd.DataFrame({"image": [0, 1, 1], "id": [1, 1, 2], "matched": [2, 0, 1]})
    assert probes.under_slots(slots, found).tolist() == [[4, 5], [6, 7], [8, 9]]


def test_means_under_the_truth():
    truth = torch.zeros(2, 4, 4, dtype=torch.long)
    truth[0, :2, :3], truth[1, 3, 3] = 1, 2
    found = pd.DataFrame({"image": [0, 1], "id": [1, 2]})
    maps = torch.arange(8.0).view(2, 1, 2, 2)
    # Object 1 covers the first of four places wholly and half of the second.
    assert probes.under_truth(maps, truth, found)[:, 0].tolist() == pytest.approx([1 / 3, 7.0])
    pictures = torch.rand(2, 3, 4, 4)
    whole = probes.under_truth(pictures, truth, found)
    np.testing.assert_allclose(whole[0], pictures[0, :, :2, :3].mean((1, 2)), rtol=1e-6)


def test_the_map_is_seeded_and_keeps_clusters_apart():
    rng = np.random.default_rng(0)
    vectors = np.concatenate([rng.normal(0, 0.1, (20, 5)), rng.normal(3, 0.1, (20, 5))])
    points = probes.embed(vectors)
    assert points.shape == (40, 2) and (points == probes.embed(vectors)).all()
    middle = [points[:20].mean(0), points[20:].mean(0)]
    assert np.linalg.norm(middle[0] - middle[1]) > 2 * points[:20].std(0).max()


def test_the_effective_rank():
    torch.manual_seed(0)
    even = probes.token_statistics(torch.randn(40, 100, 8))
    assert even["effective_rank"] == pytest.approx(8, abs=0.05) and abs(even["cosine"]) < 0.02
    assert even["sd"] == pytest.approx(1, abs=0.02) and abs(even["mean"]) < 0.02
    line = torch.randn(4, 50, 1) * torch.arange(1.0, 9.0)
    assert probes.token_statistics(line)["effective_rank"] == pytest.approx(1, abs=1e-6)
    two = torch.randn(40, 100, 8) * (torch.arange(8) < 2)
    assert probes.token_statistics(two)["effective_rank"] == pytest.approx(2, abs=0.02)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.floats(0.1, 10), st.integers(2, 6))
def test_the_rank_knows_neither_scale_nor_place_nor_turns(seed, scale, channels):
    tokens = torch.randn(3, 20, channels, generator=torch.Generator().manual_seed(seed)).double()
    turn = torch.linalg.qr(torch.randn(channels, channels, generator=torch.Generator().manual_seed(seed)).double())[0]
    a, b = probes.token_statistics(tokens), probes.token_statistics(scale * tokens @ turn + 3)
    assert a["effective_rank"] == pytest.approx(b["effective_rank"], rel=1e-6) and 1 <= a["effective_rank"] <= channels


def test_channels_and_cosine():
    tokens = torch.randn(4, 30, 3) * torch.tensor([0.1, 1.0, 10.0])
    found = probes.token_statistics(tokens)
    assert found["least"] < 0.2 < 0.5 < found["median"] < 2 < 5 < found["most"]
    a, b = torch.randn(2, 5, 3)
    unit = torch.nn.functional.normalize(torch.stack([a, b]), dim=-1)
    pairs = [float(u[i] @ u[j]) for u in unit for i in range(5) for j in range(5) if i != j]
    assert probes.token_statistics(torch.stack([a, b]))["cosine"] == pytest.approx(np.mean(pairs), abs=1e-6)
