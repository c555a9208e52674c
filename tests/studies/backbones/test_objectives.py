"""The losses are those of the papers, and the teacher only follows."""

import pytest
import torch

from lib.models import small_vit
from lib.studies.backbones import pretraining
from lib.studies.backbones.objectives import Contrast, Distillation, class_loss, encode, patch_loss


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
