"""Probes find what is there and nothing where nothing is; statistics of tokens are right where they are known."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.studies.backbones import probes


@pytest.fixture(autouse=True)
def _one_attribute(monkeypatch):
    monkeypatch.setattr(probes, "ATTRIBUTES", ("material",))


def planted(seed, strength, count=240, dim=6):
    """Vectors one of whose directions holds a label of two, and their objects, in scenes of six."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(["metal", "rubber"], count, p=[0.7, 0.3])
    vectors = rng.normal(size=(count, dim))
    vectors[:, 2] += strength * (labels == "metal")
    return vectors, pd.DataFrame({"material": labels, "scene": np.repeat(np.arange(count // 6), 6)})


def balanced(train, test):
    """What a probe of one input reads of the material."""
    return probes.probes({"slots": (train[0], test[0])}, train[1], test[1])["slots material"]["balanced"]


def test_a_planted_attribute_is_recovered_and_a_shuffled_one_is_not():
    train, test = planted(0, 6.0), planted(1, 6.0)
    assert balanced(train, test) > 0.97
    shuffled = train[1].assign(material=np.random.default_rng(0).permutation(train[1].material))
    assert abs(balanced((train[0], shuffled), test) - 0.5) < 0.12


def test_a_probe_does_not_look_at_the_scale():
    (a, train), (b, test) = planted(0, 2.0), planted(1, 2.0)
    scale = np.array([1e-4, 1, 1e-5, 1e4, 1, 1])
    scaled = balanced((a * scale, train), (b * scale, test))
    assert balanced((a, train), (b, test)) == pytest.approx(scaled, abs=0.02)


def test_no_scene_is_split_when_the_strength_is_chosen(monkeypatch):
    """Copies of one vector in a scene would be known by heart otherwise."""
    seen = []
    split = probes.GroupKFold.split

    def watched(self, x, y=None, groups=None):
        for fit, held in split(self, x, y, groups):
            groups = np.asarray(groups)
            seen.append(set(groups[fit]) & set(groups[held]))
            yield fit, held

    monkeypatch.setattr(probes.GroupKFold, "split", watched)
    balanced(planted(0, 2.0), planted(1, 2.0))
    assert seen and not any(seen)


def test_a_row_an_input_and_an_attribute():
    (a, train), (b, test) = planted(0, 6.0), planted(1, 6.0)
    rng = np.random.default_rng(2)
    inputs = {"slots": (a, b), "noise": (rng.normal(size=a.shape), rng.normal(size=b.shape))}
    found = probes.probes(inputs, train, test)
    assert list(found) == ["slots material", "noise material"]
    assert found["noise material"] | {"balanced": 0} == {
        "input": "noise", "attribute": "material", "balanced": 0, "chance": 0.5,
    }  # fmt: skip
    assert found["slots material"]["balanced"] > 0.97 > 0.7 > found["noise material"]["balanced"]


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
