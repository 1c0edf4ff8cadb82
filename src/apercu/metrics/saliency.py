"""The saliency metric of Dabkowski & Gal (2017), section 4: small crops that keep the class."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from apercu.classifiers.decisions import find_decision
from apercu.classifiers.names import Target, choose_targets
from apercu.metrics.record import LevelBoxes, LevelScores, Metric
from apercu.types import Boxes, Images, LogitsFn, Scores

MIN_AREA = 0.05
"""Smaller crops than this fraction of the image are not rewarded."""


def saliency_metric(classifier: LogitsFn, images: Images, targets: Target, boxes: Boxes) -> Scores:
    """Return log max(a, 0.05) − log p, in nats; lower is better.

    a is the area of the box as a fraction of the image, and p is the probability of the target
    when the crop is enlarged to the classifier's input (bilinear, without keeping its aspect).
    Edges between pixels move outwards. An empty box counts as the whole image, so no method gains
    by an empty map.

    Args:
        classifier: the classifier that is explained.
        images: images in [0, 1], `batch × channels × height × width`.
        targets: the class of each image, or one for all.
        boxes: one box per image in pixels, `batch × 4`.

    Returns:
        One score per image.
    """
    targets = choose_targets(classifier, images, targets)
    height, width = images.shape[-2:]
    edges = snap_to_pixels(boxes, (height, width))
    crops = torch.stack(
        [_crop_and_enlarge(image, box) for image, box in zip(images, edges, strict=True)]
    )
    with torch.no_grad():
        log_p = find_decision(classifier).log_probability(classifier(crops), targets)
    wide, high = (edges[:, 2:] - edges[:, :2]).unbind(dim=1)
    area = (wide * high).to(log_p) / (height * width)
    return area.clamp(min=MIN_AREA).log() - log_p


def score_boxes_of_levels(
    classifier: LogitsFn, images: Images, targets: Target, boxes: LevelBoxes
) -> LevelScores:
    """Return the saliency metric of several boxes per image; equal boxes are computed once.

    Args:
        classifier: the classifier that is explained.
        images: images in [0, 1], `batch × channels × height × width`.
        targets: one class for all images or one per image; None for the predicted classes.
        boxes: boxes in pixels, `levels × batch × 4`.

    Returns:
        One score per box, `levels × batch`.
    """
    targets = choose_targets(classifier, images, targets)
    levels, count = boxes.shape[:2]
    image_index = torch.arange(count, device=boxes.device).expand(levels, count)
    keys = torch.cat((image_index[..., None].to(boxes), boxes), dim=2).flatten(0, 1)
    unique, inverse = torch.unique(keys, dim=0, return_inverse=True)
    scores = []
    for rows in torch.split(unique, count):
        index = rows[:, 0].long()
        scores.append(saliency_metric(classifier, images[index], targets[index], rows[:, 1:]))
    return torch.cat(scores)[inverse].view(levels, count)


def snap_to_pixels(boxes: Boxes, size: tuple[int, int]) -> Tensor:
    """Return boxes on the pixel grid inside (height, width), as integers.

    Empty boxes become the whole image.
    """
    height, width = size
    low = boxes[:, :2].floor().clamp(min=0)
    limit = boxes.new_tensor([width, height])
    edges = torch.cat((low, boxes[:, 2:].ceil().minimum(limit)), dim=1).long()
    empty = (edges[:, 2:] <= edges[:, :2]).any(dim=1)
    edges[empty] = edges.new_tensor([0, 0, width, height])
    return edges


def _crop_and_enlarge(image: Tensor, box: Tensor) -> Tensor:
    """Return the part of one image inside a box of whole pixels, enlarged to the image's size."""
    left, top, right, bottom = box.tolist()
    part = image[None, :, top:bottom, left:right]
    return F.interpolate(part, size=image.shape[1:], mode="bilinear", align_corners=False)[0]


SALIENCY_METRIC = Metric(
    name="saliency_metric",
    function=score_boxes_of_levels,
    takes=("classifier", "images", "targets", "boxes"),
    better="lower",
    title="Saliency metric",
    phrase="the saliency metric",
    meaning="log of the area of a crop around the evidence − log of the probability in it; nats",
)
