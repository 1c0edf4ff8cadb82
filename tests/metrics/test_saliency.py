from __future__ import annotations

from math import log

import pytest
import torch
import torch.nn.functional as F

from apercu.metrics import saliency_metric
from apercu.metrics.saliency import snap_to_pixels

SIZE = 20


class Sure:
    """Gives the same probability of class 1 for all images, and records them."""

    def __init__(self, probability: float) -> None:
        self.logits = torch.tensor([1 - probability, probability]).log()
        self.shown = torch.empty(0)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        self.shown = images
        return self.logits.expand(len(images), 2)


def score(probability: float, box: list[float]) -> float:
    images, targets = torch.rand(1, 3, SIZE, SIZE), torch.tensor([1])
    return saliency_metric(Sure(probability), images, targets, torch.tensor([box])).item()


@pytest.mark.parametrize(
    ("probability", "box", "expected"),
    [
        (1.0, [0, 0, 20, 20], 0.0),
        (0.5, [0, 0, 20, 20], -log(0.5)),
        (1.0, [4, 5, 9, 9], log(0.05)),
        (1.0, [4, 5, 5, 6], log(0.05)),
        (1.0, [0, 0, 10, 20], log(0.5)),
        (0.25, [0, 0, 10, 10], log(0.25) - log(0.25)),
        (0.5, [0, 0, 0, 0], -log(0.5)),
        (1.0, [-5, -5, 30, 30], 0.0),
    ],
)
def test_closed_forms(probability: float, box: list[float], expected: float) -> None:
    assert score(probability, [float(edge) for edge in box]) == pytest.approx(expected, abs=1e-5)


def test_five_percent_box_with_certainty_is_minus_2_996() -> None:
    assert score(1.0, [0.0, 0.0, 5.0, 4.0]) == pytest.approx(-2.9957, abs=1e-4)


def test_the_crop_is_the_box_enlarged_without_its_aspect() -> None:
    images = torch.rand(2, 3, SIZE, SIZE)
    boxes = torch.tensor([[2.0, 3, 12, 8], [0, 0, 0, 0]])
    classifier = Sure(0.5)
    saliency_metric(classifier, images, torch.tensor([0, 1]), boxes)
    literal = F.interpolate(images[:1, :, 3:8, 2:12], size=(SIZE, SIZE), mode="bilinear")
    torch.testing.assert_close(classifier.shown[:1], literal)
    torch.testing.assert_close(classifier.shown[1], images[1])


def test_edges_between_pixels_move_outwards() -> None:
    boxes = torch.tensor([[1.2, 2.9, 3.1, 4.0], [-1, 0, 99, 2], [5, 5, 5, 9]])
    assert snap_to_pixels(boxes, (10, 12)).tolist() == [[1, 2, 4, 4], [0, 0, 12, 2], [0, 0, 12, 10]]


def test_each_image_has_its_own_target() -> None:
    images, boxes = torch.rand(2, 3, SIZE, SIZE), torch.zeros(2, 4)
    result = saliency_metric(Sure(0.8), images, torch.tensor([0, 1]), boxes)
    torch.testing.assert_close(result, -torch.tensor([0.2, 0.8]).log())


def test_targets_of_tiny_probability_stay_finite() -> None:
    def certain(images: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[200.0, 0.0]]).expand(len(images), 2)

    images = torch.rand(1, 3, SIZE, SIZE)
    result = saliency_metric(certain, images, torch.tensor([1]), torch.zeros(1, 4))
    assert result.item() == pytest.approx(200.0)
