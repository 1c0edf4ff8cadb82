"""Search for the smallest sufficient crop, a few trials per step.

The gradient of a crop's corners is weak and noisy. To classify a handful of crops needs forward
passes only, and the pixels of the better crops are a dense target for the mask.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from apercu import maps
from apercu.classifiers.decisions import find_decision
from apercu.training.augment import crop
from apercu.types import Images, Logits, LogOdds, Scores, Targets

MIN_SIDE = 0.15
"""Smallest side of a crop, as a fraction of the image's side."""
MIN_AREA = 0.05
"""Area below which a smaller crop has no better saliency metric."""
JITTER = 0.12
"""Standard deviation of the jitter of a box, as a fraction of its sides."""


def propose_boxes(log_odds: LogOdds, trials: int, generator: Generator) -> Tensor:
    """Propose boxes that may be sufficient.

    They are the box of the region at level 0.5, jittered copies of it, the box at another level,
    and a random one.

    Args:
        log_odds: log-odds of keeping.
        trials: number of boxes per image, at least 3.
        generator: source of the draws.

    Returns:
        Boxes as fractions of the image's sides, `batch × trials × 4`.
    """
    count = len(log_odds)
    own = find_boxes(log_odds, torch.zeros(count, device=log_odds.device))
    other = find_boxes(log_odds, _draw_uniform((count,), generator, log_odds).mul(3).sub(1.5))
    jittered = [_jitter(own, generator) for _ in range(trials - 3)]
    sides = 0.3 + 0.7 * _draw_uniform((count, 2), generator, log_odds)
    centres = sides / 2 + (1 - sides) * _draw_uniform((count, 2), generator, log_odds)
    random = torch.cat([centres - sides / 2, centres + sides / 2], 1)
    return torch.stack([own, *jittered, other, random], 1)


def find_boxes(log_odds: LogOdds, heights: Scores) -> Tensor:
    """Return the tight box of the region at given log-odds; the whole image where it is empty.

    Args:
        log_odds: log-odds of keeping.
        heights: log-odds that the region reaches, one number per image.

    Returns:
        Boxes as fractions of the image's sides, `batch × 4`.
    """
    height, width = log_odds.shape[1:]
    scale = torch.tensor([width, height, width, height], device=log_odds.device)
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
    """Score every box by area_weight · log max(area, 0.05) − log p(target); lower is better.

    With an area weight of 1 this is the saliency metric.

    Args:
        classifier: function from images in [0, 1] to logits.
        images: the images.
        boxes: boxes as fractions of the image's sides, `batch × trials × 4`.
        targets: class of each image.
        area_weight: weight of the logarithm of the area.

    Returns:
        Scores, `batch × trials`.
    """
    count, trials = boxes.shape[:2]
    flat = boxes.flatten(0, 1)
    views = crop(images.repeat_interleave(trials, 0), flat)
    decision = find_decision(classifier)
    log_p = decision.log_probability(classifier(views), targets.repeat_interleave(trials))
    area = (flat[:, 2:] - flat[:, :2]).prod(1).clamp(min=MIN_AREA)
    return (area_weight * area.log() - log_p).view(count, trials)


def compute_votes(boxes: Tensor, scores: Tensor, temperature: float, size: torch.Size) -> LogOdds:
    """Return for each pixel the weight of the boxes that contain it; better boxes weigh more.

    Args:
        boxes: boxes as fractions of the image's sides, `batch × trials × 4`.
        scores: scores of the boxes, `batch × trials`; lower is better.
        temperature: difference in score that makes a box e times heavier.
        size: height and width of the result.

    Returns:
        Weights in [0, 1], `batch × rows × columns`.
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
    """Return boxes of these centres and sides, limited in size and moved into the image."""
    sides = sides.clamp(MIN_SIDE, 1)
    centres = torch.minimum(torch.maximum(centres, sides / 2), 1 - sides / 2)
    return torch.cat([centres - sides / 2, centres + sides / 2], 1)


def _draw_uniform(shape: tuple[int, ...], generator: Generator, like: Tensor) -> Tensor:
    return torch.rand(shape, generator=generator).to(like)
