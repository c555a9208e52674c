"""Segmenters: published sizes, any input size, packaged weights that recognise things, errors that help."""

import pytest
import torch
from huggingface_hub import constants

from lib.models import backbones
from lib.models.segmenters import LITE0, NETWORKS, Segmenter
from lib.models.weights import WeightsError


@pytest.fixture(scope="module")
def lite0():
    torch.manual_seed(0)
    return Segmenter(LITE0).eval()


@pytest.fixture(scope="module")
def hiera():
    torch.manual_seed(0)
    return Segmenter("hiera_base").eval()


@pytest.fixture
def cheap(monkeypatch):
    """Networks whose weights are not drawn: only their sizes matter here."""
    monkeypatch.setattr(torch.nn.init, "_no_grad_trunc_normal_", lambda tensor, *_, **__: tensor)
    for name in ("kaiming_uniform_", "kaiming_normal_", "xavier_uniform_", "trunc_normal_", "normal_", "uniform_"):
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *_, **__: tensor)


def millions(module):
    return sum(p.numel() for p in module.parameters()) / 1e6


# Xie et al. 2021 (arXiv:2105.15203), table of SegFormer-B0..B5 on ADE20K (150 classes), millions.
SEGFORMER = {"b0": 3.8, "b1": 13.7, "b2": 27.5, "b3": 47.3, "b4": 64.1, "b5": 84.7}


@pytest.mark.parametrize("size", SEGFORMER)
def test_segformer_has_the_published_size(cheap, size):
    assert millions(Segmenter(f"segformer_{size}", 150)) == pytest.approx(SEGFORMER[size], abs=0.06)


@pytest.mark.parametrize(("name", "classifier"), [("resnet50", 25_557_032), ("resnet101", 44_549_160)])
def test_deeplab_has_the_published_encoder_and_a_decoder_by_hand(cheap, name, classifier):
    """torchvision documents both classifiers; the head of 1,000 classes is 2,049,000. Decoder: arXiv:1802.02611."""
    network = Segmenter(f"deeplabv3plus_{name}", 19).network
    assert sum(p.numel() for p in network.encoder.parameters()) == classifier - 2_049_000
    separable = lambda i, o: 9 * i + i * o  # noqa: E731
    aspp = 2048 * 256 * 2 + 3 * separable(2048, 256) + 5 * 512 + 5 * 256 * 256 + 512
    after = separable(256, 256) + 512 + 256 * 48 + 96 + separable(304, 256) + 512
    assert sum(p.numel() for p in network.decoder.parameters()) == aspp + after
    assert sum(p.numel() for p in network.segmentation_head.parameters()) == 257 * 19


def test_hiera_and_lite0_have_the_published_size(hiera, lite0):
    # timm's card of hiera_base_224: 51.5 million with the head (norm, 768 x 1,000), Ryali et al. 2023: 52.
    assert millions(hiera.network.encoder) + 769e-3 + 1.5e-3 == pytest.approx(51.5, abs=0.05)
    # The publisher's card of EfficientNet-Lite0: 4.7 million; here without the last convolution and the classifier.
    left_out = (320 * 1280 + 2 * 1280 + 1280 * 1000 + 1000) / 1e6
    assert millions(lite0.network.encoder) + left_out == pytest.approx(4.7, abs=0.05)


@pytest.mark.parametrize("size", [(96, 160), (90, 161), (33, 47), (180, 320)])
def test_any_size(lite0, size):
    with torch.no_grad():
        found = lite0.outputs(torch.rand(2, 3, *size))
    assert found.logits.shape == (2, 13, *size)
    for features, dim, cell in zip(found.features, (lite0.feature_dim, 40), (16, 8), strict=True):
        assert features.shape == (2, dim, -(-size[0] // cell), -(-size[1] // cell))


@pytest.mark.parametrize("name", ["segformer_b0", "hiera_base", "fpn_lite0"])
def test_any_size_of_other_networks(name, request):
    network = request.getfixturevalue("hiera") if name == "hiera_base" else Segmenter(name).eval()
    with torch.no_grad():
        found = network.outputs(torch.rand(1, 3, 40, 70))
    assert found.logits.shape == (1, 13, 40, 70) and [f.shape[2:] for f in found.features] == [(3, 5), (5, 9)]


def test_padding_is_repeated_border_and_is_cut_off(lite0):
    images = torch.rand(1, 3, 90, 161)
    wide = torch.cat([images, images[..., -1:].expand(-1, -1, -1, 31)], -1)
    padded = torch.cat([wide, wide[..., -1:, :].expand(-1, -1, 6, -1)], -2)
    with torch.no_grad():
        torch.testing.assert_close(lite0(images), lite0(padded)[..., :90, :161])
        raw = lite0.network((padded * 255 - 127) / 128)  # what the packaged weights were trained with
        torch.testing.assert_close(lite0(padded), raw)


@pytest.mark.parametrize("name", ["lite0", "hiera"])
def test_images_of_a_batch_do_not_see_each_other(name, request):
    network = request.getfixturevalue(name)
    images = torch.rand(2, 3, 64, 96)
    changed = images.clone()
    changed[1] += 0.3
    with torch.no_grad():
        before, after = network(images), network(changed)
    torch.testing.assert_close(before[0], after[0])
    assert not torch.allclose(before[1], after[1])


def test_features_are_where_the_image_is(lite0):
    """A change in one corner moves the cells of that corner most, so cells can be laid over pixels."""
    images = torch.full((1, 3, 128, 160), 0.5)
    changed = images.clone()
    changed[..., 96:112, 16:32] = torch.rand(3, 16, 16)
    with torch.no_grad():
        moved = (lite0.outputs(changed).features[0] - lite0.outputs(images).features[0]).norm(dim=1)[0]
    assert divmod(int(moved.argmax()), moved.shape[1]) == (6, 1)


def test_hiera_at_224_is_timm_and_elsewhere_only_interpolated(hiera):
    images = torch.rand(1, 3, 224, 224)
    encoder = hiera.network.encoder
    with torch.no_grad():
        theirs = encoder.hiera.forward_intermediates(images, norm=False, intermediates_only=True)
        for ours, other in zip(encoder(images)[2:], theirs, strict=True):
            torch.testing.assert_close(ours, other)
        # Without positions a flat image has flat features, except where its border is padded.
        saved = encoder.hiera.pos_embed.data.clone()
        encoder.hiera.pos_embed.data.zero_()
        flat = torch.full((1, 3, 64, 96), 0.3)
        stage = encoder(flat)[2]
        encoder.hiera.pos_embed.data.copy_(saved)
    torch.testing.assert_close(stage[..., 8:12, 8:12], stage[..., 8:9, 8:9].expand(-1, -1, 4, 4))


def test_every_network_learns(lite0):
    """Gradients reach the first layer; the lite network can lower its loss."""
    torch.manual_seed(0)
    network = Segmenter(LITE0, 3).train()
    images, labels = torch.rand(2, 3, 64, 64), torch.randint(3, (2, 64, 64))
    labels[:, :8] = 255
    loss = torch.nn.functional.cross_entropy(network(images), labels, ignore_index=255)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert next(iter(network.parameters())).grad.abs().sum() > 0


def test_the_default_starts_from_the_packaged_weights(lite0):
    packaged, own = backbones.lite("efficientnet_lite0"), lite0.network.encoder.model.state_dict()
    assert len(own) == 288 and all(torch.equal(value, packaged[key]) for key, value in own.items())
    blank = Segmenter(LITE0, pretrained=False).network.encoder.model.state_dict()
    assert not torch.equal(blank["conv_stem.weight"], own["conv_stem.weight"])


@pytest.mark.parametrize("name", ["segformer_b0", "hiera_base"])
def test_an_unreachable_hub_is_a_clear_error(name, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=f"{name}.*pretrained=False.*{LITE0}"):
        Segmenter(name, pretrained=True)
    assert not constants.HF_HUB_OFFLINE


def test_an_unknown_name_is_an_error():
    with pytest.raises(ValueError, match="segformer_b5"):
        Segmenter("segformer_b6")
    assert len(NETWORKS) == 12
