"""The saliency metric of Dabkowski & Gal (2017), section 4: small crops that say it all."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from apercu.types import Boxes, Images, Logits, Scores, Targets

MIN_AREA = 0.05


def saliency_metric(
    classifier: Callable[[Images], Logits], images: Images, targets: Targets, boxes: Boxes
) -> Scores:
    """log max(a, 0.05) − log p, in nats; lower is better.

    a is the box's share of the image, p the probability of the target once the crop is enlarged
    to the classifier's input (bilinear, aspect not kept). Edges between pixels move outwards.
    An empty box counts as the whole image, so no method gains by answering nothing.
    """
    height, width = images.shape[-2:]
    edges = snap_to_pixels(boxes, (height, width))
    crops = torch.stack(
        [_crop_and_enlarge(image, box) for image, box in zip(images, edges, strict=True)]
    )
    with torch.no_grad():
        log_p = classifier(crops).log_softmax(dim=1)
    wide, high = (edges[:, 2:] - edges[:, :2]).unbind(dim=1)
    area = (wide * high).to(log_p) / (height * width)
    return area.clamp(min=MIN_AREA).log() - log_p.gather(1, targets[:, None])[:, 0]


def snap_to_pixels(boxes: Boxes, size: tuple[int, int]) -> Tensor:
    """Boxes on the pixel grid inside (height, width), as integers; empty ones become the whole."""
    height, width = size
    low = boxes[:, :2].floor().clamp(min=0)
    limit = boxes.new_tensor([width, height])
    edges = torch.cat((low, boxes[:, 2:].ceil().minimum(limit)), dim=1).long()
    empty = (edges[:, 2:] <= edges[:, :2]).any(dim=1)
    edges[empty] = edges.new_tensor([0, 0, width, height])
    return edges


def _crop_and_enlarge(image: Tensor, box: Tensor) -> Tensor:
    """The part of one image inside a box of whole pixels, enlarged to the image's own size."""
    left, top, right, bottom = box.tolist()
    part = image[None, :, top:bottom, left:right]
    return F.interpolate(part, size=image.shape[1:], mode="bilinear", align_corners=False)[0]
