from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from apercu.classifiers import Classifier, open_classifier
from apercu.errors import ClassifierError
from apercu.maps import resize_maps
from apercu.methods.excitation_backprop import ExcitationBackprop


def dense(layer: nn.Conv2d, shape: torch.Size) -> torch.Tensor:
    """A convolution without its bias as a matrix, outputs × inputs."""
    basis = torch.eye(shape.numel()).view(-1, *shape)
    return F.conv2d(basis, layer.weight, None, layer.stride, layer.padding).flatten(1).T


def shared(p: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """Zhang et al., equation 5: each winner's probability, divided among its inputs."""
    result = torch.zeros_like(x)
    for winner, row in zip(p, w, strict=True):
        excited = x.clamp(min=0) * row.clamp(min=0)
        if excited.sum() > 0:
            result += winner * excited / excited.sum()
    return result


def literal(classifier: Classifier, image: torch.Tensor, target: int, sign: int) -> torch.Tensor:
    """Probabilities at the stem of the `residual` network, 12 × 16."""
    network = classifier.module
    assert network is not None
    values, weights = [network.stem((image[None] - 0.5) / 0.25).flatten()], []  # type: ignore[operator]
    for stage, size in zip(network.stages, ((6, 12, 16), (8, 6, 8)), strict=True):  # type: ignore[arg-type]
        pair = [
            (dense(side, torch.Size(size)), side.bias.repeat_interleave(48))
            for side in (stage.body, stage.side)
        ]
        weights.append(pair)
        values.append(torch.stack([w @ values[-1] + b for w, b in pair]).sum(dim=0).relu())
    last = values[-1].view(8, 48)
    p = shared(torch.ones(1), last.mean(dim=1), sign * network.head.weight[target : target + 1])  # type: ignore[union-attr, index]
    p = (p[:, None] * last / last.sum(dim=1, keepdim=True).clamp(min=1e-30)).flatten()
    for x, pair in zip(values[-2::-1], weights[::-1], strict=True):
        terms = torch.stack([w @ x + b for w, b in pair]).clamp(min=0)
        each = p * terms / terms.sum(dim=0).clamp(min=1e-30)
        p = torch.stack([shared(one, x, w) for one, (w, _) in zip(each, pair, strict=True)]).sum(0)
    return p.view(6, 12, 16).sum(dim=0)


def test_equals_the_literal_probabilities(
    residual: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    coarse = [literal(residual, *one, sign=1) for one in zip(images, targets.tolist(), strict=True)]
    expected = resize_maps(torch.stack(coarse), (24, 32))
    maps = ExcitationBackprop()(residual, images, targets)
    torch.testing.assert_close(maps, expected, atol=1e-6, rtol=1e-4)
    named = ExcitationBackprop(layer="stem")(residual, images, targets)
    torch.testing.assert_close(named, maps)


def test_contrastive_subtracts_what_wins_with_the_last_weights_negated(
    residual: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    differences = [
        literal(residual, *one, sign=1) - literal(residual, *one, sign=-1)
        for one in zip(images, targets.tolist(), strict=True)
    ]
    expected = resize_maps(torch.stack(differences).clamp(min=0), (24, 32))
    maps = ExcitationBackprop(contrastive=True)(residual, images, targets)
    assert expected.max() > 1e-3
    torch.testing.assert_close(maps, expected, atol=1e-6, rtol=1e-3)


def test_the_logit_itself_changes_nothing(
    residual: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    """The winner is given: a class with a negative logit is explained like any other."""
    first = ExcitationBackprop()(residual, images, targets)
    residual.module.head.bias.sub_(5.0)  # type: ignore[union-attr, operator]
    assert residual(images).max() < 0
    torch.testing.assert_close(ExcitationBackprop()(residual, images, targets), first)


def test_probabilities_add_up_to_one_at_every_layer(
    opened: Callable[[nn.Module], Classifier], images: torch.Tensor, targets: torch.Tensor
) -> None:
    torch.manual_seed(1)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, bias=False),
        nn.BatchNorm2d(6, affine=False),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 8, 3, bias=False),
        nn.ReLU6(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(8, 8, 3, bias=False),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    for layer in (3, 6, 10):
        network[layer].weight.data.add_(0.05)
    classifier = opened(network)
    for name in ("7", "5", "4", "2"):
        coarse = network[: int(name) + 1](images).shape[2:]
        won = ExcitationBackprop(layer=name)(classifier, images, targets)
        down, across = (_enlargement(*pair) for pair in zip((24, 32), coarse, strict=True))
        back = torch.linalg.pinv(down) @ won @ torch.linalg.pinv(across).T
        torch.testing.assert_close(back.sum(dim=(1, 2)), torch.ones(3), atol=1e-3, rtol=0)


class Difference(nn.Module):
    """Maps of both signs from a difference, and their mean."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.one, self.two = nn.Conv2d(3, 1, 8, stride=8), nn.Conv2d(3, 1, 8, stride=8)
        self.head = nn.Linear(1, 4)
        self.head.weight.data.abs_()
        self.kind = kind

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        first = self.one(images)
        if self.kind == "maps":
            first = first - self.two(images)
        elif self.kind == "mean":
            first = first - first.mean((2, 3), keepdim=True)
        elif self.kind == "constant":
            first = 1 - first
        elif self.kind == "scaled":
            first = torch.sub(first, self.two(images), alpha=2)
        elif self.kind == "named":
            first = torch.add(input=first, other=self.two(images))
        elif self.kind == "enlarged":
            first = nn.functional.interpolate(first, scale_factor=2, mode="bilinear")
        return self.head(first.mean((2, 3)))


@pytest.mark.parametrize(
    "kind", ["plain", "maps", "mean", "constant", "scaled", "named", "enlarged"]
)
def test_probabilities_are_never_negative(
    kind: str, opened: Callable[[nn.Module], Classifier], images: torch.Tensor
) -> None:
    classifier = opened(Difference(kind))
    targets = torch.tensor([0, 1, 2])
    maps = ExcitationBackprop(layer="one")(classifier, images, targets)
    assert maps.min() >= 0 and (maps.max() > 0 or kind == "constant")
    if kind == "plain":
        assert classifier.module is not None
        inside = classifier.module.one(classifier.normalise(images)).clamp(min=0)
        weights = classifier.module.head.weight[targets].clamp(min=0)
        sums = inside.sum((2, 3), keepdim=True)
        won = inside / sums * (weights * sums[..., 0, 0])[..., None, None]
        won = (won / won.sum((1, 2, 3), keepdim=True)).sum(1).detach()
        torch.testing.assert_close(maps, resize_maps(won, (24, 32)), atol=1e-5, rtol=1e-3)


class OneNumber(nn.Module):
    """The logit of one class: the mean of a map, a multiple of it, or its maximum."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, stride=4), nn.ReLU())
        self.score = nn.Conv2d(6, 1, 1)
        self.kind = kind

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores = self.score(self.body(images))
        if self.kind == "maximum":
            return scores.amax((2, 3))
        return scores.mean((2, 3)) * (3 if self.kind == "multiple" else 1)


def test_the_absence_of_one_class_is_explained_where_its_logit_is_a_multiple(
    images: torch.Tensor,
) -> None:
    def explain(kind: str) -> torch.Tensor:
        classifier = open_classifier(OneNumber(kind), size=(24, 32), output="sigmoid")
        return ExcitationBackprop()(classifier, images, torch.tensor([0, 1, 0]))

    torch.testing.assert_close(explain("multiple"), explain("plain"), atol=1e-5, rtol=1e-3)
    assert explain("plain")[0].max() > 0
    with pytest.raises(ClassifierError, match="needs a classifier whose logits are those of one"):
        explain("maximum")


def _enlargement(length: int, cells: int) -> torch.Tensor:
    """The resize of one axis as a matrix."""
    return resize_maps(torch.eye(cells)[:, None], (1, length))[:, 0].T


def test_without_a_finer_stage_the_first_map_is_used(
    squeezed: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    maps = ExcitationBackprop()(squeezed, images, targets)
    torch.testing.assert_close(maps, ExcitationBackprop(layer="0.0")(squeezed, images, targets))


class TestRefusals:
    def test_a_black_box(
        self, black_box: Classifier, images: torch.Tensor, targets: torch.Tensor
    ) -> None:
        with pytest.raises(ClassifierError, match="excitation_backprop needs a classifier with"):
            ExcitationBackprop()(black_box, images, targets)

    def test_a_layer_that_does_not_exist(
        self, residual: Classifier, images: torch.Tensor, targets: torch.Tensor
    ) -> None:
        with pytest.raises(ClassifierError, match=r"no layer 'stam'; did you mean stem\?"):
            ExcitationBackprop(layer="stam")(residual, images, targets)

    def test_a_layer_that_gives_no_map(
        self, residual: Classifier, images: torch.Tensor, targets: torch.Tensor
    ) -> None:
        with pytest.raises(ClassifierError, match="gives no feature map in"):
            ExcitationBackprop(layer="head")(residual, images, targets)
