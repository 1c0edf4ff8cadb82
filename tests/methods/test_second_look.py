from __future__ import annotations

from collections.abc import Callable
from math import exp

import pytest
import torch
from torch import nn

from apercu.classifiers import Classifier
from apercu.errors import ConfigError
from apercu.explainers.mask.objectives.crop_search import search_crops
from apercu.maps import min_max_scale, tight_boxes
from apercu.methods import CentreBox, Gradient, SecondLook, TrainedMethod
from apercu.methods.own import FunctionExplainer
from apercu.metrics import saliency_metric

SIZE = (24, 32)
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9)


class Bright(nn.Module):
    """The logit of class 1 rises with the mean brightness; counts the images that it receives."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.count += len(images)
        logit = 20 * (images.mean((1, 2, 3)) - 0.3)
        return torch.stack([torch.zeros_like(logit), logit], 1)


@pytest.fixture
def bright(opened: Callable[[nn.Module], Classifier]) -> Classifier:
    return opened(Bright())


@pytest.fixture
def scene() -> tuple[torch.Tensor, torch.Tensor]:
    """Dark images with a bright square each, and masks that are far too large."""
    images, masks = torch.zeros(3, 3, *SIZE), torch.full((3, *SIZE), 0.2)
    for row, (top, left) in enumerate(((4, 5), (10, 16), (8, 8))):
        images[row, :, top : top + 8, left : left + 10] = 1
        masks[row, max(0, top - 4) : top + 14, max(0, left - 5) : left + 16] = 0.55
        masks[row, top - 2 : top + 10, left - 2 : left + 13] = 0.65
    return images, masks


ONES = torch.ones(3, dtype=torch.int64)


def search_literally(
    classifier: Classifier, image: torch.Tensor, mask: torch.Tensor, queries: int
) -> tuple[list[int], float]:
    """The search for one image in pixels, crop by crop."""
    extent = mask >= 0.5

    def tighten(region: torch.Tensor) -> list[int]:
        rows, columns = torch.nonzero(region if region.any() else extent, as_tuple=True)
        return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]

    def score(box: list[int]) -> float:
        return saliency_metric(classifier, image[None], 1, torch.tensor([box]).float()).item()

    height, width = mask.shape
    tried = [tighten(mask >= level) for level in LEVELS]
    scores = [score(box) for box in tried]
    generator = torch.Generator().manual_seed(0)
    while len(tried) < queries:
        noise = torch.randn(min(queries - len(tried), 5), 4, generator=generator).tolist()
        best, moved = tried[scores.index(min(scores))], []
        for right, down, wide, high in noise:
            sides = ((best[2] - best[0]) / width, (best[3] - best[1]) / height)
            middle = ((best[0] + best[2]) / 2 / width, (best[1] + best[3]) / 2 / height)
            edges = []
            for side, at, move, growth in zip(
                sides, middle, (right, down), (wide, high), strict=True
            ):
                grown = min(max(side * exp(0.24 * growth), 0.15), 1)
                centre = min(max(at + 0.12 * side * move, grown / 2), 1 - grown / 2)
                edges.append((centre - grown / 2, centre + grown / 2))
            (left, right), (top, bottom) = edges
            inside = torch.zeros_like(extent)
            for row in range(height):
                for column in range(width):
                    across = left * width < column + 1 and column < right * width
                    inside[row, column] = (
                        across and top * height < row + 1 and row < bottom * height
                    )
            moved.append(tighten(extent & inside))
        tried += moved
        scores += [score(box) for box in moved]
    return tried[scores.index(min(scores))], min(scores)


def test_equals_a_literal_search(
    bright: Classifier, scene: tuple[torch.Tensor, torch.Tensor]
) -> None:
    found = search_crops(bright, scene[0], ONES, scene[1], queries=23)
    for row, (image, mask) in enumerate(zip(*scene, strict=True)):
        box, score = search_literally(bright, image, mask, 23)
        assert found.boxes[row].tolist() == box
        assert found.scores[row].item() == pytest.approx(score, abs=1e-4)


def test_finds_the_square_inside_a_large_mask(
    bright: Classifier, scene: tuple[torch.Tensor, torch.Tensor]
) -> None:
    found = search_crops(bright, scene[0], ONES, scene[1], queries=60)
    wide, high = (found.boxes[:, 2:] - found.boxes[:, :2]).unbind(1)
    assert bool((found.scores < found.first_scores - 0.3).all())
    assert bool((wide * high < 0.6 * 15 * 12).all())  # the mask's own smallest region
    expected = saliency_metric(bright, scene[0], ONES, found.boxes)
    torch.testing.assert_close(found.scores, expected, atol=1e-4, rtol=0)


def test_the_crop_is_the_region_above_level_06_and_the_rest_stays(
    bright: Classifier, scene: tuple[torch.Tensor, torch.Tensor]
) -> None:
    images, masks = scene
    found = search_crops(bright, images, ONES, masks)
    for level in (0.1, 0.5, 0.55, 0.6):
        inside = found.masks >= level
        assert bool((inside >= (masks >= level)).all())  # crops lie inside of the extent
        if level <= 0.5:
            assert torch.equal(inside, masks >= level)
    for level in (0.65, 0.8):
        for region, box in zip(found.masks >= level, found.boxes.tolist(), strict=True):
            rows, columns = torch.nonzero(region, as_tuple=True)
            tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert [float(edge) for edge in tight] == box


def test_a_batch_equals_its_singles_and_other_seeds_differ(
    bright: Classifier, scene: tuple[torch.Tensor, torch.Tensor]
) -> None:
    images, masks = scene
    together = search_crops(bright, images, ONES, masks)
    for row in range(3):
        alone = search_crops(bright, images[row, None], ONES[:1], masks[row, None])
        assert torch.equal(alone.boxes[0], together.boxes[row])
        torch.testing.assert_close(alone.masks[0], together.masks[row])
    other = search_crops(bright, images, ONES, masks, seed=1)
    assert not torch.equal(other.boxes, together.boxes)


def test_only_images_above_the_score_get_a_second_look(
    opened: Callable[[nn.Module], Classifier], scene: tuple[torch.Tensor, torch.Tensor]
) -> None:
    images, masks = scene
    module = Bright()
    classifier = opened(module)
    every = search_crops(classifier, images, ONES, masks)
    limit = every.first_scores.sort().values[1].item()  # one of three is above
    module.count = 0
    some = search_crops(classifier, images, ONES, masks, above=limit)
    assert module.count == 3 + 20
    assert some.looked.tolist() == (every.first_scores > limit).tolist()
    assert some.looked.sum() == 1
    kept = ~some.looked
    assert torch.equal(some.masks[kept], masks[kept])
    assert torch.equal(some.scores[kept], some.first_scores[kept])
    assert torch.equal(some.masks[some.looked], every.masks[some.looked])


def test_a_mask_without_a_region_stays_as_it_is(bright: Classifier) -> None:
    images, masks = torch.rand(2, 3, *SIZE), torch.full((2, *SIZE), 0.3)
    found = search_crops(bright, images, ONES[:2], masks)
    assert not found.looked.any() and torch.equal(found.masks, masks)
    assert torch.equal(found.boxes, torch.zeros(2, 4))


def test_a_mask_stays_where_no_crop_is_better(bright: Classifier) -> None:
    images, masks = torch.ones(1, 3, *SIZE), torch.zeros(1, *SIZE)
    images[0, :, 4:10, 4:10] = 0  # the mask is on the only dark part, and below the scored level
    masks[0, 4:10, 4:10] = 0.55
    found = search_crops(bright, images, ONES[:1], masks)
    assert found.looked.all() and torch.equal(found.masks, masks)
    assert torch.equal(found.scores, found.first_scores)
    assert torch.equal(found.boxes, torch.zeros(1, 4))


def test_the_crop_of_the_mask_is_kept_where_no_other_is_better(
    bright: Classifier, scene: tuple[torch.Tensor, torch.Tensor]
) -> None:
    images = scene[0]
    masks = torch.where(images[:, 0] > 0, 0.65, 0.55)  # the square itself is above level 0.6
    found = search_crops(bright, images, ONES, masks, queries=5)
    torch.testing.assert_close(found.scores, found.first_scores)
    assert torch.equal(found.boxes, tight_boxes(images[:, 0] > 0))
    assert torch.equal(found.masks > 0.6, images[:, 0] > 0)


def test_a_map_on_a_scale_of_its_own_keeps_its_region_when_it_is_stretched_again(
    bright: Classifier, scene: tuple[torch.Tensor, torch.Tensor]
) -> None:
    images = scene[0]
    ramp = torch.linspace(0, 3, SIZE[0] * SIZE[1]).view(SIZE)
    starts = (0.3 * images[:, 0] + 0.4 * ramp).double()  # the peak is not on the square
    searched = SecondLook(FunctionExplainer(lambda *_: starts), queries=60)(bright, images, 1)
    assert searched.dtype == torch.float32
    torch.testing.assert_close(min_max_scale(searched), searched)
    assert not searched[0, -1, -1] > 0.6  # the crop lies elsewhere
    for level in (0.1, 0.25):
        assert torch.equal(searched >= level, min_max_scale(starts.float()) >= level)


def test_wraps_any_explainer(
    residual: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    gradient = SecondLook(Gradient())
    assert (gradient.map_scale, gradient.needs) == ("map", ("gradients", "queries"))
    assert SecondLook(CentreBox()).map_scale == "mask"
    trained = TrainedMethod(lambda images, targets: images[:, 0], "abc", 60.0)
    assert SecondLook(trained).needs == ("training", "queries")
    maps = gradient(residual, images, targets)
    assert maps.shape == (3, *SIZE) and float(maps.min()) == 0 and float(maps.max()) <= 1
    assert SecondLook(Gradient()).cache_key == (
        "SecondLook(method=Gradient(), queries=20, above=-inf, seed=0)"
    )


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"queries": 4}, "second_look: expected queries of at least 5, got 4"),
        ({"above": float("nan")}, "second_look: expected a number for above, got nan"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, float], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        SecondLook(Gradient(), **settings)  # type: ignore[arg-type]
