"""Search for the smallest sufficient crop, a few trials per step, with the classifier as judge.

The gradient of a crop's corners is weak and noisy. Asking the classifier about a handful of crops
needs forward passes only, and the pixels of the better ones are a dense target for the mask.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from apercu import maps
from apercu.explainers.mask.objectives.base import log_probability
from apercu.training.augment import crop
from apercu.types import Images, Logits, LogOdds, Scores, Targets

MIN_SIDE = 0.15  # of a crop, as a share of the image's side
MIN_AREA = 0.05  # below it the saliency metric rewards no further shrinking
JITTER = 0.12  # how far trials stray from the mask's own box, as a share of its sides


def propose_boxes(log_odds: LogOdds, trials: int, generator: Generator) -> Tensor:
    """Boxes worth a try, `batch × trials × 4`, as shares of the image's sides.

    The box of the region at level 0.5, boxes strayed from it, the box at another level, and one
    drawn at random.

    Args:
        log_odds: log-odds of keeping.
        trials: boxes per image, at least 3.
        generator: source of the draws.
    """
    count = len(log_odds)
    own = bounding_boxes(log_odds, torch.zeros(count, device=log_odds.device))
    other = bounding_boxes(log_odds, _draw_uniform((count,), generator, log_odds).mul(3).sub(1.5))
    strayed = [_jitter(own, generator) for _ in range(trials - 3)]
    sides = 0.3 + 0.7 * _draw_uniform((count, 2), generator, log_odds)
    centres = sides / 2 + (1 - sides) * _draw_uniform((count, 2), generator, log_odds)
    drawn = torch.cat([centres - sides / 2, centres + sides / 2], 1)
    return torch.stack([own, *strayed, other, drawn], 1)


def bounding_boxes(log_odds: LogOdds, heights: Scores) -> Tensor:
    """Tightest box around the region at a height; the whole image where nothing reaches it."""
    tall, wide = log_odds.shape[1:]
    scale = torch.tensor([wide, tall, wide, tall], device=log_odds.device)
    boxes = maps.tight_boxes(log_odds >= heights[:, None, None]) / scale
    empty = (boxes[:, 2:] <= boxes[:, :2]).any(1, keepdim=True)
    boxes = torch.where(empty, boxes.new_tensor([0.0, 0.0, 1.0, 1.0]), boxes)
    return _fit_into_image((boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2])


def score_boxes(
    classifier: Callable[[Images], Logits],
    images: Images,
    boxes: Tensor,
    targets: Targets,
    *,
    area_weight: float = 1.0,
) -> Tensor:
    """Scores every box, `batch × trials`: thrift · log max(area, 0.05) − log p(target).

    With a thrift of 1 this is the saliency metric.
    """
    count, trials = boxes.shape[:2]
    flat = boxes.flatten(0, 1)
    views = crop(images.repeat_interleave(trials, 0), flat)
    log_p = log_probability(classifier(views), targets.repeat_interleave(trials))
    area = (flat[:, 2:] - flat[:, :2]).prod(1).clamp(min=MIN_AREA)
    return (area_weight * area.log() - log_p).view(count, trials)


def pixel_votes(boxes: Tensor, scores: Tensor, temperature: float, size: torch.Size) -> LogOdds:
    """For each pixel, the weight of the boxes that hold it; better boxes weigh more.

    Args:
        boxes: `batch × trials × 4`, as shares of the image's sides.
        scores: lower is better, `batch × trials`.
        temperature: difference in score that makes a box e times heavier.
        size: height and width of the answer.
    """
    weights = (-scores / temperature).softmax(1)
    rows, columns = ((torch.arange(length, device=boxes.device) + 0.5) / length for length in size)
    across = (columns >= boxes[..., 0:1]) & (columns < boxes[..., 2:3])
    down = (rows >= boxes[..., 1:2]) & (rows < boxes[..., 3:4])
    return torch.einsum("bt,btr,btc->brc", weights, down.float(), across.float())


def _jitter(boxes: Tensor, generator: Generator) -> Tensor:
    centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    shift, growth = (
        torch.randn(sides.shape, generator=generator).to(boxes) * JITTER for _ in range(2)
    )
    return _fit_into_image(centres + sides * shift, sides * (2 * growth).exp())


def _fit_into_image(centres: Tensor, sides: Tensor) -> Tensor:
    """The box with this centre and these sides, brought to a lawful size and into the image."""
    sides = sides.clamp(MIN_SIDE, 1)
    centres = torch.minimum(torch.maximum(centres, sides / 2), 1 - sides / 2)
    return torch.cat([centres - sides / 2, centres + sides / 2], 1)


def _draw_uniform(shape: tuple[int, ...], generator: Generator, like: Tensor) -> Tensor:
    return torch.rand(shape, generator=generator).to(like)
