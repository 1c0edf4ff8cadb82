from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from apercu.classifiers import Classifier, ClassifierCard, InputSpec, wrap_module
from apercu.classifiers.outputs import OutputName
from apercu.errors import ClassifierError
from apercu.methods import Cam, ExcitationBackprop


def test_is_weights_times_features_before_a_mean(
    residual: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    network = residual.module
    assert network is not None
    with torch.no_grad():
        features = network.stages(network.stem(residual.normalise(images)))
        coarse = torch.stack(
            [
                sum(network.head.weight[target, k] * one[k] for k in range(len(one)))
                for one, target in zip(features, targets.tolist(), strict=True)
            ]
        )
    expected = F.interpolate(coarse[:, None], size=(24, 32), mode="bilinear")[:, 0]
    torch.testing.assert_close(Cam()(residual, images, targets), expected, atol=1e-5, rtol=1e-4)


def test_its_mean_is_the_logit_without_the_bias(
    residual: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    """The mean over the coarse positions; bilinear enlargement keeps it except at the edges."""
    assert residual.module is not None
    logits = residual(images)[range(3), targets] - residual.module.head.bias[targets]
    means = Cam()(residual, images, targets).mean(dim=(1, 2))
    torch.testing.assert_close(means, logits, atol=1e-4, rtol=1e-2)


def test_of_a_convolution_to_the_classes_is_its_answer_without_the_bias(
    squeezed: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    assert squeezed.module is not None
    first, second = squeezed.module[0], squeezed.module[1][1]
    with torch.no_grad():
        coarse = F.conv2d(first(squeezed.normalise(images)), second.weight)[range(3), targets]
    expected = F.interpolate(coarse[:, None], size=(24, 32), mode="bilinear")[:, 0]
    torch.testing.assert_close(Cam()(squeezed, images, targets), expected, atol=1e-5, rtol=1e-4)


def test_works_without_gradients_anywhere(
    residual: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    with torch.inference_mode():
        assert Cam()(residual, images, targets).shape == (3, 24, 32)


@pytest.mark.parametrize(
    "ending",
    [
        [nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 4)],
        [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)],
        [nn.Flatten(), nn.LazyLinear(4)],
    ],
    ids=["max", "hidden", "flat"],
)
def test_other_endings_are_refused(
    ending: list[nn.Module],
    opened: Callable[[nn.Module], Classifier],
    images: torch.Tensor,
    targets: torch.Tensor,
) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.ReLU(), *ending)
    network(images)
    with pytest.raises(ClassifierError, match=r"one linear layer; tests:network ends otherwise"):
        Cam()(opened(network), images, targets)


@pytest.mark.parametrize(
    ("layers", "is_one"),
    [
        ([nn.Conv2d(3, 8, 3, stride=32), nn.ReLU()], True),
        ([nn.Conv2d(3, 8, 3, stride=4), nn.MaxPool2d((6, 8))], True),
        ([nn.Conv2d(3, 8, 3, stride=4), nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1)], False),
    ],
    ids=["convolution", "maximum", "convolution after the mean"],
)
def test_a_last_map_of_one_position_is_the_reason(
    layers: list[nn.Module],
    is_one: bool,
    opened: Callable[[nn.Module], Classifier],
    images: torch.Tensor,
    targets: torch.Tensor,
) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 3, 1), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )
    reason = r"tests:network is 1 × 1 for images of 24 × 32 pixels: choose grad_cam"
    with pytest.raises(ClassifierError, match=reason if is_one else "ends otherwise"):
        Cam()(opened(network), images, targets)


class TwoHeads(nn.Module):
    """Two layers read the same mean: their mean is the output, or each is one of two outputs."""

    def __init__(self, *, mean: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.ReLU())
        self.species, self.sex = nn.Linear(8, 4), nn.Linear(8, 4)
        self.mean = mean

    def forward(self, images: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        pooled = self.stem(images).mean(dim=(2, 3))
        species, sex = self.species(pooled), self.sex(pooled)
        return (species + sex) / 2 if self.mean else {"species": species, "sex": sex}


def test_two_heads_that_are_averaged_are_refused(
    opened: Callable[[nn.Module], Classifier], images: torch.Tensor, targets: torch.Tensor
) -> None:
    classifier = opened(TwoHeads(mean=True))
    with pytest.raises(ClassifierError, match=r"one linear layer; tests:network ends otherwise"):
        Cam()(classifier, images, targets)
    with pytest.raises(ClassifierError, match="ends otherwise: leave contrastive out"):
        ExcitationBackprop(contrastive=True)(classifier, images, targets)
    assert ExcitationBackprop()(classifier, images, targets).shape == (3, 24, 32)


@pytest.mark.parametrize("name", ["species", "sex"])
def test_of_two_outputs_the_layer_of_the_chosen_one_counts(
    name: str, images: torch.Tensor, targets: torch.Tensor
) -> None:
    network = TwoHeads(mean=False)
    inside = InputSpec(channels=3, size=(24, 32))
    for one in (name, "sex", name):  # the same network may be opened for several outputs
        card = ClassifierCard(source="tests:network", input=inside, output_name=one)
        maps = Cam()(wrap_module(network, card), images, targets)
    weights = network.get_submodule(name).weight[targets]
    features = network.stem(images)
    expected = F.interpolate(
        torch.einsum("bc,bchw->bhw", weights, features)[:, None], (24, 32), mode="bilinear"
    )[:, 0]
    torch.testing.assert_close(maps, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("ending", "output"),
    [
        (nn.Softmax(1), "probabilities"),
        (nn.LogSoftmax(1), "logits"),
        (nn.Sigmoid(), "sigmoid_probabilities"),
        (nn.Identity(), "sigmoid"),
    ],
)
def test_what_follows_the_last_layer_may_be_a_softmax_or_a_sigmoid(
    ending: nn.Module,
    output: OutputName,
    residual: Classifier,
    images: torch.Tensor,
    targets: torch.Tensor,
) -> None:
    assert residual.module is not None
    network = nn.Sequential(residual.module, ending)
    card = ClassifierCard(source="tests:network", input=residual.network.input, output=output)
    torch.testing.assert_close(
        Cam()(wrap_module(network, card), images, targets), Cam()(residual, images, targets)
    )


def test_a_black_box_is_refused(
    black_box: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    with pytest.raises(ClassifierError, match="tests:asked exposes no layers"):
        Cam()(black_box, images, targets)
