from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from captum.attr import GuidedBackprop as CaptumGuidedBackprop
from torch import nn

from apercu.classifiers import Classifier, open_classifier
from apercu.errors import ClassifierError
from apercu.methods import Gradient
from apercu.methods.guided_backprop import GuidedBackprop

Opened = Callable[[nn.Module], Classifier]


class Network(nn.Module):
    """Two convolutions, each with the same kind of ReLU after it."""

    def __init__(self, relu: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 6, 3, stride=2)
        self.second = nn.Conv2d(6, 8, 3, stride=2)
        self.head = nn.Linear(8, 4)
        self.relu = relu

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.relu(self.second(self.relu(self.first(images))))
        return self.head(features.mean(dim=(2, 3)))


def test_equals_captum_where_relus_are_layers(
    opened: Opened, images: torch.Tensor, targets: torch.Tensor
) -> None:
    classifier = opened(Network(nn.ReLU()))
    with pytest.warns(UserWarning, match="backward hooks on ReLU"):
        captum = CaptumGuidedBackprop(classifier.module)
        expected = captum.attribute(images.clone().requires_grad_(), target=targets)
    maps = GuidedBackprop()(classifier, images, targets)
    torch.testing.assert_close(maps, expected.abs().amax(dim=1), atol=1e-7, rtol=1e-4)
    assert not torch.allclose(maps, Gradient()(classifier, images, targets))


def ignored(features: torch.Tensor) -> torch.Tensor:
    features.relu_()
    return features


@pytest.mark.parametrize(
    "relu",
    [
        *(nn.ReLU(inplace=True), nn.ReLU6(), nn.ReLU6(inplace=True)),
        *(F.relu, torch.relu, F.relu6, torch.Tensor.relu_, ignored),
    ],
    ids=lambda relu: getattr(relu, "__name__", str(relu)),
)
def test_every_relu_is_reached(
    relu: Callable[[torch.Tensor], torch.Tensor],
    opened: Opened,
    images: torch.Tensor,
    targets: torch.Tensor,
) -> None:
    expected = GuidedBackprop()(opened(Network(nn.ReLU())), images, targets)
    maps = GuidedBackprop()(opened(Network(relu)), images, targets)
    torch.testing.assert_close(maps, expected)


def test_of_one_hidden_layer_sums_open_units_that_support_the_class(
    opened: Opened, images: torch.Tensor, targets: torch.Tensor
) -> None:
    torch.manual_seed(0)
    hidden, scores = nn.Linear(3 * 24 * 32, 9), nn.Linear(9, 4)
    classifier = opened(nn.Sequential(nn.Flatten(), hidden, nn.ReLU6(), scores))
    with torch.no_grad():
        hidden.bias[0] += 20  # above 6, where ReLU6 is flat
        units = hidden(images.flatten(1))
        through = scores.weight[targets].clamp(min=0) * ((units > 0) & (units < 6))
        expected = (through @ hidden.weight).view(3, 3, 24, 32).abs().amax(dim=1)
    torch.testing.assert_close(GuidedBackprop()(classifier, images, targets), expected)


def test_an_exported_program_is_guided_too(
    opened: Opened, images: torch.Tensor, targets: torch.Tensor, tmp_path: Path
) -> None:
    network = Network(nn.ReLU(inplace=True)).eval()
    batch = torch.export.Dim("batch")
    program = torch.export.export(network, (images,), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "network.pt2")
    classifier = open_classifier(tmp_path / "network.pt2")
    expected = GuidedBackprop()(opened(network), images, targets)
    torch.testing.assert_close(GuidedBackprop()(classifier, images, targets), expected)


def test_nothing_is_guided_afterwards_or_after_an_error(
    opened: Opened, images: torch.Tensor, targets: torch.Tensor
) -> None:
    classifier = opened(Network(nn.ReLU()))
    expected = Gradient()(classifier, images, targets)
    GuidedBackprop()(classifier, images, targets)
    assert torch.equal(Gradient()(classifier, images, targets), expected)
    with pytest.raises(RuntimeError, match="out of bounds"):
        GuidedBackprop().compute_maps(classifier, images, targets + 9)
    assert torch.equal(Gradient()(classifier, images, targets), expected)


@pytest.mark.parametrize("other", [nn.Hardtanh(), nn.GELU(), nn.Identity()], ids=str)
def test_a_classifier_without_relu_is_refused(
    other: nn.Module, opened: Opened, images: torch.Tensor, targets: torch.Tensor
) -> None:
    with pytest.raises(ClassifierError, match="ReLU or ReLU6; tests:network has none"):
        GuidedBackprop()(opened(Network(other)), images, targets)


def test_a_black_box_is_refused(
    black_box: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    with pytest.raises(ClassifierError, match="guided_backprop needs a classifier with gradients"):
        GuidedBackprop()(black_box, images, targets)
