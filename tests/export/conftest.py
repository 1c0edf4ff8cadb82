"""Untrained explainers of every preset, small enough to be exported in seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from apercu.classifiers import Classifier, open_classifier
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.explainers.counterpart.settings import COUNTERPART_PRESETS
from apercu.explainers.kind import find_kind
from apercu.explainers.latent.settings import LATENT_PRESETS
from apercu.explainers.mask.settings import MASK_PRESETS
from apercu.explainers.settings import ExplainerSettings

FAMILIES = {"mask": MASK_PRESETS, "counterpart": COUNTERPART_PRESETS, "latent": LATENT_PRESETS}
SMALL: dict[str, dict[str, Any]] = {
    "mask": {"decoder": {"width": 16, "resolution": 2}},
    "counterpart": {"generators": {"width": 16}},
    "latent": {"shape": {"side": 32, "code": 8, "width": 8, "reader": 16}},
}


def small_settings(kind: str, preset: str) -> ExplainerSettings:
    """A preset with few channels, and a small encoder in the place of a ResNet-50."""
    settings = {"preset": preset, **SMALL[kind]}
    if (kind, preset) == ("counterpart", "light"):
        settings["generators"] = {"width": 16, "resolution": 4}
    if getattr(FAMILIES[kind].presets[preset], "encoder", "").startswith("timm/"):
        settings["encoder"] = "timm/test_resnet"
    return FAMILIES[kind].parse(settings)


def built(kind: str, settings: ExplainerSettings, classifier: Classifier) -> Any:
    """An explainer with random weights, whose maps are neither flat nor all the same."""
    passport = ClassifierInfo.from_classifier(classifier)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        own = classifier if getattr(settings, "encoder", "") == "own" else None
        network = find_kind(kind).build_network(settings, passport, own, pretrained=False)
        if kind == "mask":
            network.gate.set_threshold(0.5, 0.0)
            layers = network.decoder.modules()  # the encoder may be the classifier's own
            for norm in (m for m in layers if isinstance(m, torch.nn.BatchNorm2d)):
                norm.weight.data.uniform_(0.5, 1.5)
        if kind == "counterpart":
            for head in (network.decoder.similar, network.decoder.adversarial):
                head.last.weight.data.normal_(0, 3)
    return find_kind(kind).explainer(network, passport, settings, {})


@pytest.fixture(scope="session")
def build_explainer() -> Callable[..., Any]:
    """The function that builds an explainer with random weights from its settings."""
    return built


@pytest.fixture(scope="session")
def classifier(tiny_card: Path) -> Classifier:
    return open_classifier(tiny_card)


@pytest.fixture(scope="session")
def explainer_of(classifier: Classifier) -> Callable[[str, str], Any]:
    """An explainer by kind and preset."""
    return lambda kind, preset: built(kind, small_settings(kind, preset), classifier)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def export_once(
    explainer_of: Callable[[str, str], Any], make_once: Callable[..., Path]
) -> Callable[..., tuple[Any, Path]]:
    """Exports an explainer, by kind and preset, into a folder of that name."""
    from apercu.deploy.export import ExportSettings, write_export

    def export(name: str, kind: str, preset: str, *formats: Any) -> tuple[Any, Path]:
        explainer = explainer_of(kind, preset)
        settings = ExportSettings(formats or ("onnx",))
        return explainer, make_once(name, lambda out: write_export(explainer, out, settings))

    return export


@pytest.fixture(scope="session")
def light(export_once: Callable[..., tuple[Any, Path]]) -> tuple[Any, Path]:
    """A mask explainer of the classifier's own layers, and its export in all formats."""
    return export_once("Light One", "mask", "light", "torch", "kserve")


@pytest.fixture(scope="session")
def small(export_once: Callable[..., tuple[Any, Path]]) -> tuple[Any, Path]:
    """A mask explainer with an encoder of its own, and its export, which does not predict."""
    return export_once("small-export", "mask", "small")


@pytest.fixture(scope="session")
def pair(export_once: Callable[..., tuple[Any, Path]]) -> tuple[Any, Path]:
    """A counterpart explainer of the classifier's own layers, and its export."""
    return export_once("pair-export", "counterpart", "light")
