"""A checkpoint's header is enough to rebuild its model, whatever it was configured to be."""

from dataclasses import asdict

import pytest
import torch

import lib
from lib import checkpoints
from lib.apply import zoo
from lib.checkpoints import CheckpointError
from lib.models.dinosaur import Dinosaur
from lib.models.video import VideoModel
from lib.studies.objects.experiment import ImageConfig
from lib.studies.objects.tracking import ClipConfig

TOKENS = {"backbone": "pixels", "weights": "", "strides": [4], "size": 64, "grid": 8}


def kept(path, model, config, tokens=TOKENS, **more):
    """A checkpoint as `load_or_train` writes it."""
    header = {"config": {"rules": asdict(config), "tokens": tokens, **more}, "seed": 0, "data": "abc"}
    checkpoints.save(path, {f"model.{k}": v for k, v in model.state_dict().items()}, header)
    return path


@pytest.mark.parametrize("name", zoo.files())
def test_every_committed_model_is_rebuilt(name):
    if name.startswith("ex_comparison-pixels-"):
        with pytest.raises(CheckpointError, match="not built here .*only its notebook does"):
            lib.load(name)
        return
    run = lib.load(name, "cpu")
    tensors, header = checkpoints.load(zoo.files()[name])
    own = run.model.state_dict()
    assert run.header == header | {"name": name} and not run.model.training
    for key in (key for key in tensors if key.startswith("model.")):
        assert torch.equal(own[key[6:]], tensors[key].to(own[key[6:]].dtype)), key


@pytest.mark.parametrize("model", [{"init": "learned", "num_slots": 7}, {"init": "xavier", "slot_dim": 32}, {}])
def test_another_configuration_needs_no_change(tmp_path, model):
    image, config = Dinosaur(5, **model), ImageConfig(model=model, coarse=1.0)
    path = kept(tmp_path / "ex_dino4-ours-0-abcdef.safetensors", image, config, network={"network": "Dinosaur"})
    run = lib.load(path, "cpu")
    assert run.model.num_slots == model.get("num_slots", 11) and zoo.grid_of(run.header["config"]) == 4
    tokens = torch.randn(1, 16, 5)
    with torch.no_grad(), torch.random.fork_rng():
        found = []
        for each in (image.eval(), run.model):
            torch.manual_seed(0)
            found.append(each(tokens).attention)
    torch.testing.assert_close(*found)
    rules, start = ClipConfig(model=model, video={"predictor": "none"}), {"config": run.header["config"]}
    video = VideoModel(image, predictor="none")
    path = kept(tmp_path / "video.safetensors", video, rules, TOKENS | {"grid": 2}, start=start)
    run = lib.load(path, "cpu")
    assert run.model.image_model.num_slots == image.num_slots and zoo.grid_of(run.header["config"]) == 4


@pytest.mark.parametrize("init", ["gaussian", "learned", "xavier"])
def test_fewer_slots_are_some_of_those_that_were_learned(init):
    model, tokens = Dinosaur(5, init=init, num_slots=6).eval(), torch.randn(2, 16, 5)
    fewer = zoo.with_slots(model, 3)
    with torch.no_grad():
        assert fewer(tokens).attention.shape == (2, 3, 16) and model(tokens).attention.shape == (2, 6, 16)
        if init == "gaussian":
            assert zoo.with_slots(model, 9)(tokens).slots.shape[1] == 9
            return
        first = fewer.attention.init_mean[0]
    assert torch.equal(first, model.attention.init_mean[0, [0, 2, 5]])
    with pytest.raises(zoo.Wrong, match="9 slots; this model takes from 2 to 6"):
        zoo.with_slots(model, 9)


def test_names_that_are_not_there_are_met_with_those_that_are():
    with pytest.raises(zoo.Wrong, match=r"no model 'ex_slot1'; choose one of ex_slot1-\w+") as stopped:
        lib.load("ex_slot1")
    assert len(stopped.value._render_traceback_()) == 1
    with pytest.raises(zoo.Wrong, match="no model '99'; choose one of ex_dino4, streethazards, "):
        lib.load("99")
    with pytest.raises(CheckpointError, match=r"none.safetensors does not exist"):
        lib.load("none.safetensors")


def test_a_model_of_other_code_is_loaded_with_a_word(tmp_path):
    path = kept(tmp_path / "x.safetensors", Dinosaur(5), ImageConfig())
    with pytest.warns(UserWarning, match=r"x.safetensors was trained by other code of its model"):
        lib.load(path)


def test_what_a_header_does_not_describe_is_refused(tmp_path):
    for name, config in (("no", {"rules": {}}), ("unknown", {"rules": {"model": {"wings": 2}}, "tokens": TOKENS})):
        checkpoints.save(tmp_path / f"{name}.safetensors", {"model.mean": torch.ones(5)}, {"config": config, "seed": 0})
        with pytest.raises(CheckpointError, match=f"{name}.safetensors describes a model that is not built here"):
            lib.load(tmp_path / f"{name}.safetensors")


def test_the_table_holds_every_model():
    table = zoo.table()
    assert list(table.index) == list(zoo.files()) and {*zoo.SHORT.values()} <= {*table.index}
    assert set(table.model) == {"tokens", "video", "pixels", "segmenter", "transformer", "own"}
    assert table.loc["ex_dino4-ours-0", "reads"] == "efficientnet_lite0"


def test_only_three_names_are_fetched_from_lib():
    with pytest.raises(AttributeError, match="module 'lib' has no attribute 'save'"):
        lib.save  # noqa: B018
