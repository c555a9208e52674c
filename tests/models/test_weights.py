"""Weights from the hub: out of its cache without a network, over a proxy, in bounded time, or one line that helps."""

import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from lib.models import backbones, weights
from lib.models.segmenters import LITE0, Segmenter
from lib.models.weights import WeightsError

COMMIT = "0" * 40


@pytest.fixture(autouse=True)
def hub(monkeypatch, tmp_path):
    """An empty cache, and a hub that nobody answers for."""
    monkeypatch.delenv("SLOTS_WEIGHTS", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    yield tmp_path / "hub"
    assert not constants.HF_HUB_OFFLINE


def cached(hub, repository, state, revision=COMMIT):
    """Lay weights into the hub's cache as its client does."""
    folder = hub / f"models--{repository.replace('/', '--')}"
    (folder / "snapshots" / revision).mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(revision)
    (folder / "snapshots" / revision / "config.json").write_text("{}")
    save_file({k: v.contiguous() for k, v in state.items()}, folder / "snapshots" / revision / "model.safetensors")


def test_what_is_in_the_cache_needs_no_network(hub, monkeypatch):
    state = timm.create_model("resnet18").state_dict()
    cached(hub, "timm/resnet18.tv_in1k", state)
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was asked"))
    found = backbones.load("resnet18")
    assert torch.equal(found.network.state_dict()["conv1.weight"], state["conv1.weight"])


def test_a_road_networks_encoder_out_of_the_cache(hub, monkeypatch):
    from segmentation_models_pytorch.encoders import encoders

    settings = encoders["mit_b0"]["pretrained_settings"]["imagenet"]
    state = Segmenter("segformer_b0").network.encoder.state_dict()
    cached(hub, settings["repo_id"], state, settings["revision"])
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was asked"))
    found = Segmenter("segformer_b0", pretrained=True).network.encoder.state_dict()
    assert found.keys() == state.keys() and all(torch.equal(found[k], v) for k, v in state.items())


@pytest.mark.parametrize("build", [lambda: backbones.load("resnet18"), lambda: Segmenter("hiera_base", 3, True)])
def test_a_hub_that_is_reached_but_silent_is_given_up_soon(build, monkeypatch):
    monkeypatch.setattr(weights, "PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        begun = time.monotonic()
        with pytest.raises(WeightsError, match="no weights of .*SLOTS_WEIGHTS") as error:
            build()
    assert time.monotonic() - begun < 5 and "\n" not in str(error.value)


def test_proxies_are_honoured(monkeypatch):
    seen = []

    class Proxy(BaseHTTPRequestHandler):
        def do_HEAD(self):
            seen.append(self.path)
            self.send_response(503)
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setenv("no_proxy", "")
        monkeypatch.setattr(constants, "ENDPOINT", "http://hub.invalid")

        def build():
            if constants.HF_HUB_OFFLINE:
                raise OSError("not in the cache")
            return torch.nn.Identity()

        assert isinstance(weights.from_hub("x", (), build, "wait"), torch.nn.Identity)
        server.shutdown()
    assert seen == ["http://hub.invalid/"]


def test_who_asks_for_no_network_gets_none(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was asked"))
    with pytest.raises(WeightsError, match="no weights of dino_vits16"):
        backbones.load("dino_vits16")
    assert constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = False


@pytest.mark.parametrize(
    ("name", "file", "head"),
    [
        ("segformer_b0", "segformer_b0.safetensors", "head"),
        ("segformer_b0", "mit_b0.pth", "head"),
        ("deeplabv3plus_resnet50", "resnet50-0676ba61.pth", "fc"),
        ("hiera_base", "hiera_base_224.safetensors", "head.fc"),
    ],
)
def test_road_networks_start_from_files_of_their_encoders(name, file, head, tmp_path, monkeypatch):
    """As their publishers give them: with the classifier, under the encoder's own names."""
    reference = Segmenter(name)
    inner = reference.network.encoder.hiera if name == "hiera_base" else reference.network.encoder
    state = {k: v.contiguous() for k, v in inner.state_dict().items()}
    whole = state | {f"{head}.weight": torch.zeros(1000, 8), f"{head}.bias": torch.zeros(1000)}
    save_file(whole, tmp_path / file) if file.endswith("s") else torch.save(whole, tmp_path / file)
    monkeypatch.setenv("SLOTS_WEIGHTS", str(tmp_path))
    images = torch.rand(1, 3, 32, 32)
    found = Segmenter(name, pretrained=True).eval()
    with torch.no_grad():
        for ours, theirs in zip(found.network.encoder(images), reference.eval().network.encoder(images), strict=True):
            torch.testing.assert_close(ours, theirs)
    assert all(p.requires_grad for p in found.parameters())
    state.pop(next(iter(state)))
    save_file(state, tmp_path / file) if file.endswith("s") else torch.save(state, tmp_path / file)
    with pytest.raises(WeightsError, match=f"{file} holds no weights of {name}.*1 missing"):
        Segmenter(name, pretrained=True)


def test_a_road_network_says_which_files_it_looks_for():
    with pytest.raises(WeightsError, match=f"hiera_base.pth, hiera_base_224.safetensors.*pretrained=False.*{LITE0}"):
        Segmenter("hiera_base", pretrained=True)
