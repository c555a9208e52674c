"""Segmentation

The road network of the workbook, DeepLabV3+ on EfficientNet-Lite0, 13 classes, weights untrained.
"""

import pytest
import torch
from torch.nn.functional import cross_entropy

from lib.models import backbones
from lib.models.dinosaur import Dinosaur
from lib.models.segmenters import LITE0, Segmenter
from lib.studies.objects.experiment import TrainConfig, objective

SIZES = [(360, 640), (720, 1280)]


def functions_of(what, size, half, layout, compiled=False):
    """A pass over one image without gradients, or the way there and back of two."""
    model = Segmenter(LITE0, 13, pretrained=False).to(memory_format=layout).train(what == "training")
    model = torch.compile(model, dynamic=False) if compiled else model
    images = torch.rand(2 if what == "training" else 1, 3, *size).to(memory_format=layout)
    labels = torch.randint(13, (len(images), *size))

    def run():
        with torch.autocast("cpu", torch.bfloat16, enabled=half), torch.set_grad_enabled(what == "training"):
            logits = model(images)
        if what == "training":
            model.zero_grad()
            cross_entropy(logits.float(), labels).backward()

    return run


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[1]} x {size[0]} px")
@pytest.mark.parametrize("what", ["inference", "training"])
def test_segmentation(compare, growth, what, size):
    """One image without gradients, or forward and backward of two: channels last in memory against contiguous, autocast
    to bfloat16 against float32, and at 640 x 360 px compiled as well. Memory is what the process grows by.
    """
    torch.manual_seed(0)
    layouts = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
    functions = {
        f"{layout}, {'bfloat16' if half else 'float32'}": functions_of(what, size, half, form)
        for half in (False, True)
        for layout, form in layouts.items()
    }
    held = {name: growth(function) for name, function in functions.items()}
    for half in (False, True) if size == SIZES[0] else ():
        name = f"channels last, {'bfloat16' if half else 'float32'}, compiled"
        functions[name] = functions_of(what, size, half, torch.channels_last, compiled=True)
        try:
            functions[name]()
        except Exception as error:  # a machine without a compiler for C++
            print(f"{name}: left out ({type(error).__name__})")
            del functions[name]
    first = max(next(iter(held.values())), 1)
    facts = {f"peak memory, {name} / contiguous, float32": mb / first for name, mb in list(held.items())[1:]}
    compare(f"{what}, {size[1]} x {size[0]} px", functions, facts, rounds=5)


def test_growth(compare):
    """How a training step of the segmenter grows with the pixels of two images."""
    torch.manual_seed(0)
    sizes = [(96, 160), (192, 320), (384, 640)]
    functions = {f"{w} x {h}": functions_of("training", (h, w), False, torch.channels_last) for h, w in sizes}
    compare("segmenter, a step", functions, sizes=[h * w for h, w in sizes], rounds=5, unit="pixels")


def test_full_size(compare):
    """What the units of a plan at full size cost, each in optimiser steps of the stand-in's object model, forward and
    backward of 16 images of 1,024 tokens, 40 channels: one of `paper` (64 images, 384 channels), tokens of one frame by
    ViT-S/14 at 448 px, and a step of the segmenter on two windows of 384 x 640 px.
    """
    torch.manual_seed(0)
    network = backbones.load("random_vits14")

    def step(images, channels):
        net, tokens = Dinosaur(channels), torch.randn(images, 1024, channels)

        def run():
            net.zero_grad()
            objective(net, tokens, TrainConfig())[0].backward()

        return run

    image = torch.rand(1, 3, 448, 448)

    def frame():
        with torch.no_grad():
            network(image)

    functions = {
        "stand-in step": step(16, 40),
        "paper step": step(64, 384),
        "frame": frame,
        "road step": functions_of("training", (384, 640), False, torch.channels_last),
    }
    compare("full size", functions, rounds=3)
