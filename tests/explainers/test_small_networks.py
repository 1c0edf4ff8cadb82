"""Explainers of small networks of one's own: any side, stride, channels and number of layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import apercu
from apercu.classifiers import Classifier, open_classifier
from apercu.errors import ConfigError
from apercu.explainers.embedding_training import EmbeddingPhase
from apercu.explainers.kind import KIND_NAMES, find_kind
from apercu.explainers.train import build_network
from apercu.images import ImageSource, Planted, open_images
from apercu.training.data import TrainingImages


def convolve(*layers: str, channels: int = 3) -> list[nn.Module]:
    """Layers by short words: `c` convolves, `s` convolves with a stride, `v` without padding."""
    modules: list[nn.Module] = []
    width = 4
    for layer in layers:
        if layer == "p":
            modules.append(nn.MaxPool2d(2))
            continue
        stride, padding = (2 if layer == "s" else 1), (0 if layer == "v" else 1)
        modules += [nn.Conv2d(channels, width, 3, stride, padding), nn.ReLU()]
        channels, width = width, min(16, 2 * width)
    return modules


def pooled(*layers: str, channels: int = 3) -> nn.Module:
    modules = convolve(*layers, channels=channels)
    last = [module for module in modules if isinstance(module, nn.Conv2d)][-1]
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last.out_channels, 3)]
    return nn.Sequential(*modules, *pool)


def flattened(*layers: str, size: Sequence[int], channels: int = 3) -> nn.Module:
    body = nn.Sequential(*convolve(*layers, channels=channels), nn.Flatten())
    features = body(torch.zeros(1, channels, *size)).shape[1]
    return nn.Sequential(body, nn.Linear(features, 3))


class Functional(nn.Module):
    """Layers that the forward pass calls by hand, as in many tutorials."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 8, 5)
        self.hidden, self.last = nn.Linear(8 * 4 * 4, 16), nn.Linear(16, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps = nn.functional.max_pool2d(self.first(images).relu(), 2)
        maps = nn.functional.max_pool2d(self.second(maps).relu(), 2)
        hidden: Tensor = self.hidden(maps.view(-1, 8 * 4 * 4)).relu()
        return nn.functional.log_softmax(self.last(hidden), dim=1)


def build_mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 16), nn.ReLU(), nn.Linear(16, 3))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int], int]] = {
    "pooled_twice": (
        lambda: flattened("c", "p", "c", "p", size=(28, 28), channels=1),
        (28, 28),
        1,
    ),
    "stride_1": (lambda: pooled("c", "c", channels=1), (28, 28), 1),
    "stride_1_colour": (lambda: pooled("c", "c", "c"), (32, 32), 3),
    "strided": (lambda: pooled("s", "s"), (30, 30), 3),
    "odd_side": (lambda: pooled("s", "s", "s"), (33, 33), 3),
    "without_padding": (lambda: flattened("v", "p", "v", "p", size=(30, 30)), (30, 30), 3),
    "four_layers": (lambda: pooled("c", "p", "c", "p", "c", "p", "c"), (96, 96), 3),
    "wide": (lambda: pooled("s", "c", "s"), (32, 64), 3),
    "tall_odd": (lambda: flattened("c", "p", "s", size=(45, 30)), (45, 30), 3),
    "one_layer": (lambda: pooled("s", channels=1), (28, 28), 1),
    "tiny": (lambda: pooled("c", "p", "c"), (16, 16), 3),
    "functional": (Functional, (28, 28), 1),
    "four_bands": (lambda: pooled("s", "s", channels=4), (24, 24), 4),
    "perceptron": (build_mlp, (28, 28), 1),
}


def open_network(name: str) -> Classifier:
    build, size, channels = NETWORKS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = build()
    return open_classifier(
        module, size=size, mean=0.5, std=0.5, channels=channels, classes=["a", "b", "c"]
    )


def find_config(kind: str, classifier: Classifier) -> dict[str, Any]:
    """The light preset, and for a network without maps the encoder from scratch."""
    few: dict[str, Any] = {"schedule": {"steps": 1, "batch": 4}}
    if kind == "latent":
        shape = {"side": 32, "code": 8, "width": 8, "reader": 16}
        return few | {"shape": shape, "path": {"steps": 20, "evidence": [3.0, 30.0]}}
    few["embedding"] = {"steps": 2, "images": 16}
    if isinstance(classifier.module, nn.Sequential) and isinstance(
        classifier.module[0], nn.Flatten
    ):
        few |= {"encoder": "small", "frozen": False}
    return few


@pytest.mark.parametrize("kind", KIND_NAMES)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_learns_from_a_small_network(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier, chosen = open_network(name), find_kind(kind)
    settings = chosen.presets.parse(find_config(kind, classifier))
    network = build_network(settings, classifier, seed=0)
    images = torch.rand(4, classifier.channels, *classifier.size)
    module = chosen.build_training(network, classifier, settings, 0)
    monkeypatch.setattr(module, "step_generator", lambda: torch.Generator().manual_seed(0))
    monkeypatch.setattr(module, "log_terms", lambda terms, figures: None)
    lines: list[str] = []
    source = _open_noise(tmp_path, classifier, 12)
    module.prepare_network(TrainingImages(source, classifier), tmp_path, lines.append)
    network.train()
    loss = module.training_step(images, 0)
    loss.backward()
    assert loss.isfinite()
    explainer = chosen.explainer(network, _describe(classifier), settings, {})
    maps = explainer.attribute(images, 1)
    assert maps.shape == (4, *classifier.size) and maps.isfinite().all()
    if kind in ("mask", "counterpart") and name in ("pooled_twice", "stride_1", "one_layer"):
        assert any("resolution: " in line and "stride" in line for line in lines)


def _open_noise(folder: Path, classifier: Classifier, count: int) -> ImageSource:
    """Images of as many channels as the classifier takes, as a stack."""
    shape = (count, classifier.channels, *classifier.size)
    stack = np.random.default_rng(0).random(shape).astype(np.float32)
    np.savez(folder / "noise.npz", images=stack)
    return open_images(folder / "noise.npz", channels=classifier.channels)


def _describe(classifier: Classifier) -> Any:
    from apercu.explainers.classifier_info import ClassifierInfo

    return ClassifierInfo.from_classifier(classifier)


@pytest.mark.parametrize("decoder", [{"form": "shared"}, {"residual": "bottleneck"}])
def test_both_decoders_fit_features_as_fine_as_the_image(decoder: dict[str, Any]) -> None:
    classifier = open_network("stride_1")
    presets = find_kind("mask").presets
    network = build_network(presets.parse({"decoder": decoder}), classifier, seed=0)
    log_odds = network.decode(network.encode(torch.rand(2, 1, 28, 28)), torch.tensor([0, 2]))
    assert log_odds.shape == (2, 28, 28)


def test_a_resolution_that_is_no_power_of_two_is_refused() -> None:
    presets = find_kind("mask").presets
    settings = presets.parse({"decoder": {"resolution": 3}})
    with pytest.raises(ConfigError, match=r"decoder.resolution: expected a power of two, got 3"):
        build_network(settings, open_network("strided"), seed=0)


def test_the_encoder_from_scratch_suits_small_images(tmp_path: Path) -> None:
    classifier = open_network("tiny")
    settings = find_kind("mask").presets.parse({"preset": "small", "embedding": {"steps": 2}})
    network = build_network(settings, classifier, seed=0)
    images = TrainingImages(Planted(images=12, size=32, classes=3), classifier)
    phase = EmbeddingPhase(classifier, images, 0, tmp_path, lambda line: None)
    assert phase.run(network, settings.embedding).keys() == {"embedding_agreement"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KIND_NAMES)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_is_trained_for_a_small_network(name: str, kind: str, tmp_path: Path) -> None:
    classifier = open_network(name)
    images = _open_noise(tmp_path, classifier, 24)
    lines: list[str] = []
    explainer = apercu.train(
        classifier,
        images,
        tmp_path / "run",
        kind=kind,
        steps=2,
        batch=4,
        device="cpu",
        workers=0,
        say=lines.append,
    )
    inputs = torch.rand(2, classifier.channels, *classifier.size)
    again = apercu.load_explainer(tmp_path / "run")
    torch.testing.assert_close(again(inputs, 1), explainer(inputs, 1), atol=1e-3, rtol=0)
