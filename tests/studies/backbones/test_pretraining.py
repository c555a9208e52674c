"""The losses are those of the papers, the teacher only follows, captions tell what is seen, and what is kept loads."""

import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib import checkpoints
from lib.data.movi import COLORS, MATERIALS, SHAPES, SIZES, MoviDataset
from lib.models import backbones, small_vit
from lib.models.backbones import IMAGENET, Backbone
from lib.studies.backbones import pretraining
from lib.studies.backbones.objectives import Contrast, Distillation, class_loss, encode, patch_loss
from lib.training import Recipe, State, fit


@pytest.fixture(scope="module")
def scenes():
    return MoviDataset(split="train")[:8]


def distillation(patches):
    torch.manual_seed(0)
    return Distillation(small_vit.build(), patches, prototypes=16)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_masked_patches_are_replaced_before_positions_are_added():
    vit = small_vit.build().eval()
    image, masked = random(1, 3, 128, 128), torch.zeros(1, 16, 16, dtype=torch.bool)
    masked[0, 3, 5] = True
    with torch.no_grad():
        plain, own = encode(vit, image), vit.patch_embed(image)[0, 3, 5]
        torch.testing.assert_close(plain[:, 0], vit(image))
        torch.testing.assert_close(encode(vit, image, masked, own), plain)
        assert not torch.equal(encode(vit, image, masked, own + 1), plain)


def test_class_loss_is_the_papers_sum_over_pairs_of_different_views():
    student, targets = random(4, 3, 5), random(2, 3, 5, seed=1).softmax(-1)
    pairs = []
    for g in range(2):
        for v in range(4):
            if g != v:
                for b in range(3):
                    log = torch.log(torch.exp(student[v, b] / 0.1) / torch.exp(student[v, b] / 0.1).sum())
                    pairs.append(-(targets[g, b] * log).sum())
    torch.testing.assert_close(class_loss(student, targets), torch.stack(pairs).mean())


def test_patch_loss_weighs_every_masked_image_the_same():
    masked = torch.zeros(3, 2, 2, dtype=torch.bool)
    masked[0, 0, 0] = True
    masked[2] = True  # five patches, of two images; the middle one has none
    student, targets = random(5, 7), random(5, 7, seed=1).softmax(-1)
    each = -(targets * torch.log_softmax(student / 0.1, -1)).sum(-1)
    torch.testing.assert_close(patch_loss(student, targets, masked), (each[0] + each[1:].mean()) / 2)


def test_the_teacher_follows_by_its_momentum_and_gets_no_gradient():
    model = distillation(patches=True)
    before = {k: v.clone() for k, v in model.teacher.named_parameters()}
    with torch.no_grad():
        for parameter in model.student.parameters():
            parameter.add_(1.0)
    model.follow(0.9)
    for name, parameter in model.teacher.named_parameters():
        torch.testing.assert_close(parameter, before[name] + 0.1)
    large, small, masked = random(4, 3, 32, 32), random(4, 3, 16, 16), pretraining.blocks(4, 4)
    found = model(large, small, masked)
    targets = model.targets(found.teacher, 0.04, "class_centre")
    patches = model.targets(found.teacher_patches, 0.04, "patch_centre")
    (class_loss(found.student, targets) + patch_loss(found.student_patches, patches, masked)).backward()
    assert all(p.grad is None and not p.requires_grad for p in model.teacher.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.student["vit"].blocks.parameters())
    assert model.mask_token.grad.abs().sum() > 0


def test_targets_are_centred_and_sharpened_and_the_centre_moves_afterwards():
    model = distillation(patches=False)
    model.class_centre += random(16)
    centre, logits = model.class_centre.clone(), random(2, 3, 16, seed=1)
    found = model.targets(logits, 0.5, "class_centre")
    torch.testing.assert_close(found, ((logits - centre) / 0.5).softmax(-1))
    torch.testing.assert_close(model.class_centre, 0.9 * centre + 0.1 * logits.mean((0, 1)))
    assert torch.equal(model.patch_centre, torch.zeros(16))


def test_only_masked_patches_are_predicted_and_the_teacher_sees_them():
    model = distillation(patches=True)
    large, small = random(4, 3, 32, 32), random(4, 3, 16, 16)
    masked = pretraining.blocks(4, 4)
    found = model(large, small, masked)
    assert found.student_patches.shape == found.teacher_patches.shape == (int(masked.sum()), 16)
    assert found.student.shape == (4, 2, 16) and found.teacher.shape == (2, 2, 16)
    pixels = masked.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None]
    changed = model(torch.where(pixels, large + 1, large), small, masked)
    torch.testing.assert_close(changed.student_patches, found.student_patches)
    torch.testing.assert_close(changed.student, found.student)
    assert (changed.teacher_patches - found.teacher_patches).abs().max() > 1e-3
    plain = distillation(patches=False)
    assert plain.mask_token is None and plain(large, small).student_patches is None


def test_frozen_prototypes_get_no_gradient():
    model = distillation(patches=False)
    views = random(4, 3, 16, 16), random(2, 3, 16, 16)
    targets = torch.full((2, 2, 16), 1 / 16)
    for frozen in (True, False):
        class_loss(model(*views, frozen=frozen).student, targets).backward()
        assert (model.student["head"].prototypes.grad is None) == frozen


@given(st.integers(1, 9), st.integers(2, 16), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_half_of_the_images_have_one_rectangle_hidden(images, side, seed):
    torch.manual_seed(seed)
    masked = pretraining.blocks(images, side)
    assert masked.any((1, 2)).sum() == (images + 1) // 2
    for one in masked[masked.any((1, 2))]:
        rows, columns = one.any(1), one.any(0)
        assert torch.equal(one, rows[:, None] & columns[None, :])
        assert all(int(x.diff().ne(0).sum()) <= 2 for x in (rows.int(), columns.int())), "in one piece"
        assert 0.1 * side**2 - side <= one.sum() <= 0.5 * side**2 + side, "half a row of rounding on either side"


def test_a_caption_names_exactly_the_visible_objects():
    scene = SimpleNamespace(
        visibility=np.array([[5, 0], [1, 7], [0, 0], [9, 9]]),
        size=np.array([0, 1, 0, 1]),
        color=np.array([6, 0, 3, 0]),
        material=np.array([0, 1, 0, 1]),
        shape=np.array([0, 2, 1, 2]),
    )
    torch.manual_seed(0)
    drawn = {pretraining.caption(scene, 0) for _ in range(20)}
    assert {tuple(sorted(text.split(", "))) for text in drawn} == {
        ("a large blue rubber sphere", "a large blue rubber sphere", "a small red metal cube")
    }
    assert len(drawn) > 1, "in random order"
    assert pretraining.caption(scene, 1) == "a large blue rubber sphere, a large blue rubber sphere"


def test_captions_of_the_stand_in_agree_with_its_masks(scenes):
    for scene in scenes[:3]:
        for frame in (0, 12):
            ids = np.unique(scene.masks[frame])
            kinds = ((SIZES, scene.size), (COLORS, scene.color), (MATERIALS, scene.material), (SHAPES, scene.shape))
            wanted = [" ".join(["a", *(names[v[i - 1]] for names, v in kinds)]) for i in ids[ids > 0]]
            text = pretraining.caption(scene, frame)
            assert sorted(text.split(", ")) == sorted(wanted)
            row = pretraining.word_ids([text, ""])
            words = [pretraining.WORDS[i] for i in row[0] if i]
            assert " ".join(words).replace(" ,", ",") == text and row.shape == (2, pretraining.LENGTH)
            assert row[1].count_nonzero() == 1, "an empty caption still has a word"


def test_a_batch_has_no_two_frames_of_one_scene():
    recipe = Recipe(steps=3, batch=30, seed=4)
    draws = [pretraining.draw(31, 24, recipe, step) for step in range(40)]
    assert all(len(set(chosen)) == 30 for chosen, _ in draws)
    assert {t for _, frames in draws for t in frames} == set(range(24))
    assert draws[3] == pretraining.draw(31, 24, recipe, 3) != draws[4]
    with pytest.raises(ValueError, match="wants as many scenes, there are 12; lower batch"):
        pretraining.draw(12, 24, recipe, 0)


def test_views_are_crops_of_their_own_in_the_backbones_normalisation():
    images = torch.rand(6, 3, 1, 1).expand(-1, -1, 64, 64).contiguous()
    torch.manual_seed(0)
    found = pretraining.views(images, 32, (0.2, 0.5))
    assert found.shape == (6, 3, 32, 32)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in backbones.IMAGENET)
    seen = found * std + mean
    assert seen.min() >= -1e-6 and seen.max() <= 1 + 1e-6
    assert seen.std((2, 3)).max() < 1e-5, "a picture of one colour stays one"
    ramp = torch.linspace(0.2, 0.6, 64).expand(6, 3, 64, 64).contiguous()
    crops = pretraining.views(ramp, 32, (0.2, 0.5))
    slopes = (crops[..., -1] - crops[..., 0]).mean((1, 2))
    assert len({round(float(s), 4) for s in slopes}) == 6 and (slopes > 0).any() and (slopes < 0).any(), "flips"


def test_contrast_ignores_filler_and_reads_order_free_of_the_batch():
    torch.manual_seed(0)
    model = Contrast(small_vit.build(), len(pretraining.WORDS), pretraining.LENGTH).eval()
    ids = pretraining.word_ids(["a small red metal cube", "a large blue rubber sphere, a small red metal cube"])
    images = random(2, 3, 32, 32)
    image, text, scale = model(images, ids)
    torch.testing.assert_close(image.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(text.norm(dim=1), torch.ones(2))
    assert scale.item() == pytest.approx(1 / 0.07)
    torch.testing.assert_close(model(images[:1], ids[:1, :5])[1], text[:1], atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        model.scale.fill_(9.0)
    assert model(images, ids)[2].item() == pytest.approx(100)


@pytest.mark.parametrize("objective", pretraining.OBJECTIVES)
def test_killed_and_resumed_is_uninterrupted(scenes, tmp_path, objective):
    """Teacher, centres and optimiser go on where they were: the process may end between any two steps."""
    recipe = Recipe(steps=4, batch=4, lr=1e-2, warmup=1)

    class Killed(Exception):
        pass

    def run(state, last=None):
        torch.manual_seed(0)
        vit = small_vit.build()
        if objective == "clip":
            model, loss = Contrast(vit, len(pretraining.WORDS), pretraining.LENGTH), pretraining._contrast
        else:
            model, loss = Distillation(vit, objective == "ibot", 16), pretraining._distil

        def step_of(net, step):
            if step == last:
                raise Killed
            return loss(scenes, recipe, net, step)

        found = fit(model, step_of, recipe, state=State(state), save_every=0, log_every=1, device="cpu")
        return model.state_dict(), found.history

    with pytest.raises(Killed):
        run(tmp_path / "a.safetensors", last=2)
    (resumed, again), (straight, once) = run(tmp_path / "a.safetensors"), run(tmp_path / "b.safetensors")
    assert again == once and all(torch.equal(v, resumed[k]) for k, v in straight.items())
    assert all(math.isfinite(v) for row in once for v in row.values())
    if objective != "clip":
        moved = [k for k in straight if k.startswith("student.vit") and k.endswith("weight")]
        assert all(not torch.equal(straight[k], straight[k.replace("student", "teacher")]) for k in moved)


def test_what_is_trained_is_kept_and_loads_as_a_backbone(tmp_path, monkeypatch):
    monkeypatch.setenv("SLOTS_OUT", str(tmp_path))
    small = {"steps": 2, "batch": 2}
    trained = pretraining.train("ibot", **small, device="cpu").model
    (path,) = (tmp_path / "checkpoints").glob("vit8_ibot-??????.safetensors")
    tensors, header = checkpoints.load(path)
    assert (
        not [k for k in tensors if re.search("head|mask|centre", k)]
        and tensors["model.norm.weight"].dtype == torch.half
    )
    assert header["config"]["objective"] == "ibot" and header["config"]["recipe"]["steps"] == 2
    assert header["data"] == MoviDataset(split="train").fingerprint
    picture = torch.rand(1, 3, 128, 128)

    def of(vit):
        return Backbone("vit8_ibot", vit, IMAGENET, (small_vit.PATCH,), "test")(picture).tokens

    torch.testing.assert_close(backbones.load("vit8_ibot", path)(picture).tokens, of(trained))
    changed = path.stat().st_mtime_ns
    again = pretraining.train("ibot", **small, device="cpu")
    assert path.stat().st_mtime_ns == changed and again.history == header["history"], "loaded, not trained"
    torch.manual_seed(0)
    begun = of(small_vit.build())  # what all three objectives begin with
    torch.testing.assert_close(begun, backbones.load("vit8_random")(picture).tokens)
    with pytest.raises(ValueError, match="choose one of dino, ibot, clip"):
        pretraining.train("mae")
