from __future__ import annotations

import pytest
import torch

from apercu import maps
from apercu.classifiers import Classifier
from apercu.errors import ConfigError
from apercu.methods import CentreBox, TrainedMethod, TrueBox, WholeBox
from apercu.metrics import localisation_error


@pytest.mark.parametrize("area", [0.25, 0.5, 1.0])
def test_the_centre_box_has_its_area_in_the_middle(
    area: float, residual: Classifier, targets: torch.Tensor
) -> None:
    images = torch.zeros(3, 3, 224, 224)
    scores = CentreBox(area)(residual, images, targets)
    assert scores.mean().item() == pytest.approx(area, abs=0.005)
    left, top, right, bottom = maps.tight_boxes(scores > 0)[0].tolist()
    assert abs(left - (224 - right)) <= 1
    assert abs(top - (224 - bottom)) <= 1
    assert scores[0, int(top) : int(bottom), int(left) : int(right)].min() == 1


def test_the_centre_box_of_a_wide_image_is_wide(
    residual: Classifier, targets: torch.Tensor
) -> None:
    scores = CentreBox()(residual, torch.zeros(1, 3, 100, 200), targets[:1])
    assert maps.tight_boxes(scores > 0).tolist() == [[29, 14, 171, 85]]


def test_half_the_area_is_enough_for_an_object_that_fills_the_image(
    residual: Classifier, targets: torch.Tensor
) -> None:
    for side in (32, 63, 224):
        scores = CentreBox()(residual, torch.zeros(1, 3, side, side), targets[:1])
        box, whole = maps.tight_boxes(scores > 0), torch.tensor([[[0.0, 0, side, side]]])
        assert localisation_error(box, whole).item() == 0


def test_a_centre_box_without_area_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"area in \(0, 1\], got 0"):
        CentreBox(area=0.0)


def test_the_whole_box_is_everything(
    residual: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    assert torch.equal(WholeBox()(residual, images, targets), torch.ones(3, 24, 32))


def test_true_boxes_are_joined(images: torch.Tensor) -> None:
    truths = torch.zeros(3, 2, 4)
    truths[0] = torch.tensor([[0, 0, 4, 4], [2, 2, 6, 6]])
    truths[1, 0] = torch.tensor([31, 23, 32, 24])
    result = TrueBox()(images, truths)
    assert result.sum(dim=(1, 2)).tolist() == [16 + 16 - 4, 1, 0]
    assert result[1, 23, 31] == 1


def test_a_trained_explainer_needs_no_classifier(
    residual: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    trained = TrainedMethod(
        lambda images, targets: images[:, 0] * targets[:, None, None], "abc", 60.0
    )
    before = residual.queries
    scores = trained(residual, images, targets)
    torch.testing.assert_close(scores, images[:, 0] * targets[:, None, None])
    assert (trained.map_scale, trained.cache_key, trained.training_seconds) == ("mask", "abc", 60.0)
    assert residual.queries == before
