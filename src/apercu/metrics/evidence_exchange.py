"""Evidence exchange: does a decision depend on the pixels that people marked as evidence?

No map is involved. The marked part of each image is replaced by the same part of another image, and
the decision is compared with that after replacing a part of the same size elsewhere:

    truth = measure_exchange(classifier, images, others, regions, targets)
    control = measure_exchange(classifier, images, others, move_regions(regions, offsets), targets)
    gain = control.changes - truth.changes

Where both change the decision equally, the classifier does not need the marked pixels, and no map
that is faithful to it can agree with the marks. Swap `images` and `others` for the reverse: what
the marked part does in an image without it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from apercu.classifiers.decisions import find_decision
from apercu.removal import Blur
from apercu.types import Images, LogitsFn, Regions, Scores, Targets


@dataclass(frozen=True, eq=False)
class ExchangeScores:
    """What the replacement of a part does to the decision about each image.

    Attributes:
        changes: change of the target's margin, in logits; below 0 where the target loses.
        flipped: 1 where the target is predicted either only before or only after, else 0.
    """

    changes: Scores
    flipped: Scores


def replace_parts(images: Images, others: Images, regions: Regions, feather: float = 0.0) -> Images:
    """Return the images with the pixels of their regions taken from other images.

    Args:
        images: images in [0, 1], `batch × channels × height × width`.
        others: images in the same shape.
        regions: the parts that are replaced, `batch × height × width`.
        feather: standard deviation of the blur of the regions' edges, as a fraction of the shorter
            side; 0 cuts sharply.

    Returns:
        Images in the same shape.
    """
    weights = regions[:, None].to(images)
    if feather:
        weights = Blur(feather).make_replacement(weights)
    return torch.lerp(images, others, weights)


def measure_exchange(
    classifier: LogitsFn,
    images: Images,
    others: Images,
    regions: Regions,
    targets: Targets,
    feather: float = 0.0,
) -> ExchangeScores:
    """Measure what it does to a decision to replace one part of each image.

    Args:
        classifier: function from images to logits.
        images: images in [0, 1], `batch × channels × height × width`.
        others: images in the same shape, aligned with them as well as can be.
        regions: the parts that are replaced, `batch × height × width`.
        targets: the class of each image whose evidence is in question.
        feather: see `replace_parts`.

    Returns:
        The scores of each image.
    """
    decision = find_decision(classifier)
    with torch.no_grad():
        before = classifier(images)
        after = classifier(replace_parts(images, others, regions, feather))
    changes = decision.margin(after, targets) - decision.margin(before, targets)
    flipped = decision.is_predicted(after, targets) != decision.is_predicted(before, targets)
    return ExchangeScores(changes, flipped.to(changes))


def move_regions(regions: Regions, offsets: Int[Tensor, "batch 2"]) -> Regions:
    """Return regions moved by whole pixels; what leaves the image is lost.

    Args:
        regions: regions, `batch × height × width`.
        offsets: pixels by which each region moves down and to the right, `batch × 2`.

    Returns:
        Regions in the same shape.
    """
    height, width = regions.shape[1:]
    rows = torch.arange(height, device=regions.device) - offsets[:, :1]
    columns = torch.arange(width, device=regions.device) - offsets[:, 1:]
    is_inside = ((rows >= 0) & (rows < height))[:, :, None]
    is_inside = is_inside & ((columns >= 0) & (columns < width))[:, None, :]
    batch = torch.arange(len(regions), device=regions.device)[:, None, None]
    from_rows = rows.clamp(0, height - 1)[:, :, None]
    return regions[batch, from_rows, columns.clamp(0, width - 1)[:, None, :]] & is_inside


def find_centres(regions: Regions) -> Float[Tensor, "batch 2"]:
    """Return the mean row and column of each region's pixels; those of the image for an empty one.

    Args:
        regions: regions, `batch × height × width`.

    Returns:
        Positions in pixels, `batch × 2`.
    """
    weights = regions.float()
    empty = ~regions.flatten(1).any(dim=1)[:, None, None]
    weights = torch.where(empty, torch.ones_like(weights), weights)
    totals = weights.sum(dim=(1, 2))
    height, width = regions.shape[1:]
    rows = torch.arange(height, device=regions.device) + 0.5
    columns = torch.arange(width, device=regions.device) + 0.5
    down = (weights.sum(dim=2) * rows).sum(dim=1) / totals
    across = (weights.sum(dim=1) * columns).sum(dim=1) / totals
    return torch.stack((down, across), dim=1)
