"""A folder of images in, a folder of masks out; what cannot be used is named in one line."""

import numpy as np
import pytest
from PIL import Image

import lib
from lib.apply import zoo
from lib.apply.__main__ import main
from lib.files import DataError


@pytest.fixture
def folder(tmp_path, picture):
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png", "b.jpg"):
        Image.fromarray(picture).save(tmp_path / "in" / name)
    return tmp_path / "in"


SLOT2 = ["--model", "ex_slot2-photos-0", "--device", "cpu"]


def test_a_folder_of_images_becomes_a_folder_of_masks(folder, tmp_path, capsys, picture):
    (folder / "notes.txt").write_text("no image")
    Image.fromarray(picture).save(folder / "c.gif", save_all=True, append_images=[Image.fromarray(picture[::-1])])
    assert main([str(folder), "--out", str(tmp_path / "out"), "--soft", *SLOT2]) == 0
    found = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.png"))
    assert found == ["a.png", "b.jpg.png", "b.png.png", "c/0001.png", "c/0002.png"]
    masks = lib.masks_of(folder / "a.png", "ex_slot2-photos-0", device="cpu")
    assert np.array_equal(np.array(Image.open(tmp_path / "out" / "a.png")), masks.argmax(0))
    np.testing.assert_allclose(np.load(tmp_path / "out" / "a.npz")["masks"], masks, atol=1e-3)
    assert "ex_slot2-photos-0: 4 of 4 written to" in capsys.readouterr().out


def test_a_folder_can_be_a_video(folder, tmp_path):
    assert main([str(folder), "--out", str(tmp_path / "out"), "--video", *SLOT2]) == 0
    assert sorted(p.name for p in (tmp_path / "out" / "in").iterdir()) == ["a.png", "b.jpg.png", "b.png.png"]


def test_what_cannot_be_read_is_named_and_the_rest_is_written(folder, tmp_path, capsys):
    (folder / "a.png").write_bytes(b"no image")
    assert main([str(folder), "--out", str(tmp_path / "out"), *SLOT2]) == 1
    said = capsys.readouterr()
    assert "a.png is not readable" in said.err and said.err.count("\n") == 1 and "2 of 3 written" in said.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give an image or a folder, and --out FOLDER"),
        (["nowhere", "--out", "out"], "nowhere does not exist"),
        (["empty", "--out", "out"], "empty holds no image"),
        (["in", "--out", "in"], "--out in holds the images themselves"),
        (["in", "--out", "in/a.png"], "cannot write to --out in/a.png: File exists"),
        (["in", "--out", "out", "--model", "none"], "there is no model 'none'"),
    ],
)
def test_a_command_that_cannot_run_says_why(folder, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"lib.apply: {message}") and said.count("\n") == 1


def test_the_table_of_models_is_shown(capsys):
    assert main(["--list"]) == 0
    assert "ex_dino4-ours-0" in capsys.readouterr().out


def test_wrong_is_what_others_expect():
    assert issubclass(zoo.Wrong, DataError)
