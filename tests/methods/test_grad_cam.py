from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from apercu.classifiers import Classifier
from apercu.errors import ClassifierError
from apercu.maps import resize_maps
from apercu.methods import Cam, GradCam
from apercu.methods.layers import compute_deep_features, find_target_layers
from apercu.pretraining.heads.fine_tuning import replace_head


def literal(
    classifier: Classifier, layer: str, images: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Selvaraju et al., equations 1 and 2, one image at a time."""
    assert classifier.module is not None
    received: list[torch.Tensor] = []
    handle = classifier.module.get_submodule(layer).register_forward_hook(
        lambda module, inputs, output: received.append(output)
    )
    maps = []
    for image, target in zip(images, targets.tolist(), strict=True):
        logit = classifier(image[None].clone().requires_grad_())[0, target]
        features = received.pop()
        (slopes,) = torch.autograd.grad(logit, features)
        coarse = sum(slopes[0, k].mean() * features[0, k] for k in range(features.shape[1])).clamp(
            min=0
        )  # type: ignore[union-attr]
        fine = F.interpolate(coarse[None, None], size=images.shape[2:], mode="bilinear")
        maps.append(fine[0, 0].detach())
    handle.remove()
    return torch.stack(maps)


@pytest.mark.parametrize(("network", "layer"), [("residual", "stages"), ("squeezed", "1.0")])
def test_is_the_literal_formula_on_the_last_features(
    network: str,
    layer: str,
    images: torch.Tensor,
    targets: torch.Tensor,
    request: pytest.FixtureRequest,
) -> None:
    classifier = request.getfixturevalue(network)
    assert find_target_layers(classifier, images).features == layer
    maps = GradCam()(classifier, images, targets)
    expected = literal(classifier, layer, images, targets)
    assert expected.max() > 0
    torch.testing.assert_close(maps, expected, atol=1e-6, rtol=1e-4)


def test_a_layer_can_be_named(
    residual: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    maps = GradCam(layer="stages.0")(residual, images, targets)
    torch.testing.assert_close(
        maps, literal(residual, "stages.0", images, targets), atol=1e-6, rtol=1e-4
    )
    assert not torch.allclose(maps, GradCam()(residual, images, targets))


def test_equals_cam_clipped_at_zero_for_a_mean_and_a_linear_layer(
    residual: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    places = 6 * 8
    coarse_cam = Cam()(residual, images, targets)
    grad_cam = GradCam()(residual, images, targets)
    positive = grad_cam > 0.01
    assert ((coarse_cam > 0) | ~positive).all()
    corner = coarse_cam[:, 0, 0].clamp(min=0) / places
    torch.testing.assert_close(grad_cam[:, 0, 0], corner, atol=1e-6, rtol=1e-4)


def test_a_misspelt_layer_suggests_the_nearest(
    residual: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    with pytest.raises(ClassifierError, match=r"no layer 'stage\.1'; did you mean stages\.1\?"):
        GradCam(layer="stage.1")(residual, images, targets)


def test_a_black_box_is_refused(
    black_box: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    with pytest.raises(ClassifierError, match="grad_cam needs a classifier with gradients"):
        GradCam()(black_box, images, targets)


class Patches(nn.Module):
    """A convolution to tokens, then layers on tokens, as in a vision transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 8, stride=8)
        self.block = nn.Linear(8, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.embed(images).flatten(2).transpose(1, 2)
        return self.head(self.block(tokens).mean(dim=1))


class ChannelsLast(nn.Module):
    """A map whose channels come last, as in Swin transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 8, stride=8)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.embed(images).permute(0, 2, 3, 1)).mean(dim=(1, 2)))


@pytest.mark.parametrize("network", [Patches, ChannelsLast])
def test_tokens_and_channels_that_come_last_are_feature_maps(
    network: type[nn.Module],
    opened: Callable[[nn.Module], Classifier],
    images: torch.Tensor,
    targets: torch.Tensor,
) -> None:
    torch.manual_seed(0)
    module = network()
    with torch.no_grad():
        places = module.embed(images)
        if isinstance(module, Patches):
            places = module.block(places.flatten(2).transpose(1, 2)).transpose(1, 2)
            places = places.reshape(len(images), 8, images.shape[2] // 8, images.shape[3] // 8)
        else:
            places = module.norm(places.movedim(1, 3)).movedim(3, 1)
        weighed = torch.einsum("bc,bchw->bhw", module.head.weight[targets], places)
    size = (images.shape[2], images.shape[3])
    classifier = opened(module)
    torch.testing.assert_close(
        GradCam()(classifier, images, targets),
        resize_maps(weighed.clamp(min=0) / places[0, 0].numel(), size),
        atol=1e-6,
        rtol=1e-4,
    )
    torch.testing.assert_close(Cam()(classifier, images, targets), resize_maps(weighed, size))


class Vector(nn.Module):
    """Layers on all pixels at once: no layer has positions."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(pixels, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.hidden(images.flatten(1)))


def test_a_network_without_positions_is_refused(
    opened: Callable[[nn.Module], Classifier], images: torch.Tensor, targets: torch.Tensor
) -> None:
    with pytest.raises(ClassifierError, match="no feature map or tokens"):
        GradCam()(opened(Vector(images[0].numel())), images, targets)


class Functional(nn.Module):
    """Two convolutions, and logits from a function of the mean of the last one."""

    def __init__(self, ending: str) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, stride=2), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 4, 3, padding=1, stride=2), nn.ReLU())
        self.directions = nn.Parameter(torch.randn(4, 4))
        self.ending = ending

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.second(self.first(images))
        pooled = maps.amax((2, 3)) if self.ending == "maximum" else maps.mean((2, 3))
        if self.ending == "cosine":
            return 9 * F.normalize(pooled, dim=1) @ F.normalize(self.directions, dim=1).T
        if self.ending == "distances":
            return -torch.cdist(pooled, self.directions)
        return F.linear(pooled, self.directions)


@pytest.mark.parametrize("ending", ["product", "cosine", "distances", "maximum"])
def test_the_last_map_is_the_last_one_also_where_no_layer_gives_the_logits(
    ending: str,
    opened: Callable[[nn.Module], Classifier],
    images: torch.Tensor,
    targets: torch.Tensor,
) -> None:
    torch.manual_seed(0)
    classifier = opened(Functional(ending))
    layers = find_target_layers(classifier, images)
    assert (layers.features, layers.head) == ("second", None)
    expected = literal(classifier, "second", images, targets)
    assert expected.max() > 0
    maps = GradCam()(classifier, images, targets)
    torch.testing.assert_close(maps, expected, atol=1e-6, rtol=1e-4)
    assert classifier.module is not None
    with torch.no_grad():
        features = classifier.module.second(classifier.module.first(classifier.normalise(images)))
    torch.testing.assert_close(
        compute_deep_features(classifier, images), features.mean((2, 3)), atol=1e-5, rtol=1e-4
    )
    with pytest.raises(ClassifierError, match="cam needs a classifier that ends in a mean"):
        Cam()(classifier, images, targets)
    with pytest.raises(ClassifierError, match=r"come from no nn\.Linear or nn\.Conv2d"):
        replace_head(classifier, images[0], 7, seed=0)


class Pooled(nn.Module):
    """Scores of all classes at each position, and logits that pool them in some way."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 4, 5, stride=4), nn.ReLU(), nn.Conv2d(4, 6, 1))
        self.map, self.rows = nn.Conv2d(6, 4, 1), nn.Linear(6, 4)
        self.kind = kind

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.body(images)
        if self.kind == "last":
            return self.rows(features.permute(0, 2, 3, 1)).amax((1, 2))
        if self.kind == "tokens":
            return self.rows(features.flatten(2).transpose(1, 2)).mean(1) * 3
        scores = self.map(features).flatten(2)
        if self.kind == "scaled":
            return scores.mean(2) * 3
        if self.kind == "softmax":
            return scores.amax(2).log_softmax(1)
        return scores.amax(2) if self.kind == "maximum" else scores.sum(2)


@pytest.mark.parametrize("kind", ["maximum", "sum", "scaled", "softmax", "tokens", "last"])
def test_a_layer_whose_scores_are_pooled_is_the_head(
    kind: str,
    opened: Callable[[nn.Module], Classifier],
    images: torch.Tensor,
    targets: torch.Tensor,
) -> None:
    classifier = opened(Pooled(kind))
    layers = find_target_layers(classifier, images)
    assert (layers.features, layers.gives_logits) == ("body", False)
    assert layers.head == ("rows" if kind in ("tokens", "last") else "map")
    maps = GradCam()(classifier, images, targets)
    torch.testing.assert_close(maps, literal(classifier, "body", images, targets))
    normal = classifier.normalise(images)
    assert classifier.module is not None
    with torch.no_grad():
        features = classifier.module.body(normal).mean((2, 3))
    torch.testing.assert_close(compute_deep_features(classifier, images), features)
    assert replace_head(classifier, images[0], 7, seed=0)(normal).shape == (len(images), 7)


class WithoutLayers(nn.Module):
    """A product of all pixels with weights: no layer at all."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(pixels, 4))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1) @ self.weights


def test_a_network_without_layers_is_refused(
    opened: Callable[[nn.Module], Classifier], images: torch.Tensor, targets: torch.Tensor
) -> None:
    classifier = opened(WithoutLayers(images[0].numel()))
    for method in (GradCam(), Cam()):
        with pytest.raises(ClassifierError, match="no feature map or tokens"):
            method(classifier, images, targets)
