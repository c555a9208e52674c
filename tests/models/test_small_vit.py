"""The small transformer comes back as it was, and says what trains it."""

import pytest
import torch
from safetensors.torch import save_file

from lib.models import backbones, small_vit
from lib.models.backbones import WeightsError, load


def test_a_small_transformer_comes_back_as_timm_computes_it(tmp_path):
    """Half precision and the names of training checkpoints; the last block's output without the class token."""
    network = small_vit.build().eval()
    caught = []
    network.blocks[-1].register_forward_hook(lambda _, __, out: caught.append(out))
    save_file({f"model.{k}": v.half() for k, v in network.state_dict().items()}, tmp_path / "vit8_ibot.safetensors")
    network.load_state_dict({k: v.half().float() for k, v in network.state_dict().items()})
    backbone = load("vit8_ibot", tmp_path)
    assert (backbone.dim, backbone.strides, backbone.positions) == (96, (8,), True)
    assert "vit8_ibot.safetensors sha256" in backbone.provenance
    picture = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in backbones.IMAGENET)
    normalised = (picture - mean) / std
    with torch.no_grad():
        whole = network(normalised)
    found = backbone(picture)
    assert found.grid == (16, 16) and whole.shape == (1, 96)
    torch.testing.assert_close(found.tokens, caught[0][:, 1:], atol=1e-5, rtol=1e-4)


def test_small_transformers_that_are_not_there_say_what_trains_them(tmp_path, monkeypatch):
    monkeypatch.setattr(backbones, "ROOT", tmp_path)
    with pytest.raises(WeightsError, match=r"vit8_dino.safetensors does not exist; pretraining.train\('dino'\)"):
        load("vit8_dino", tmp_path)
    save_file({"conv": torch.zeros(2)}, tmp_path / "vit8_clip.safetensors")
    with pytest.raises(WeightsError, match="vit8_clip.safetensors holds no weights of vit8_clip"):
        load("vit8_clip", tmp_path)
