"""Anomaly scores: agreement with pytorch-ood and with definitions written out again; statistics that need no order."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_ood.detector import KNN, Mahalanobis
from scipy import ndimage

from lib import anomaly

C, D = 4, 6


def batch(seed, images=2, size=(64, 80), cell=16):
    """Features that cluster by class, labels in blocks of a cell, logits that mostly agree."""
    generator = torch.Generator().manual_seed(seed)
    grid = [-(-n // cell) for n in size]
    classes = torch.randint(C, (images, *grid), generator=generator)
    centres = 3 * torch.randn(C, D, generator=torch.Generator().manual_seed(99))
    features = (centres[classes] + torch.randn(images, *grid, D, generator=generator)).permute(0, 3, 1, 2)
    fine = features.repeat_interleave(2, 2).repeat_interleave(2, 3)[..., : -(-size[0] // 8), : -(-size[1] // 8)]
    labels = classes.repeat_interleave(cell, 1).repeat_interleave(cell, 2)[:, : size[0], : size[1]]
    logits = torch.randn(images, C, *size, generator=generator)
    logits = logits.scatter_add(1, labels[:, None], torch.full((images, 1, *size), 4.0))
    return logits, (features, fine + 0.1 * torch.randn(fine.shape, generator=generator)), labels


@pytest.fixture(scope="module")
def train():
    return [batch(i) for i in range(12)]


@pytest.fixture(scope="module")
def statistics(train):
    return anomaly.fit(train)


def every(train):
    """Cells and labels of all batches as rows."""
    cells = torch.cat([f.movedim(1, -1).flatten(0, 2) for _, (f, _), _ in train])
    return cells, torch.cat([y[:, 8::16, 8::16].flatten() for _, _, y in train])


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_scores_of_logits_follow_their_definitions(seed):
    z = 5 * torch.randn(2, C, 6, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    p = np.exp(z.numpy()) / np.exp(z.numpy()).sum(1, keepdims=True)
    expected = {
        "msp": np.log(1 - p.max(1)),
        "max_logit": -z.numpy().max(1),
        "energy": -np.log(np.exp(z.numpy()).sum(1)),
        "entropy": -(p * np.log(p)).sum(1),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(anomaly.SCORES[name](z, None, None), value, atol=1e-5)


def test_every_score_is_higher_for_an_anomaly(train, statistics):
    """A block with features far from all classes and logits that are small, uncertain and noisy."""
    logits, features, labels = batch(100, 4)
    logits[:, :, 16:48, 16:64] = 0.3 * torch.randn(4, C, 32, 48, generator=torch.Generator().manual_seed(1))
    strange = 8 * torch.randn(4, D, 2, 3, generator=torch.Generator().manual_seed(2))
    features[0][:, :, 1:3, 1:4] = strange
    features[1][:, :, 2:6, 2:8] = strange.repeat_interleave(2, 2).repeat_interleave(2, 3)
    statistics = anomaly.levels([batch(200)], statistics)
    for name, score in anomaly.SCORES.items():
        found = score(logits, features, statistics)
        if name in anomaly.PLACES:
            continue
        assert found.shape == labels.shape and found.isfinite().all(), name
        inside, outside = found[:, 20:44, 20:60].median(), found[:, :, 72:].median()
        assert inside > outside, name


def test_maximum_logits_are_standardised_by_predicted_class(train, statistics):
    logits = torch.cat([z for z, _, _ in train])
    top, predicted = logits.max(1)
    for c in range(C):
        assert statistics.logit_mean[c] == pytest.approx(float(top[predicted == c].mean()), abs=1e-4)
        assert statistics.logit_std[c] == pytest.approx(float(top[predicted == c].std(correction=0)), abs=1e-4)
    scores = anomaly.standardised_max_logit(logits, statistics)
    for c in range(C):
        assert float(scores[predicted == c].mean()) == pytest.approx(0, abs=1e-3)
        assert float(scores[predicted == c].std()) == pytest.approx(1, abs=1e-3)


def test_void_is_left_out_and_batches_do_not_matter(train):
    (z, f, y) = zip(*train, strict=True)
    whole = [(torch.cat(z), [torch.cat(part) for part in zip(*f, strict=True)], torch.cat(y))]
    a, b = anomaly.fit(train), anomaly.fit(whole)
    for name in ("logit_mean", "logit_std", "place"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name))
    for name in anomaly.VIEWS:
        for one, other in zip(a.features[name][:3], b.features[name][:3], strict=True):
            torch.testing.assert_close(one, other)
    spoiled = []
    for logits, features, labels in train:
        logits, labels = logits.clone(), labels.clone()
        features = [part.clone() for part in features]
        labels[:, :, 64:], logits[..., 64:], features[0][..., 4:], features[1][..., 8:] = 255, 1e4, 1e4, 1e4
        spoiled.append((logits, features, labels))
    cut = [(z[..., :64], (f[..., :4], g[..., :8]), y[..., :64]) for z, (f, g), y in train]
    a, b = anomaly.fit(spoiled), anomaly.fit(cut)
    torch.testing.assert_close(a.logit_mean, b.logit_mean)
    torch.testing.assert_close(a.features["raw"].centres, b.features["raw"].centres)
    torch.testing.assert_close(a.bank.sum(0), b.bank.sum(0), atol=1e-3, rtol=1e-3)


def test_a_class_that_is_never_seen_or_predicted_is_no_trap(train):
    fewer = [(torch.cat([z, torch.full_like(z[:, :1], -1e3)], 1), f, y) for z, f, y in train]
    found = anomaly.fit(fewer)
    assert found.features["raw"].centres.shape == (C, D) and found.logit_std[C] > 0
    assert found.logit_mean[C] == pytest.approx(float(torch.cat([z for z, _, _ in train]).amax(1).mean()), abs=1e-4)
    found = anomaly.levels(fewer[:2], found)
    assert all(score(*fewer[0][:2], found).isfinite().all() for score in anomaly.SCORES.values())


def test_mahalanobis_is_that_of_pytorch_ood(train, statistics):
    cells, labels = every(train)
    theirs = Mahalanobis(None).fit_features(cells, labels)
    _, (features, _), _ = batch(50)
    ours = anomaly.mahalanobis(features, statistics.features["raw"])
    rows = features.movedim(1, -1).flatten(0, 2)
    expected = (theirs.predict_features(rows) * 2 * len(cells)).sqrt()  # its covariance is a sum, not a mean
    torch.testing.assert_close(ours.flatten(), expected, rtol=1e-3, atol=1e-3)
    squares = anomaly.mahalanobis(torch.cat([f for _, (f, _), _ in train]), statistics.features["raw"]).square()
    assert float(squares.mean()) == pytest.approx(D, rel=0.1), "the expectation of chi-squared"


def test_mahalanobis_does_not_see_units(train):
    _, (features, _), _ = batch(50)
    plain = anomaly.mahalanobis(features, anomaly.fit(train).features["raw"])
    for factor in (1e-2, 1e2):
        other = anomaly.fit([(z, (f * factor, g), y) for z, (f, g), y in train]).features["raw"]
        torch.testing.assert_close(anomaly.mahalanobis(features * factor, other), plain, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("deviations", [1e3, 1e4])
def test_distances_do_not_see_where_the_origin_is(train, statistics, deviations):
    offset, (_, (features, _), _) = deviations * torch.cat([f for _, (f, _), _ in train]).std(), batch(50)
    far = anomaly.fit([(z, (f + offset, g), y) for z, (f, g), y in train])
    expected = anomaly.mahalanobis(features, statistics.features["raw"])
    found = anomaly.mahalanobis(features + offset, far.features["raw"])
    torch.testing.assert_close(found, expected, atol=3e-3, rtol=0)
    unit = lambda x: (x := (x + offset).movedim(1, -1).flatten(0, 2).double()) / x.norm(dim=1, keepdim=True)  # noqa: E731
    bank, cells = unit(torch.cat([f for _, (f, _), _ in train])), unit(features)
    nearest = (cells[:, None] - bank).norm(dim=2).kthvalue(10).values.float()
    torch.testing.assert_close(anomaly.neighbours(features + offset, far.bank).flatten(), nearest, atol=0, rtol=1e-3)


def test_neighbours_are_those_of_pytorch_ood(train):
    cells, labels = every(train)
    statistics = anomaly.fit(train, bank=len(cells))
    assert len(statistics.bank) == len(cells)
    _, (features, _), _ = batch(50)
    theirs = KNN(None, k=5)
    theirs.knn.n_jobs = 1  # it starts as many processes as there are cores
    expected = theirs.fit_features(cells, labels).predict_features(features.movedim(1, -1).flatten(0, 2)).float()
    torch.testing.assert_close(
        anomaly.neighbours(features, statistics.bank, 5).flatten(), expected, atol=1e-3, rtol=1e-3
    )
    with pytest.raises(ValueError, match="bank holds"):
        anomaly.neighbours(features, statistics.bank, len(cells) + 1)


def test_the_bank_is_an_even_draw(train):
    small = anomaly.fit(train, bank=50)
    assert small.bank.shape == (50, D)
    assert torch.equal(small.bank, anomaly.fit(train, bank=50).bank)
    assert not torch.equal(small.bank, anomaly.fit(train, bank=50, seed=1).bank)
    cells, _ = every(train)
    rows = torch.nn.functional.normalize(cells, dim=1)
    place = [int((rows - row).abs().sum(1).argmin()) for row in small.bank]
    assert len(set(place)) == 50
    assert abs(np.mean(place) / len(rows) - 0.5) < 0.2, "early batches are no more likely than late ones"


@given(st.integers(0, 10_000), st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_boundaries_are_distances_of_a_rook(seed, width):
    labels = torch.from_numpy(np.random.default_rng(seed).integers(0, 2, (1, 4, 5)).repeat(4, 1).repeat(4, 2))
    found = anomaly.boundaries(labels, width)[0].numpy()
    expected = np.zeros_like(found)
    for c in (0, 1):
        if (labels[0] != c).any():
            distance = ndimage.distance_transform_cdt(labels[0].numpy() == c, "taxicab")
            expected |= (labels[0].numpy() == c) & (distance <= width)
    np.testing.assert_array_equal(found, expected)


def test_boundary_suppression_takes_what_lies_beside():
    labels = torch.zeros(1, 40, 60, dtype=torch.long)
    labels[..., 30:] = 1
    scores = torch.where(anomaly.boundaries(labels, 2), 9.0, torch.where(labels == 0, -1.0, 1.0))
    found = anomaly.suppress_boundaries(scores, labels)
    assert found.max() <= 1 and found.min() >= -1, "the ridge is gone"
    torch.testing.assert_close(found[..., :20], scores[..., :20])
    ramp = torch.arange(60.0).expand(1, 40, 60)
    found = anomaly.suppress_boundaries(ramp, labels)
    # The edge is between 29 and 30. Bands of 4, 3, 2, 1 px a side are filled from outside in, and 3 x 3 px reach one
    # further: 26 takes 25, then 27 the mean of 26 (which is 25 now), and so on.
    expected = [24, 25, 25, 25, 25, 25, 34, 34, 34, 34, 34, 35]
    assert found[0, 20, 24:36].tolist() == pytest.approx(expected)
    flat = torch.zeros_like(labels)
    assert torch.equal(anomaly.suppress_boundaries(scores, flat), scores)
    checkers = (torch.arange(40)[:, None] + torch.arange(60)).remainder(2)[None]
    assert torch.equal(anomaly.suppress_boundaries(scores, checkers), scores), "nothing beside: it stays"


def test_smoothing_is_a_dilated_gaussian():
    torch.testing.assert_close(anomaly.smooth(torch.full((1, 30, 40), 2.5)), torch.full((1, 30, 40), 2.5))
    point = torch.zeros(1, 61, 61)
    point[0, 30, 30] = 1
    found = anomaly.smooth(point)[0]
    assert set(map(tuple, found.nonzero().remainder(6).tolist())) == {(0, 0)} and (found > 0).sum() == 49
    assert found.sum() == pytest.approx(1, abs=1e-5)
    assert float(found[30, 36] / found[30, 30]) == pytest.approx(math.exp(-0.5), rel=1e-4)


def test_cells_lie_over_their_pixels():
    cells = torch.zeros(1, 3, 4)
    cells[0, 1, 2] = 1
    found = anomaly.to_pixels(cells, (40, 60), 16)[0]
    assert found.shape == (40, 60)
    where = (found > 0.9).nonzero().float().mean(0).tolist()
    assert where == pytest.approx([23.5, 39.5])
    whole = anomaly.to_pixels(cells, (48, 64), 16)[0]
    assert torch.equal(whole[:40, :60], found), "an image that is cut off does not stretch"


def test_spatial_inconsistency_is_the_divergence_from_the_mean_around():
    z = torch.randn(1, C, 7, 8, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    p = z.softmax(1)[0].numpy()
    mean = np.stack([ndimage.uniform_filter(layer, 3, mode="nearest") for layer in p])
    np.testing.assert_allclose(anomaly.spatial_inconsistency(z)[0], (p * np.log(p / mean)).sum(0), atol=1e-10)
    flat = z[..., :1, :1].expand(-1, -1, 7, 8)
    assert anomaly.spatial_inconsistency(flat).max() < 1e-9
    assert anomaly.spatial_inconsistency(flat, repeat=False)[0, 0, 0] > 0.1, "the artefact at the original's border"


def test_heat_is_the_mean_of_its_parts_on_the_scale_of_the_training_split(train, statistics):
    logits = torch.cat([z for z, _, _ in train])
    features = [torch.cat(part) for part in zip(*(f for _, f, _ in train), strict=True)]
    whole = anomaly.heat(logits, features, statistics)
    each = [anomaly.heat(logits, features, statistics, [part]) for part in anomaly.PARTS]
    torch.testing.assert_close(whole, torch.stack(each).mean(0))
    for part, values in zip(anomaly.PARTS, each, strict=True):
        middle, high = np.quantile(values[:, 8::16, 8::16], [0.5, 0.95])
        assert (middle, high) == pytest.approx((0, 1), abs=0.25 if part == "mahalanobis" else 0.02), part
    scaled = anomaly.fit([(z, (f * 100, g), y) for z, (f, g), y in train])
    torch.testing.assert_close(
        anomaly.heat(logits, (features[0] * 100, features[1]), scaled), whole, atol=1e-3, rtol=1e-3
    )
    with pytest.raises(ValueError, match="spatial"):
        anomaly.heat(logits, features, statistics, [])
    with pytest.raises(ValueError, match="energy"):
        anomaly.heat(logits, features, statistics, ["kl"])


def test_the_original_heat_is_energy_where_the_network_is_sure(statistics):
    logits, features, _ = batch(60)
    sure, unsure = logits * 30, logits * 0
    original = anomaly.heat(sure, features, statistics, ["energy", "mahalanobis"], original=True)
    energy = anomaly.SCORES["energy"](sure, None, None)
    assert ((original - energy).abs() < 0.01 * energy.abs()).float().mean() > 0.98
    mixed = anomaly.heat(unsure, features, statistics, ["energy", "mahalanobis"], original=True)
    assert (mixed - anomaly.SCORES["energy"](unsure, None, None)).abs().mean() > 0.5


def test_what_is_not_finite_is_refused_or_stays(train, statistics):
    (logits, features, labels), rest = train[0], train[1:]
    for name, i, value in (
        ("logits", 0, np.inf),
        ("features", 1, np.nan),
        ("features of", 1, np.inf),
        ("features", 2, np.nan),
    ):
        parts = [logits.clone(), *(part.clone() for part in features)]
        parts[i][0, 1] = value
        spoiled = parts[0], parts[1:], labels
        with pytest.raises(ValueError, match=f"{name}.* not finite"):
            anomaly.fit([spoiled, *rest])
    with pytest.raises(ValueError, match="labels: float32 is no integer type"):
        anomaly.fit([(logits, features, labels.float())])
    statistics = anomaly.levels(rest[:2], statistics)
    logits, features = logits.clone(), [part.clone() for part in features]
    logits[0, 1, 40, 40], features[0][0, 1, 2, 2], features[1][0, 1, 5, 5] = np.nan, np.nan, np.nan
    for name, score in anomaly.SCORES.items():
        if name in anomaly.PLACES:
            continue
        assert score(logits, features, statistics)[0, 40, 40].isnan(), name


def test_nothing_to_fit_on_is_an_error(train):
    with pytest.raises(ValueError, match="training split"):
        anomaly.fit([])
    with pytest.raises(ValueError, match="training split"):
        anomaly.fit([(z, f, torch.full_like(y, 255)) for z, f, y in train[:1]])


def test_unit_features_are_those_of_length_one(train, statistics):
    """Mahalanobis++ by hand: features of length one, then as ever."""
    shorter = [(z, (torch.nn.functional.normalize(f, dim=1), g), y) for z, (f, g), y in train]
    _, (features, _), _ = batch(50)
    expected = anomaly.mahalanobis(torch.nn.functional.normalize(features, dim=1), anomaly.fit(shorter).features["raw"])
    for factor in (1, 50):
        cells, cell = anomaly.views((factor * features, features))["unit"]
        torch.testing.assert_close(
            anomaly.mahalanobis(cells, statistics.features["unit"]), expected, rtol=1e-3, atol=1e-3
        )
    assert cell == 16


def test_stages_are_seen_on_the_finer_grid(statistics):
    """What is strange in the finer features alone, one cell of 8 px, is seen there and in no other view."""
    logits, (coarse, fine), _ = batch(70, 1)
    strange = fine.clone()
    strange[0, :, 3, 4] *= -1
    seen = lambda f, view: anomaly.distances((coarse, f), logits.shape[-2:], statistics, view)[0]  # noqa: E731
    change = seen(strange, "stages") - seen(fine, "stages")
    assert change[28, 36] > 1 and change[:, 48:].abs().max() == 0 and change[40:].abs().max() == 0
    assert torch.equal(seen(strange, "unit"), seen(fine, "unit"))


def test_vim_is_that_of_the_paper(train, statistics):
    """The softmax of a virtual logit, written out with NumPy; the origin is the mean."""
    cells, _ = every(train)
    x = cells.double().numpy()
    mean = x.mean(0)
    _, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    rest = vectors[:, : D // 2]  # of the smallest eigenvalues
    top = torch.cat([z.amax(1)[:, 8::16, 8::16].flatten() for z, _, _ in train]).double().numpy()
    alpha = top.mean() / np.linalg.norm((x - mean) @ rest, axis=1).mean()
    assert statistics.virtual == pytest.approx(alpha, rel=1e-4)
    logits, (features, _), _ = batch(80, 1, (16, 16))
    virtual = alpha * np.linalg.norm((features[0, :, 0, 0].numpy() - mean) @ rest)
    z = np.concatenate([logits[0].numpy(), np.full((1, 16, 16), virtual)]).astype(float)
    share = np.exp(virtual) / np.exp(z).sum(0)
    found = anomaly.vim(logits, features, statistics)[0]
    np.testing.assert_allclose(1 / (1 + np.exp(-found.numpy())), share, rtol=1e-3)


def test_fusion_is_of_deviations_on_validation(train, statistics):
    with pytest.raises(ValueError, match="energy, mahalanobis_unit has no level"):
        anomaly.SCORES["fused_unit"](*train[0][:2], statistics)
    validation = [batch(200), batch(201)]
    known = anomaly.levels(validation, statistics)
    parts = [torch.cat([anomaly.SCORES[name](z, f, known) for z, f, _ in validation]) for name in anomaly.LEVELLED[:2]]
    for name, values in zip(anomaly.LEVELLED, parts, strict=False):
        assert known.levels[name] == pytest.approx((float(values.mean()), float(values.std(correction=0))), rel=1e-4)
    both = torch.cat([anomaly.fused(z, f, known, anomaly.LEVELLED[:2]) for z, f, _ in validation])
    expected = sum((v - v.mean()) / v.std(correction=0) for v in parts)
    torch.testing.assert_close(both, expected, rtol=1e-3, atol=1e-3)


def test_levels_are_of_what_some_scores_need(train, statistics):
    both = partial(anomaly.fused, parts=["mahalanobis", "knn"])
    assert anomaly.levelled([anomaly.SCORES["knn"], anomaly.SCORES["heat"]]) == []
    assert anomaly.levelled(anomaly.SCORES.values()) == list(anomaly.LEVELLED)
    assert anomaly.levelled([anomaly.SCORES["fused_stages + place"]]) == ["energy", "mahalanobis_stages"]
    assert anomaly.levelled([lambda z, f, s: anomaly.fused(z, f, s)]) == list(anomaly.LEVELLED)
    assert anomaly.levelled([partial(anomaly.heat, parts=["spatial"])]) == []
    names = anomaly.levelled([anomaly.SCORES["max_logit + place"], both, both])
    assert names == ["mahalanobis", "knn"]
    known, (logits, features, _) = anomaly.levels([batch(200)], statistics, names), batch(90)
    plain = [anomaly.SCORES[n](logits, features, known) for n in ("mahalanobis", "knn")]
    z = [(x - known.levels[n][0]) / known.levels[n][1] for x, n in zip(plain, ("mahalanobis", "knn"), strict=True)]
    torch.testing.assert_close(both(logits, features, known), sum(z))
    placed = partial(anomaly.placed, parts=["mahalanobis", "knn"])(logits, features, known)
    torch.testing.assert_close(placed, sum(z) + known.place.clamp(min=anomaly.RARE).log())


def test_places_are_where_movers_were(train):
    known = anomaly.fit(train, movers=(1, 2))
    share = torch.cat([(y == 1) | (y == 2) for _, _, y in train]).double().mean(0).numpy()
    np.testing.assert_allclose(known.place, ndimage.gaussian_filter(share, 10 * 80 / 320), atol=1e-5)
    logits, features, _ = batch(90)
    assert torch.equal(anomaly.SCORES["place_train"](logits, features, known)[1], known.place)
    assert not anomaly.SCORES["place_other_town"](logits, features, known).any()
    for name in ("max_logit", "mahalanobis_stages"):
        known = anomaly.levels([batch(200)], known)
        bare = anomaly.fused(logits, features, known, [name]) if name in known.levels else -logits.amax(1)
        both = anomaly.SCORES[f"{name} + place"](logits, features, known)
        torch.testing.assert_close(both, bare + known.place.log(), rtol=1e-4, atol=1e-4)
    nowhere = anomaly.SCORES["energy + place"](logits, features, anomaly.levels([batch(200)], anomaly.fit(train)))
    assert nowhere.isfinite().all(), "where nothing ever was"
