from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from apercu.classifiers import Classifier
from apercu.errors import ClassifierError
from apercu.methods import GradCam
from apercu.methods.grad_cam_pp import GradCamPlusPlus
from apercu.methods.layers import layer_gradients

Opened = Callable[[nn.Module], Classifier]


def literal(features: torch.Tensor, rest: nn.Module, target: int) -> torch.Tensor:
    """Chattopadhay et al., equations 6 and 10: real derivatives of exp(score), double precision."""
    features, rest = features.detach().double(), rest.double()
    channels, rows, columns = features.shape
    moves = torch.zeros(features.numel(), dtype=torch.double, requires_grad=True)
    moved = features + torch.diag(moves).view(-1, channels, rows, columns)
    score = rest(moved)[:, target].exp().sum()
    slopes = []
    for _ in range(3):
        (score,) = torch.autograd.grad(score.sum(), moves, create_graph=True)
        slopes.append(score.detach().view(channels, rows, columns))
    coarse = torch.zeros(rows, columns, dtype=torch.double)
    for k in range(channels):
        shares = slopes[1][k] / (2 * slopes[1][k] + features[k].sum() * slopes[2][k])
        coarse += (shares * slopes[0][k].clamp(min=0)).sum() * features[k]
    return coarse.clamp(min=0).float()


class Rest(nn.Module):
    """A smooth nonlinearity and a linear layer, so that gradients differ between positions."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.places = nn.Linear(8 * 6 * 8, 4)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.places(features.flatten(1))


def test_is_the_literal_formula_on_the_last_features(
    opened: Opened, images: torch.Tensor, targets: torch.Tensor
) -> None:
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU())
    network = nn.Sequential(first, Rest())
    features = first(images.clone())
    expected = []
    for one, image_target in zip(features, targets.tolist(), strict=True):
        scale = network(images)[:, image_target].exp()
        coarse = literal(one, Rest(), image_target) / scale[len(expected)].item()
        expected.append(F.interpolate(coarse[None, None], size=(24, 32), mode="bilinear")[0, 0])
    maps = GradCamPlusPlus()(opened(network), images, targets)
    assert maps.amax(dim=(1, 2)).min() > 0.001
    torch.testing.assert_close(maps, torch.stack(expected), atol=1e-6, rtol=1e-4)
    assert not torch.allclose(maps, GradCam()(opened(network), images, targets), atol=1e-3)


def test_of_a_mean_and_a_linear_layer_is_a_sum_of_supporting_channels(
    residual: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    """All positions are equal: a weight above 0 counts as weight / (2 + mean · weight)."""
    network = residual.module
    assert network is not None
    with torch.no_grad():
        features = network.stages(network.stem(residual.normalise(images)))
        weights = network.head.weight[targets]
        shares = weights.clamp(min=0) / (2 + features.mean(dim=(2, 3)) * weights)
        coarse = torch.einsum("bc,bchw->bhw", shares, features)
    expected = F.interpolate(coarse[:, None], size=(24, 32), mode="bilinear")[:, 0]
    maps = GradCamPlusPlus()(residual, images, targets)
    torch.testing.assert_close(maps, expected, atol=1e-6, rtol=1e-4)


def test_features_are_those_of_the_layer_though_the_next_writes_into_them(
    squeezed: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    assert squeezed.module is not None
    layer = squeezed.module[0][0]
    (passed,) = layer_gradients(squeezed, [layer], images, targets)
    assert passed.features.min() < 0
    torch.testing.assert_close(passed.features, layer(squeezed.normalise(images)))
    assert (passed.gradients[passed.features < 0] == 0).all()


class Tokens(nn.Module):
    """A convolution to 3 × 4 tokens, a linear layer on each, a class token in front."""

    def __init__(self, extra: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Conv2d(3, 8, 8, stride=8)
        self.block = nn.Linear(8, 8)
        self.head = nn.Linear(8, 4)
        self.extra = extra

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.embed(images).flatten(2).transpose(1, 2)
        tokens = torch.cat((torch.ones(len(tokens), self.extra, 8), tokens), dim=1)
        tokens = self.block(tokens)[:, self.extra :]
        return self.head(torch.relu(tokens).mean(dim=1))


class Places(Tokens):
    """The same in convolutions."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        places = torch.einsum("oc,bchw->bohw", self.block.weight, self.embed(images))
        features = self.mark(places + self.block.bias[:, None, None])
        return self.head(torch.relu(features).mean(dim=(2, 3)))

    def __init__(self) -> None:
        super().__init__(0)
        self.mark = nn.Identity()


@pytest.mark.parametrize("extra", [0, 1, 5])
def test_a_layer_of_tokens_can_be_named(
    extra: int, opened: Opened, images: torch.Tensor, targets: torch.Tensor
) -> None:
    maps = GradCamPlusPlus("block")(opened(Tokens(extra)), images, targets)
    expected = GradCamPlusPlus("mark")(opened(Places()), images, targets)
    assert expected.max() > 0
    torch.testing.assert_close(maps, expected, atol=1e-6, rtol=1e-4)


def test_a_layer_without_positions_is_refused(
    residual: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    with pytest.raises(ClassifierError, match="tests:network gives no feature map there"):
        GradCamPlusPlus("head")(residual, images, targets)


def test_a_misspelt_layer_suggests_the_nearest(
    residual: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    with pytest.raises(ClassifierError, match=r"no layer 'stage\.1'; did you mean stages\.1\?"):
        GradCamPlusPlus(layer="stage.1")(residual, images, targets)


def test_a_black_box_is_refused(
    black_box: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    with pytest.raises(ClassifierError, match="grad_cam_pp needs a classifier with gradients"):
        GradCamPlusPlus()(black_box, images, targets)
