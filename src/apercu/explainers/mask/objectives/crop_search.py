"""Search for the smallest sufficient crop: a few trials per step of a training, or a second look.

The gradient of a crop's corners is weak and noisy. To classify a handful of crops needs forward
passes only, and the pixels of the better crops are a dense target for the mask. A second look at a
finished mask asks the classifier more often, so it is for the few images whose mask looks doubtful.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from apercu import maps
from apercu.classifiers import Classifier
from apercu.classifiers.decisions import find_decision
from apercu.training.augment import crop
from apercu.types import Boxes, Images, Logits, LogOdds, Maps, Regions, Scores, Targets

if TYPE_CHECKING:
    from apercu.explainers.mask.explainer import MaskExplainer

MIN_SIDE = 0.15
"""Smallest side of a crop, as a fraction of the image's side."""
MIN_AREA = 0.05
"""Area below which a smaller crop has no better saliency metric."""
JITTER = 0.12
"""Standard deviation of the jitter of a box, as a fraction of its sides."""
QUERIES = 20
"""Crops of an image that are tried."""
CROPS_AT_ONCE = 5
"""Crops that are tried before the best one is moved again; levels of the mask that are tried."""
EXTENT_LEVEL = 0.5
"""Level of a mask whose region holds all crops."""
SCORED_LEVEL = 0.6
"""Level of a mask whose crop says how good the mask is."""
CROP_LEVEL, INNER_LEVEL = 0.6, 0.8
"""The region of the result at each level above the first and up to the second is the crop."""
ROUNDING = 1e-3
"""Difference of two scores of the same crop, asked about in batches of different sizes, at most."""
LIMIT_FACT, DOUBTFUL_FRACTION = "second_look_above", 0.1
"""Score above which a mask is doubtful, among the facts of a run, and how many are above it."""


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


def move_boxes(boxes: Tensor, shift: Tensor, growth: Tensor) -> Tensor:
    """Return boxes that are shifted and resized a little, inside the image.

    Args:
        boxes: boxes as fractions of the image's sides, `batch × 4`.
        shift: fractions of its sides by which a box is shifted, divided by `JITTER`, `2` or
            `batch × 2`.
        growth: logarithms of the factors of its sides, divided by `2 · JITTER`, likewise.

    Returns:
        Boxes as fractions of the image's sides, `batch × 4`.
    """
    centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    return _fit_into_image(centres + sides * JITTER * shift, sides * (2 * JITTER * growth).exp())


@dataclass(frozen=True)
class CropSearch:
    """The crops that a second look found.

    Attributes:
        masks: masks in [0, 1], whose regions above level 0.6 lie in the crop.
        boxes: the best crop of each image in pixels, `batch × 4`, which may be that of the mask;
            zeros where the mask stayed as it is, as there was no look, or all crops were worse than
            that of the mask.
        scores: log max(area, 0.05) − log p(class) of that crop, or else of the mask's; lower is
            better.
        first_scores: that of the mask at level 0.6, before.
        looked: whether there was a second look.
    """

    masks: Maps
    boxes: Boxes
    scores: Scores
    first_scores: Scores
    looked: Bool[Tensor, " batch"]


@torch.no_grad()
def search_crops(
    classifier: Classifier,
    images: Images,
    targets: Targets,
    masks: Maps,
    *,
    lowest: float = EXTENT_LEVEL,
    queries: int = QUERIES,
    above: float = -inf,
    seed: int = 0,
) -> CropSearch:
    """Search in each mask for the smallest crop that keeps the class.

    Args:
        classifier: the classifier, which is asked once for the score of the mask, and `queries`
            times more for each image whose score is above `above`.
        images: images in [0, 1], `batch × channels × height × width`.
        targets: the class of each image.
        masks: masks of these classes in [0, 1], at the size of the images.
        lowest: the level of the masks whose region holds all crops.
        queries: the number of crops, at least 5.
        above: the score of the crop at level 0.6 above which there is a second look.
        seed: the seed of the crops.

    Returns:
        The crops, and the masks with them. A mask without a region stays as it is.
    """
    extents = maps.find_regions(masks, lowest)
    first_scores = score_masks(classifier, images, targets, masks)
    looked = (first_scores > above) & extents.flatten(1).any(1)
    boxes, scores, result = masks.new_zeros(len(masks), 4), first_scores.clone(), masks.clone()
    index = looked.nonzero().flatten()
    if len(index):
        best, lowest_scores = _search(
            classifier, images[index], targets[index], masks[index], lowest, queries, seed
        )
        is_kept = lowest_scores <= first_scores[index] + ROUNDING
        index, best = index[is_kept], best[is_kept]
        boxes[index], scores[index] = best, lowest_scores[is_kept]
        result[index] = _raise_crops(masks[index], _cut(extents[index], best))
    return CropSearch(result, boxes, scores, first_scores, looked)


@torch.no_grad()
def score_masks(classifier: Classifier, images: Images, targets: Targets, masks: Maps) -> Scores:
    """Return log max(area, 0.05) − log p(class) of the crop at level 0.6; lower is better.

    Args:
        classifier: the classifier, which is asked once.
        images: images in [0, 1], `batch × channels × height × width`.
        targets: the class of each image.
        masks: masks in [0, 1]; one without a region at this level has the whole image as its crop.

    Returns:
        One score per image.
    """
    boxes = maps.tight_boxes(maps.find_regions(masks, SCORED_LEVEL))
    return _score(classifier, images, targets, boxes[:, None])[:, 0]


def choose_limit(
    explainer: MaskExplainer, classifier: Classifier, batches: Iterable[Images]
) -> float:
    """Return the score that a tenth of the masks of the predicted classes exceeds.

    Args:
        explainer: the explainer of the masks.
        classifier: the explained classifier, which predicts each image twice.
        batches: images in [0, 1] at the classifier's size, not those of the training.

    Returns:
        The limit above which a mask is doubtful.
    """
    scores = []
    for images in batches:
        images = images.to(explainer.device)
        targets = classifier(images).argmax(1)
        masks = explainer.attribute(images, targets)
        scores.append(score_masks(classifier, images, targets, masks))
    return torch.cat(scores).quantile(1 - DOUBTFUL_FRACTION).item()


def _jitter(boxes: Tensor, generator: Generator) -> Tensor:
    shape = boxes[:, :2].shape
    shift, growth = (torch.randn(shape, generator=generator).to(boxes) for _ in range(2))
    return move_boxes(boxes, shift, growth)


def _fit_into_image(centres: Tensor, sides: Tensor) -> Tensor:
    """Return boxes of these centres and sides, limited in size and moved into the image."""
    sides = sides.clamp(MIN_SIDE, 1)
    centres = torch.minimum(torch.maximum(centres, sides / 2), 1 - sides / 2)
    return torch.cat([centres - sides / 2, centres + sides / 2], 1)


def _draw_uniform(shape: tuple[int, ...], generator: Generator, like: Tensor) -> Tensor:
    return torch.rand(shape, generator=generator).to(like)


def _search(
    classifier: Classifier,
    images: Images,
    targets: Targets,
    masks: Maps,
    lowest: float,
    queries: int,
    seed: int,
) -> tuple[Boxes, Scores]:
    """Return the best of so many crops, and its score."""
    generator = Generator().manual_seed(seed)
    extents = maps.find_regions(masks, lowest)
    levels = [lowest + (1 - lowest) * step / CROPS_AT_ONCE for step in range(CROPS_AT_ONCE)]
    boxes = torch.stack([_tighten(maps.find_regions(masks, level), extents) for level in levels], 1)
    scores = _score(classifier, images, targets, boxes)
    side = torch.tensor([masks.shape[2], masks.shape[1]] * 2).to(boxes)
    for left in range(queries - CROPS_AT_ONCE, 0, -CROPS_AT_ONCE):
        best = _take(boxes, scores.argmin(1)) / side
        noise = torch.randn(min(left, CROPS_AT_ONCE), 4, generator=generator).to(boxes)
        moved = torch.stack([move_boxes(best, row[:2], row[2:]) for row in noise], 1) * side
        crops = [_tighten(_cut(extents, box), extents) for box in moved.unbind(1)]
        tried = torch.stack(crops, 1)
        boxes = torch.cat([boxes, tried], 1)
        scores = torch.cat([scores, _score(classifier, images, targets, tried)], 1)
    index = scores.argmin(1)
    return _take(boxes, index), scores.gather(1, index[:, None])[:, 0]


def _score(
    classifier: Classifier, images: Images, targets: Targets, boxes: Float[Tensor, "batch crops 4"]
) -> Float[Tensor, "batch crops"]:
    """Return the scores of crops in pixels; an empty one is the whole image."""
    side = torch.tensor([images.shape[3], images.shape[2]] * 2).to(boxes)
    empty = (boxes[..., 2:] <= boxes[..., :2]).any(-1, keepdim=True)
    whole = boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
    return score_boxes(classifier, images, torch.where(empty, whole, boxes / side), targets)


def _take(boxes: Float[Tensor, "batch crops 4"], index: Tensor) -> Boxes:
    """Return one crop of each image."""
    return boxes.gather(1, index[:, None, None].expand(-1, 1, 4))[:, 0]


def _cut(extents: Regions, boxes: Boxes) -> Regions:
    """Return the part of each extent that a box touches."""
    return extents & maps.fill_boxes(boxes, (extents.shape[1], extents.shape[2]))


def _tighten(regions: Regions, extents: Regions) -> Boxes:
    """Return the tight box of each region, or that of the extent where the region is empty."""
    empty = ~regions.flatten(1).any(1)
    return maps.tight_boxes(torch.where(empty[:, None, None], extents, regions))


def _raise_crops(masks: Maps, crops: Regions) -> Maps:
    """Return the masks with their crops above all else, ordered by the mask inside of them."""
    low = masks.clamp(max=CROP_LEVEL)
    return torch.where(crops, INNER_LEVEL + (1 - INNER_LEVEL) * masks, low)
