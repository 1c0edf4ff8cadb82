from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from apercu.classifiers import Classifier
from apercu.errors import ClassifierError
from apercu.methods.zoom_cam import ZoomCam


def literal(
    classifier: Classifier, layers: list[str], images: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Shi et al., one image and one layer at a time."""
    assert classifier.module is not None
    maps = []
    for image, target in zip(images, targets.tolist(), strict=True):
        whole = torch.zeros(image.shape[1:])
        for layer in layers:
            seen: list[torch.Tensor] = []
            handle = classifier.module.get_submodule(layer).register_forward_hook(
                lambda module, inputs, output, seen=seen: seen.append(output)
            )
            logit = classifier(image[None].clone().requires_grad_())[0, target]
            handle.remove()
            for features in seen:
                (slopes,) = torch.autograd.grad(logit, features, retain_graph=True)
                coarse = (features[0] * slopes[0]).sum(dim=0).clamp(min=0).detach()
                if coarse.max() > coarse.min():
                    coarse = (coarse - coarse.min()) / (coarse.max() - coarse.min())
                fine = F.interpolate(coarse[None, None], size=image.shape[1:], mode="bilinear")
                whole = torch.maximum(whole, fine[0, 0])
        maps.append(whole)
    return torch.stack(maps)


@pytest.mark.parametrize(
    ("network", "layers"),
    [
        ("residual", ["stem.2", "stages"]),  # ReLUs of the stages are no layers
        ("squeezed", ["0.1"]),  # not the ReLU of the scores
    ],
)
def test_is_the_literal_formula_on_all_activations_and_the_last_features(
    network: str,
    layers: list[str],
    images: torch.Tensor,
    targets: torch.Tensor,
    request: pytest.FixtureRequest,
) -> None:
    classifier = request.getfixturevalue(network)
    expected = literal(classifier, layers, images, targets)
    assert expected.amax(dim=(1, 2)).min() > 0.5
    maps = ZoomCam()(classifier, images, targets)
    torch.testing.assert_close(maps, expected, atol=1e-5, rtol=1e-3)


def test_layers_can_be_named_in_any_order(
    residual: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    names = ("stages.1", "stem.1", "stages.0")
    maps = ZoomCam(names)(residual, images, targets)
    expected = literal(residual, ["stages.0", "stages.1"], images, targets)
    stem = ZoomCam(("stem.1",))(residual, images, targets)
    torch.testing.assert_close(maps, torch.maximum(expected, stem), atol=1e-5, rtol=1e-3)
    assert not torch.allclose(maps, ZoomCam()(residual, images, targets), atol=1e-2)


class Shared(nn.Module):
    """One ReLU layer that is called twice, as in torchvision's residual networks."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 6, 3, stride=2)
        self.second = nn.Conv2d(6, 6, 3, stride=2)
        self.relu = nn.ReLU()
        self.head = nn.Linear(6, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.relu(self.second(self.relu(self.first(images))))
        return self.head(features.mean(dim=(2, 3)))


def test_a_layer_called_twice_counts_twice(
    opened: Callable[[nn.Module], Classifier], images: torch.Tensor, targets: torch.Tensor
) -> None:
    classifier = opened(Shared())
    maps = ZoomCam(("relu",))(classifier, images, targets)
    expected = literal(classifier, ["relu"], images, targets)
    torch.testing.assert_close(maps, expected, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(ZoomCam()(classifier, images, targets), expected)


def test_a_misspelt_layer_suggests_the_nearest(
    residual: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    with pytest.raises(ClassifierError, match=r"no layer 'stage\.1'; did you mean stages\.1\?"):
        ZoomCam(("stages", "stage.1"))(residual, images, targets)


def test_a_black_box_is_refused(
    black_box: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    with pytest.raises(ClassifierError, match="zoom_cam needs a classifier with gradients"):
        ZoomCam()(black_box, images, targets)
