"""Every backbone keeps to its image, agrees with the reference library, and reads its publisher's own file."""

import json
import re
import shutil

import numpy as np
import open_clip
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from lib.data import photos
from lib.models import backbones, weights
from lib.models.backbones import WeightsError, load

OFFLINE = "no weights of .* from the hub"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Random weights in each publisher's own format, as no hub can be reached here."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    reference = {}
    dino = timm.create_model("vit_small_patch16_224.dino", num_classes=0)
    torch.save(dino.state_dict(), folder / "dino_deitsmall16_pretrain.pth")  # its names are timm's
    reference["dino_vits16"] = dino
    dinov2 = timm.create_model("vit_small_patch14_dinov2", num_classes=0, img_size=518)
    torch.save(facebook(dinov2.state_dict()), folder / "dinov2_vits14_pretrain.pth")
    reference["dinov2_vits14"] = dinov2
    clip = open_clip.create_model("ViT-B-16-quickgelu")
    torch.save(clip.state_dict(), folder / "open_clip_pytorch_model.bin")
    config = {"model_cfg": open_clip.get_model_config("ViT-B-16-quickgelu")}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    reference["clip_vitb16"] = clip.visual
    resnet = torchvision.models.resnet18()
    torch.save(resnet.state_dict(), folder / "resnet18-f37072fd.pth")
    reference["resnet18"] = resnet
    return folder, {k: v.eval() for k, v in reference.items()}


def facebook(state):
    """timm's DINOv2 in the publisher's format: the same names, and the token for masked patches."""
    return {"mask_token": torch.zeros(1, state["cls_token"].shape[-1])} | state


def images(size, n=2):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "size"),
    [("dinov2_vits14", 98), ("dino_vits16", 96), ("clip_vitb16", 96), ("random_vits14", 98), ("vit8_random", 96)],
)
def test_a_patch_changes_every_token_of_its_image_and_none_of_another(files, name, size):
    """The original's CLIP attended across the batch: its tokens ignored each other and followed their batch mates."""
    backbone = load(name, files[0])
    before = images(size)
    after = before.clone()
    after[0, :, :14, :14] = 1 - after[0, :, :14, :14]
    moved = (backbone(before).tokens - backbone(after).tokens).abs().amax(-1)
    assert (moved[0] > 0).all() and (moved[1] == 0).all()


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18", "pixels"])
def test_images_of_a_batch_do_not_see_each_other(files, name):
    backbone = load(name, files[0] if name == "resnet18" else None)
    both = images(64)
    torch.testing.assert_close(backbone(both).tokens[:1], backbone(both[:1]).tokens, atol=1e-3, rtol=1e-3)


def test_dino_tokens_are_those_of_timm(files):
    """At the size it was made for, the last block's output, caught by a hook, without the class token."""
    folder, reference = files
    network, caught = reference["dino_vits16"], []
    network.blocks[-1].register_forward_hook(lambda _, __, out: caught.append(out))
    picture = images(224, 1)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in backbones.IMAGENET)
    with torch.no_grad():
        network((picture - mean) / std)
    found = load("dino_vits16", folder)(picture)
    assert found.grid == (14, 14)
    torch.testing.assert_close(found.tokens, caught[0][:, 1:], atol=1e-5, rtol=1e-4)


def test_clip_tokens_are_those_of_open_clip(files):
    folder, reference = files
    tower, caught = reference["clip_vitb16"], []
    tower.transformer.resblocks[-1].register_forward_hook(lambda _, __, out: caught.append(out))
    picture = images(224, 1)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in backbones.CLIP)
    with torch.no_grad():
        tower((picture - mean) / std)
    out = caught[0] if caught[0].shape[0] == 1 else caught[0].transpose(0, 1)
    torch.testing.assert_close(load("clip_vitb16", folder)(picture).tokens, out[:, 1:], atol=1e-4, rtol=1e-3)


def test_clip_reads_the_same_from_safetensors(files, tmp_path):
    folder, state = files[0], torch.load(files[0] / "open_clip_pytorch_model.bin", weights_only=True)
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "open_clip_model.safetensors")
    shutil.copy(folder / "open_clip_config.json", tmp_path)
    picture = images(32, 1)
    found = [load("clip_vitb16", where)(picture).tokens for where in (folder, tmp_path)]
    assert torch.equal(*found)


def test_resnet_maps_are_those_of_torchvision(files):
    folder, reference = files
    network = reference["resnet18"]
    picture = images(64, 1)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in backbones.IMAGENET)
    with torch.no_grad():
        x = network.maxpool(network.relu(network.bn1(network.conv1((picture - mean) / std))))
        wanted = network.layer2(network.layer1(x))
    found = load("resnet18", folder)(picture)
    assert found.grid == (8, 8)
    torch.testing.assert_close(found.tokens, wanted.flatten(2).transpose(1, 2), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("name", "label"), [("efficientnet_lite0", 967), ("efficientnet_lite1", 967)])
def test_packaged_weights_still_know_an_espresso(name, label):
    """The whole network, classifier included, on a photograph: names, order and pixel normalisation all fit."""
    network = timm.create_model(backbones.NETWORKS[name][0]).eval()
    network.load_state_dict(backbones.lite(name))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in backbones.LITE)
    with torch.no_grad():
        sure = network((photos.load("coffee", 224)[None] - mean) / std).softmax(-1)[0]
    assert int(sure.argmax()) == label and sure.max() > 0.5


def test_strides_are_joined_at_the_finest():
    fine, coarse = load("efficientnet_lite0", strides=(2,)), load("efficientnet_lite0", strides=(4,))
    both = load("efficientnet_lite0", strides=(2, 4))
    picture = images(64, 1)
    found = both(picture)
    assert found.grid == (32, 32) and both.dim == fine.dim + coarse.dim == found.tokens.shape[-1]
    torch.testing.assert_close(found.tokens[..., : fine.dim], fine(picture).tokens)


def test_pixels_are_averages_and_row_major():
    picture = torch.zeros(1, 3, 8, 16)
    picture[:, :, :4, 12:] = 1
    found = load("pixels")(picture)
    assert found.grid == (2, 4)
    bright = found.tokens[0, :, 0] > 0
    assert bright.tolist() == [False, False, False, True, False, False, False, False]


@pytest.mark.parametrize("size", [70, 98, 112])
def test_positions_are_interpolated_at_any_size(files, size):
    found = load("dinov2_vits14", files[0])(images(size, 1))
    assert found.grid == (size // 14,) * 2 and torch.isfinite(found.tokens).all()


@pytest.mark.parametrize("side", [518, 224])
def test_registers_are_counted(tmp_path, side):
    network = timm.create_model("vit_small_patch14_reg4_dinov2", num_classes=0, img_size=side)
    state = facebook(network.state_dict())
    state["register_tokens"] = state.pop("reg_token")
    state["pos_embed"] = torch.cat([torch.zeros(1, 1, 384), state["pos_embed"]], 1)  # the publisher's counts CLS
    torch.save(state, tmp_path / "dinov2_vits14_pretrain.pth")
    backbone = load("dinov2_vits14", tmp_path)
    assert backbone.network.num_prefix_tokens == 5 and "registers" in backbone.provenance
    assert backbone(images(70, 1)).tokens.shape == (1, 25, 384)
    if side == 518:
        for key in ("pos_embed", "cls_token", "reg_token"):
            torch.testing.assert_close(backbone.network.state_dict()[key], network.state_dict()[key])


def test_frozen_whatever_is_asked():
    backbone = load("efficientnet_lite0").train()
    assert not any(m.training for m in backbone.modules())
    assert not any(p.requires_grad for p in backbone.parameters())


@pytest.mark.parametrize("name", ["random_vits14", "vit8_random", "random_efficientnet_lite0"])
def test_random_weights_are_the_same_every_time_and_leave_the_generator_alone(name):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = load(name).state_dict()
    assert torch.equal(torch.rand(1), expected)
    second = load(name).state_dict()
    assert all(torch.equal(v, second[k]) for k, v in first.items())


@pytest.mark.parametrize(("name", "size"), [("random_vits14", 100), ("efficientnet_lite0", 100)])
def test_sizes_that_do_not_divide_are_refused_with_the_nearest(name, size):
    with pytest.raises(ValueError, match=r"wants sides divisible by (14|8), got 100; use (98|96) or (112|104)"):
        load(name)(images(size, 1))


def test_safetensors_and_the_variable(files, tmp_path, monkeypatch):
    state = {k: v.contiguous() for k, v in files[1]["resnet18"].state_dict().items()}
    save_file(state, tmp_path / "resnet18.safetensors")
    monkeypatch.setenv("SLOTS_WEIGHTS", str(tmp_path))
    picture = images(64, 1)
    assert torch.equal(load("resnet18")(picture).tokens, load("resnet18", files[0])(picture).tokens)
    assert "resnet18.safetensors sha256" in load("resnet18").provenance


def test_what_cannot_be_loaded_is_said_with_a_remedy(files, tmp_path, monkeypatch):
    monkeypatch.delenv("SLOTS_WEIGHTS", raising=False)

    def refuse(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr("requests.head", refuse)
    with pytest.raises(WeightsError, match="dinov2_vits14_pretrain.pth.*SLOTS_WEIGHTS.*efficientnet_lite0"):
        load("dinov2_vits14")
    with pytest.raises(WeightsError, match="does not exist"):
        load("dino_vits16", tmp_path / "absent.pth")
    with pytest.raises(WeightsError, match="holds no weights of dino_vits16"):
        load("dino_vits16", files[0] / "resnet18-f37072fd.pth")
    program = torch.jit.script(torch.nn.Linear(2, 2))
    program.save(tmp_path / "ViT-B-16.pt")
    with pytest.raises(WeightsError, match="TorchScript archive"):
        load("clip_vitb16", tmp_path / "ViT-B-16.pt")
    with pytest.raises(ValueError, match="choose one of"):
        load("resnet19")
    with pytest.raises(ValueError, match="no stride"):
        load("efficientnet_lite0", strides=(3,))


def blank(build, *arguments, **options):
    """Weights of a network in names and shapes alone, small on disk."""
    with torch.device("meta"):
        state = build(*arguments, **options).state_dict()
    return {k: torch.zeros((), dtype=v.dtype).expand(v.shape) for k, v in state.items()}


def zeros(*shape):
    return torch.zeros(()).expand(shape)


def dino(**others):
    return blank(timm.create_model, "vit_small_patch16_224.dino", num_classes=0) | others


def dinov2():
    return facebook(blank(timm.create_model, "vit_small_patch14_dinov2", num_classes=0))


def clip(side, count):
    state = blank(open_clip.CLIP, 512, {"image_size": 224, "layers": 12, "width": 768, "patch_size": 16}, {})
    changed = {"visual.conv1.weight": zeros(768, 3, side, side), "visual.positional_embedding": zeros(count, 768)}
    return state | changed


OTHERS = {
    "CLIP B/32 for B/16": ("clip_vitb16", lambda: clip(32, 50), "768 x 3 x 32 x 32 for 768 x 3 x 16 x 16"),
    "CLIP's residual network": (
        "clip_vitb16",
        lambda: {"visual.conv1.weight": zeros(64, 3, 3, 3), "visual.layer3.0.bn1.weight": zeros(64)},
        "a ResNet, expected .*missing",
    ),
    "DINO S/8 for S/16": (
        "dino_vits16",
        lambda: dino() | {"patch_embed.proj.weight": zeros(384, 3, 8, 8), "pos_embed": zeros(1, 785, 384)},
        "found 150 tensors, 12 blocks, first kernel 384 x 3 x 8 x 8, expected .*16 x 16",
    ),
    "DINOv2 for DINO": ("dino_vits16", dinov2, "LayerScale, expected .*24 left over .*blocks.0.ls1.gamma"),
    "DINO for DINOv2": ("dinov2_vits14", dino, "expected .*LayerScale: 24 missing .*blocks.0.ls1.gamma"),
    "DeiT for DINO": ("dino_vits16", lambda: dino() | {"head.weight": zeros(1000, 384)}, r"1 left over \(head.weight"),
    "DINO, a block short": (
        "dino_vits16",
        lambda: {k: v for k, v in dino().items() if not k.startswith("blocks.11.")},
        "11 blocks.*12 missing .*blocks.11.norm1",
    ),
    "the layout of transformers": (
        "dino_vits16",
        lambda: {"embeddings.cls_token": zeros(1, 1, 384), "encoder.layer.0.output.dense.bias": zeros(384)},
        "found 2 tensors, 1 blocks, layout of transformers, expected 150 tensors",
    ),
    "a student alone": ("dino_vits16", lambda: {"student": dino()}, "found 0 tensors"),
    "bytes for numbers": (
        "dino_vits16",
        lambda: dino() | {"norm.weight": torch.zeros(384, dtype=torch.int8)},
        "384 int8 for 384",
    ),
    "not a number": ("dino_vits16", lambda: dino() | {"norm.weight": torch.full((384,), torch.nan)}, "1 not finite"),
    "ResNet-34 for 18": ("resnet18", lambda: blank(torchvision.models.resnet34), "16 blocks.*expected .*8 blocks"),
    "Lite1 for Lite0": ("efficientnet_lite0", lambda: blank(timm.create_model, "tf_efficientnet_lite1"), "left over"),
    "a list": ("resnet18", lambda: [torch.zeros(2)], "cannot be read as bare weights"),
}


@pytest.mark.parametrize(("name", "build", "said"), OTHERS.values(), ids=OTHERS)
def test_weights_of_another_network_are_refused_with_what_was_found_and_expected(tmp_path, name, build, said):
    torch.save(build(), tmp_path / "file.pth")
    with pytest.raises(WeightsError, match=said) as refused:
        load(name, tmp_path / "file.pth")
    assert "file.pth" in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_an_empty_file_and_a_folder_are_no_weights(tmp_path, suffix):
    (tmp_path / f"resnet18{suffix}").touch()
    (tmp_path / f"dino_vits16{suffix}").mkdir()
    for name in ("resnet18", "dino_vits16"):
        with pytest.raises(WeightsError, match=f"{name}{suffix} cannot be read .*empty or no file"):
            load(name, tmp_path)


def under(prefix, state):
    return {prefix + k: v for k, v in state.items()}


BARE, HEAD = {"cls_token": torch.ones(2), "norm.weight": torch.ones(3)}, {"mlp.weight": torch.zeros(4)}
WRAPPED = {
    "module": under("module.", BARE),
    "compiled": under("_orig_mod.module.", BARE),
    "lightning": {"state_dict": under("model.", BARE), "epoch": 3},
    "backbone": under("backbone.", BARE) | under("head.", HEAD),
    "DINO": {
        "student": under("module.backbone.", HEAD),
        "teacher": under("backbone.", BARE) | under("head.", HEAD),
        "epoch": 100,
    },
    "DINO, parallel": {"teacher": under("module.backbone.", BARE), "student": HEAD},
    "DINOv2": {"model": under("teacher.backbone.", BARE) | under("student.backbone.", HEAD)},
}


@pytest.mark.parametrize("wrapped", WRAPPED.values(), ids=WRAPPED)
def test_what_publishers_wrap_around_weights_is_taken_off(tmp_path, wrapped):
    torch.save(wrapped, tmp_path / "file.pth")
    found = weights.read(tmp_path / "file.pth")
    assert found.keys() == BARE.keys() and all(torch.equal(found[k], v) for k, v in BARE.items())


def test_blocks_in_chunks_are_those_without(files, tmp_path):
    folder, reference = files
    state = facebook(reference["dinov2_vits14"].state_dict())
    chunked = {
        re.sub(r"^blocks\.(\d+)\.", lambda m: f"blocks.{int(m[1]) // 3}.{m[1]}.", k): v for k, v in state.items()
    }
    torch.save({"teacher": under("backbone.", chunked)}, tmp_path / "dinov2_vits14.pth")
    picture = images(70, 1)
    wanted = load("dinov2_vits14", folder)(picture).tokens
    assert torch.equal(load("dinov2_vits14", tmp_path)(picture).tokens, wanted)


def test_old_files_have_no_counts_of_batches(files, tmp_path):
    state = files[1]["resnet18"].state_dict()
    torch.save({k: v for k, v in state.items() if "num_batches" not in k}, tmp_path / "resnet18.pth")
    picture = images(64, 1)
    assert torch.equal(load("resnet18", tmp_path)(picture).tokens, load("resnet18", files[0])(picture).tokens)


@pytest.mark.parametrize(
    ("folder", "config", "said"),
    [
        ("laion", None, "has QuickGELU, and nothing says"),
        ("weights", None, "has QuickGELU, and nothing says"),
        ("openai", '{"model_cfg": {"embed_dim": 512}}', "has QuickGELU, and nothing says"),
        ("openai", "[]", "open_clip_config.json is damaged"),
        ("openai", None, None),
        ("weights", '{"model_cfg": {"quick_gelu": true}}', None),
    ],
)
def test_clip_is_read_where_something_says_that_it_was_trained_with_quickgelu(files, tmp_path, folder, config, said):
    path = tmp_path / folder / "open_clip_pytorch_model.bin"
    path.parent.mkdir()
    if config:
        path.with_name("open_clip_config.json").write_text(config)
    torch.save(clip(16, 197), path)
    if said is None:
        assert load("clip_vitb16", path.parent).dim == 768
    else:
        with pytest.raises(WeightsError, match=said):
            load("clip_vitb16", path.parent)


def test_pickles_that_run_code_are_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("sprung").write_text, ("x",))

    torch.save({"conv1.weight": Trap()}, tmp_path / "resnet18.pth")
    with pytest.raises(WeightsError, match="bare weights"):
        load("resnet18", tmp_path)
    assert not (tmp_path / "sprung").exists()


def test_pixel_normalisation_is_each_backbones_own(files):
    seen = {}
    for name in ("dino_vits16", "clip_vitb16"):
        backbone = load(name, files[0])
        backbone.network.patch_embed.register_forward_pre_hook(lambda _, x, name=name: seen.update({name: x[0]}))
        backbone(torch.full((1, 3, 96, 96), 0.5))
    for name, (mean, std) in (("dino_vits16", backbones.IMAGENET), ("clip_vitb16", backbones.CLIP)):
        wanted = (0.5 - np.array(mean)) / np.array(std)
        np.testing.assert_allclose(seen[name][0, :, 0, 0].numpy(), wanted, rtol=1e-5)
