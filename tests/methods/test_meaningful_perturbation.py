from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from apercu.classifiers import Classifier
from apercu.errors import ClassifierError, ConfigError
from apercu.explainers.mask.network import combine_fields
from apercu.explainers.mask.objectives import ExtentAndCore, MaskBatch
from apercu.methods.meaningful_perturbation import MeaningfulPerturbation, PerturbationAim
from apercu.networks.decoder import Evidence
from apercu.removal import Blur


def adam(
    values: torch.Tensor, slopes: torch.Tensor, state: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Kingma & Ba, algorithm 1, at the rate 0.1."""
    state["step"] = state.get("step", torch.tensor(0)) + 1
    state["first"] = 0.9 * state.get("first", torch.zeros_like(slopes)) + 0.1 * slopes
    state["second"] = 0.999 * state.get("second", torch.zeros_like(slopes)) + 0.001 * slopes**2
    first = state["first"] / (1 - 0.9 ** state["step"])
    second = state["second"] / (1 - 0.999 ** state["step"])
    return values - 0.1 * first / (second.sqrt() + 1e-8)


def literal(
    classifier: Classifier, image: torch.Tensor, target: int, aim: PerturbationAim, steps: int
) -> torch.Tensor:
    """Fong & Vedaldi's optimisation for one image of 24 × 32, written out."""
    generator = torch.Generator().manual_seed(0)
    soften, blurred = Blur(5 / 224).make_replacement, Blur(10 / 224).make_replacement(image[None])

    def enlarged(cells: torch.Tensor) -> torch.Tensor:
        up = F.interpolate(cells.sigmoid()[None, None], (24, 32), mode="bilinear")
        return soften(up)

    values, state = torch.zeros(6, 6), dict[str, torch.Tensor]()
    for _ in range(steps):
        cells = values.clone().requires_grad_()
        gone = enlarged(cells) if aim == "destroying" else 1 - enlarged(cells)
        perturbed = image * (1 - gone) + blurred * gone
        down, across = (torch.randint(3, (2,), generator=generator) - 1).tolist()
        rows = (torch.arange(24) + down).clamp(0, 23)
        columns = (torch.arange(32) + across).clamp(0, 31)
        probability = classifier(perturbed[:, :, rows][:, :, :, columns]).softmax(dim=1)[0, target]
        mask = cells.sigmoid()
        steps_between = (mask.diff(dim=0) ** 2).sum() + (mask.diff(dim=1) ** 2).sum()
        sign = 1 if aim == "destroying" else -1
        loss = 1e-3 * mask.sum() + 1e-2 * steps_between + sign * probability
        (slopes,) = torch.autograd.grad(loss, cells)
        values = adam(values, slopes, state)
    return enlarged(values)[0, 0]


@pytest.mark.parametrize("aim", ["destroying", "sufficient"])
def test_is_the_literal_optimisation(
    aim: PerturbationAim, residual: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    residual.module.head.weight.mul_(100)  # type: ignore[union-attr, operator]
    maps = MeaningfulPerturbation(aim, steps=4, cells=6)(residual, images[:2], targets[:2])
    expected = [
        literal(residual, image, target, aim, steps=4)
        for image, target in zip(images[:2], targets[:2].tolist(), strict=True)
    ]
    torch.testing.assert_close(maps, torch.stack(expected), atol=1e-4, rtol=0)
    assert maps.std() > 0.01


def test_full_learns_the_mask_explainers_objective(
    residual: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    image, target = images[:1], targets[:1]
    generator = torch.Generator().manual_seed(5)
    fields, state = torch.zeros(2, 1, 6, 6), dict[str, torch.Tensor]()
    objective = ExtentAndCore(sufficient=ExtentAndCore().sufficient / 2)
    for _ in range(3):
        open_fields = fields.clone().requires_grad_()
        question = MaskBatch(image, target, torch.tensor([True]), target)
        terms = objective.compute_terms(residual, question, Evidence(*open_fields), generator)
        (slopes,) = torch.autograd.grad(sum(terms.values()), open_fields)
        fields = adam(fields, slopes, state)
    joined = combine_fields(fields[0].sigmoid(), fields[1].sigmoid())[:, None]
    expected = F.interpolate(joined, (24, 32), mode="bilinear")[:, 0].sigmoid()
    method = MeaningfulPerturbation("full", steps=3, cells=6, seed=5)
    torch.testing.assert_close(method(residual, image, target), expected, atol=1e-4, rtol=0)


class Spot(nn.Module):
    """Class 0 is a bright spot of two by three pixels, anywhere."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        brightness = F.avg_pool2d(images.mean(dim=1), (2, 3), stride=1).amax(dim=(1, 2))
        return torch.stack((30 * (brightness - 0.75), torch.zeros_like(brightness)), dim=1)


@pytest.mark.parametrize("aim", ["destroying", "sufficient", "full"])
def test_finds_the_spot_that_makes_the_class(
    aim: PerturbationAim, opened: Callable[[nn.Module], Classifier]
) -> None:
    classifier = opened(Spot())
    image = torch.full((1, 3, 24, 32), 0.2)
    image[:, :, 6:8, 8:11] = 1.0
    assert classifier(image).softmax(dim=1)[0, 0] > 0.99
    mask = MeaningfulPerturbation(aim, steps=60, cells=12)(classifier, image, torch.tensor([0]))[0]
    inside, far = mask[6:8, 8:11].mean(), mask[14:, 18:].mean()
    assert inside > 0.5
    assert far < 0.5 * inside
    assert classifier(Blur()(image, mask[None])).softmax(dim=1)[0, 0] > 0.5
    if aim != "sufficient":
        assert classifier(Blur()(image, 1 - mask[None])).softmax(dim=1)[0, 0] < 0.5


def test_the_seed_changes_the_shifts(
    residual: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    for aim in ("destroying", "full"):
        first, same, other = (
            MeaningfulPerturbation(aim, steps=4, cells=6, seed=seed)(residual, images, targets)
            for seed in (0, 0, 1)
        )
        assert torch.equal(first, same)
        assert not torch.equal(first, other)


@pytest.mark.parametrize(("aim", "asked"), [("destroying", 1), ("sufficient", 1), ("full", 7)])
def test_queries_once_a_step_or_seven_times_for_the_full_objective(
    aim: PerturbationAim,
    asked: int,
    residual: Classifier,
    images: torch.Tensor,
    targets: torch.Tensor,
) -> None:
    before = residual.queries
    MeaningfulPerturbation(aim, steps=3, cells=6)(residual, images, targets)
    assert residual.queries - before == 3 * 3 * asked


def test_a_black_box_is_refused(
    black_box: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    with pytest.raises(ClassifierError, match="meaningful_perturbation needs a classifier with"):
        MeaningfulPerturbation()(black_box, images, targets)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "got steps 0"),
        ({"cells": 0}, "cells 0"),
        ({"rate": 0.0}, "rate 0"),
        ({"aim": "suficient"}, "got 'suficient'; did you mean sufficient"),
    ],
)
@pytest.mark.usefixtures("shapes_unchecked")
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=f"meaningful_perturbation: expected .*{message}"):
        MeaningfulPerturbation(**settings)  # type: ignore[arg-type]
