"""Objectives against their formulas, written out pixel by pixel."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Generator, Tensor

from apercu.classifiers.decisions import ONE_CLASS
from apercu.explainers.mask.objectives import MaskBatch, Printed, Released
from apercu.explainers.mask.objectives.base import area, roughness
from apercu.explainers.mask.objectives.crop_search import compute_votes, find_boxes, score_boxes
from apercu.networks.decoder import Evidence

COUNT, SIDE, CLASSES = 3, 8, 4
WEIGHTS = torch.randn(CLASSES, 3 * SIDE * SIDE, generator=Generator().manual_seed(5)) / 8


def classifier(images: Tensor) -> Tensor:
    return images.flatten(1) @ WEIGHTS.T


@pytest.fixture
def question() -> MaskBatch:
    generator = Generator().manual_seed(1)
    images = torch.rand(COUNT, 3, SIDE, SIDE, generator=generator)
    real = torch.tensor([True, False, True])
    true = torch.tensor([1, 2, 3])
    return MaskBatch(images, torch.tensor([1, 0, 3]), real, true)


@pytest.fixture
def log_odds() -> Tensor:
    return torch.randn(COUNT, SIDE, SIDE, generator=Generator().manual_seed(2))


class Replacements:
    """The draws of `Alternative`, made again one by one."""

    def __init__(self, generator: Generator) -> None:
        self.generator = generator

    def draw(self, images: Tensor) -> Tensor:
        share = torch.rand(len(images), 1, 1, 1, generator=self.generator)
        colours = torch.rand(len(images), 3, 1, 1, generator=self.generator)
        noise = torch.randn(images.shape, generator=self.generator)
        plain = (colours + 0.05 * noise).clamp(0, 1)
        return torch.stack(
            [blurred(image) if share[i] < 0.5 else plain[i] for i, image in enumerate(images)]
        )


def blurred(image: Tensor) -> Tensor:
    """A Gaussian of σ = 10/224 of the side, cut at 3 σ, edges reflected, pixel by pixel."""
    sigma = 10 / 224 * SIDE
    reach = max(1, math.ceil(3 * sigma))
    kernel = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(-reach, reach + 1)]
    mirrored = image.new_zeros(3, SIDE + 2 * reach, SIDE + 2 * reach)
    for y in range(-reach, SIDE + reach):
        for x in range(-reach, SIDE + reach):
            row = -1 - y if y < 0 else 2 * SIDE - 1 - y if y >= SIDE else y
            column = -1 - x if x < 0 else 2 * SIDE - 1 - x if x >= SIDE else x
            mirrored[:, y + reach, x + reach] = image[:, row, column]
    out = torch.zeros_like(image)
    for y in range(SIDE):
        for x in range(SIDE):
            for i, a in enumerate(kernel):
                for j, b in enumerate(kernel):
                    out[:, y, x] += a * b * mirrored[:, y + i, x + j]
    return out / sum(kernel) ** 2


def total_variation(mask: Tensor) -> float:
    result = 0.0
    for y in range(SIDE):
        for x in range(SIDE):
            if y + 1 < SIDE:
                result += float(mask[y + 1, x] - mask[y, x]) ** 2
            if x + 1 < SIDE:
                result += float(mask[y, x + 1] - mask[y, x]) ** 2
    return result


def mixed(image: Tensor, mask: Tensor, other: Tensor) -> Tensor:
    return (image * mask + other * (1 - mask))[None]


def test_printed_is_equation_3(question: MaskBatch, log_odds: Tensor) -> None:
    objective = Printed(smoothness=0.3, area=2.0, destroyer=5.0, destroyer_power=0.3)
    terms = objective.compute_terms(
        classifier, question, Evidence(log_odds, log_odds), Generator().manual_seed(7)
    )
    draws = Replacements(Generator().manual_seed(7))
    first, second = draws.draw(question.images), draws.draw(question.images)
    masks = log_odds.sigmoid()
    for i, image in enumerate(question.images):
        mask, target = masks[i], int(question.targets[i])
        assert terms["area"][i].item() == pytest.approx(2.0 * mask.mean().item(), rel=1e-5)
        if not question.real[i]:
            for name in ("smoothness", "preserver", "destroyer"):
                assert terms[name][i] == 0
            continue
        kept = classifier(mixed(image, mask, first[i])).softmax(1)[0, target].item()
        left = classifier(mixed(image, 1 - mask, second[i])).softmax(1)[0, target].item()
        expected = {
            "smoothness": 0.3 * total_variation(mask),
            "preserver": -math.log(kept),
            "destroyer": 5.0 * left**0.3,
        }
        for name, value in expected.items():
            assert terms[name][i].item() == pytest.approx(value, rel=1e-3), name


def test_released_has_hinges_on_the_true_class(question: MaskBatch, log_odds: Tensor) -> None:
    objective = Released(smoothness=0.2, area=3.0, area_power=0.3, preserver=0.7, destroyer=0.9)
    terms = objective.compute_terms(
        classifier, question, Evidence(log_odds, log_odds), Generator().manual_seed(9)
    )
    generator = Generator().manual_seed(9)
    noisy = question.images + 0.015 * torch.randn(question.images.shape, generator=generator)
    noisy = noisy.clamp(0, 1)
    draws = Replacements(generator)
    first, second = draws.draw(noisy), draws.draw(noisy)
    masks = log_odds.sigmoid()
    for i, image in enumerate(noisy):
        mask, true = masks[i], int(question.predicted[i])

        def lead(pixels: Tensor, true: int = true) -> float:
            logits = classifier(pixels)[0].tolist()
            return logits.pop(true) - max(logits)

        kept = lead(mixed(image, mask, first[i]))
        left = lead(mixed(image, 1 - mask, second[i]))
        real = bool(question.real[i])
        edge = mask[[0, -1]].square().sum() + mask[:, [0, -1]].square().sum()
        expected = {
            "area": 3.0 * float(((mask + 0.0005) ** 0.3).mean()),
            "smoothness": 0.2 * (total_variation(mask) + 0.3 * float(edge)) / 2,
            "preserver": 0.7 * max(0.0, 1 - kept if real else kept + 1),
            "destroyer": 0.9 * max(0.0, left + 5 if real else 1 - left),
        }
        for name, value in expected.items():
            assert terms[name][i].item() == pytest.approx(value, rel=1e-3, abs=1e-4), name


def test_gradients_reach_the_masks_alone(question: MaskBatch, log_odds: Tensor) -> None:
    for objective in (Printed(), Released()):
        leaf = log_odds.clone().requires_grad_()
        terms = objective.compute_terms(
            classifier, question, Evidence(leaf, leaf), Generator().manual_seed(0)
        )
        torch.stack(list(terms.values())).sum().backward()
        assert leaf.grad is not None
        assert leaf.grad.abs().sum() > 0


def test_roughness_area_and_margin() -> None:
    mask = torch.rand(2, SIDE, SIDE, generator=Generator().manual_seed(3))
    assert roughness(mask)[1].item() == pytest.approx(total_variation(mask[1]), rel=1e-5)
    assert area(mask)[0].item() == pytest.approx(mask[0].mean().item())
    logits = torch.tensor([[1.0, 4.0, 2.0], [5.0, 1.0, 0.0]])
    assert ONE_CLASS.margin(logits, torch.tensor([1, 2])).tolist() == [2.0, -5.0]


def test_agreement_is_a_weighted_count_of_boxes() -> None:
    generator = Generator().manual_seed(4)
    corners = torch.rand(2, 5, 4, generator=generator)
    boxes = torch.cat(
        [torch.minimum(corners[..., :2], corners[..., 2:]),
         torch.maximum(corners[..., :2], corners[..., 2:])], 2
    )  # fmt: skip
    scores, size = torch.rand(2, 5, generator=generator), torch.Size((6, 7))
    result = compute_votes(boxes, scores, 0.3, size)
    for image in range(2):
        weights = [math.exp(-s / 0.3) for s in scores[image].tolist()]
        for y in range(6):
            for x in range(7):
                total = 0.0
                for weight, (left, top, right, bottom) in zip(
                    weights, boxes[image].tolist(), strict=True
                ):
                    if left <= (x + 0.5) / 7 < right and top <= (y + 0.5) / 6 < bottom:
                        total += weight
                assert result[image, y, x].item() == pytest.approx(total / sum(weights), abs=1e-5)


def test_bounding_is_the_box_at_a_height_or_everything() -> None:
    log_odds = torch.full((2, 10, 20), -3.0)
    log_odds[0, 2:7, 4:14] = 2.0
    result = find_boxes(log_odds, torch.tensor([1.0, 1.0]))
    torch.testing.assert_close(result[0], torch.tensor([0.2, 0.2, 0.7, 0.7]))
    torch.testing.assert_close(result[1], torch.tensor([0.0, 0.0, 1.0, 1.0]))


def test_judge_is_the_saliency_metric_of_each_crop() -> None:
    from apercu.metrics import saliency_metric

    images = torch.rand(2, 3, SIDE, SIDE, generator=Generator().manual_seed(6))
    pixels = torch.tensor([[[2.0, 0, 6, 8], [0, 0, 8, 8]], [[1, 4, 7, 6], [3, 3, 5, 5]]])
    targets = torch.tensor([1, 3])
    maps = score_boxes(classifier, images, pixels / SIDE, targets)
    for trial in range(2):
        expected = saliency_metric(classifier, images, targets, pixels[:, trial])
        torch.testing.assert_close(maps[:, trial], expected, rtol=0, atol=0.15)
    torch.testing.assert_close(
        maps[0, 1], saliency_metric(classifier, images, targets, pixels[:, 1])[0]
    )
