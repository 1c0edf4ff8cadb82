"""Deletion and insertion (Petsiuk et al. 2018, RISE) and their calibration (Gomez et al. 2022).

A map's pixels are flipped, highest first, from the image to nothing or from a blurred image to the
image, while the classifier is watched. One pass gives `Curves`; scores are read off them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from apercu.errors import ConfigError
from apercu.maps import min_max_scale
from apercu.metrics.ncc import correlate_rows
from apercu.removal import Black, BoxBlur, Flat, Removal
from apercu.types import Images, Logits, Maps, Scores, Targets


@dataclass(frozen=True)
class Flipping:
    """How pixels are flipped, in `steps` equal steps (at most one per pixel).

    Deletion goes from the image to its `removal`; with `insert`, from there to the image. Without
    `cumulative` each step flips its own pixels only. `batch` flipped images are answered at once.

    Raises:
        ConfigError: fewer than 2 steps, or a batch below 1.
    """

    removal: Removal
    insert: bool = False
    cumulative: bool = True
    steps: int = 196
    batch: int = 32

    def __post_init__(self) -> None:
        if self.steps < 2 or self.batch < 1:
            raise ConfigError(
                "flipping: expected at least 2 steps and a batch of at least 1, "
                f"got {self.steps} and {self.batch}"
            )


DELETION: Final = Flipping(Black())
"""To black, as in RISE."""


def make_deletion_and_insertion(zero: tuple[float, ...]) -> tuple[Flipping, Flipping]:
    """Deletion and insertion as Gomez et al. run them.

    Args:
        zero: the colour in [0, 1] that normalisation turns into 0: what deletion leaves behind,
            and what the box blur of insertion sees beyond the edges.
    """
    return Flipping(Flat(zero)), Flipping(BoxBlur(zero), insert=True)


@dataclass(frozen=True, eq=False)
class FlippingCurves:
    """What the classifier said while pixels were flipped.

    Point k of K lies at k/K of the pixels; point 0 is before the first step.
    """

    flipping: Flipping
    probabilities: Float[Tensor, "batch points"]
    """Of the target."""
    saliency: Float[Tensor, "batch steps"]
    """Mean of the map, stretched to [0, 1], over the pixels of each step."""


def flip_pixels(
    classifier: Callable[[Images], Logits],
    images: Images,
    targets: Targets,
    maps: Maps,
    flipping: Flipping = DELETION,
) -> FlippingCurves:
    """Flips the pixels of every image and asks about all steps in large batches.

    Equal values flip row by row. Step k of K ends after k/K of the pixels, rounded down.
    """
    count, pixels = len(images), maps[0].numel()
    steps = min(flipping.steps, pixels)
    ends = torch.arange(steps + 1, device=maps.device) * pixels // steps
    turn = torch.searchsorted(ends, rank_pixels(maps), right=True)  # 1 … steps
    start, end = images, flipping.removal.make_replacement(images)
    if flipping.insert:
        start, end = end, start
    found = []
    with torch.no_grad():
        values = min_max_scale(maps).flatten(1)
        sums = values.new_zeros(count, steps).scatter_add_(1, turn.flatten(1) - 1, values)
        pairs = torch.arange(count * (steps + 1), device=maps.device)
        for pair in torch.split(pairs, flipping.batch):
            image, step = pair // (steps + 1), pair % (steps + 1)
            now, own = turn[image, None], step[:, None, None, None]
            flipped = now <= own if flipping.cumulative else now == own
            shown = torch.where(flipped, end[image], start[image])
            found.append(target_probability(classifier, shown, targets[image]))
    probabilities = torch.cat(found).view(count, steps + 1)
    return FlippingCurves(flipping, probabilities, sums / ends.diff())


def target_probability(
    classifier: Callable[[Images], Logits], images: Images, targets: Targets
) -> Scores:
    """Of each image's target, by softmax."""
    return classifier(images).softmax(dim=1).gather(1, targets[:, None])[:, 0]


def rank_pixels(maps: Maps) -> Int[Tensor, "batch height width"]:
    """The place of each pixel in descending order, from 0; equal values row by row."""
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(order.shape[1], device=maps.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places).view_as(maps)


def dauc(deletion: FlippingCurves) -> Scores:
    """Area under the deletion curve, 0 to 1; lower is better."""
    return compute_area(deletion)


def iauc(insertion: FlippingCurves) -> Scores:
    """Area under the insertion curve, 0 to 1; higher is better."""
    return compute_area(insertion)


def dc(deletion: FlippingCurves) -> Scores:
    """Deletion's calibration, −1 to 1; higher is better."""
    return compute_calibration(deletion)


def ic(insertion: FlippingCurves) -> Scores:
    """Insertion's calibration, −1 to 1; higher is better."""
    return compute_calibration(insertion)


def compute_area(curves: FlippingCurves) -> Scores:
    """Trapezoid area under the probabilities, over shares of pixels from 0 to 1.

    Without accumulation the first point, where nothing is flipped, is left out.
    """
    heights = curves.probabilities
    if not curves.flipping.cumulative:
        heights = heights[:, 1:]
    return (heights[:, 1:] + heights[:, :-1]).mean(dim=1) / 2


def compute_calibration(curves: FlippingCurves) -> Scores:
    """Pearson's correlation, over steps, of their saliency and what each does to the probability.

    That is the fall by deletion and the rise by insertion, against the step before or, without
    accumulation, against the untouched image. 0 where the map or the effects are constant.
    """
    after = curves.probabilities[:, 1:]
    before = curves.probabilities[:, : -1 if curves.flipping.cumulative else 1]
    effects = after - before if curves.flipping.insert else before - after
    return correlate_rows(effects, curves.saliency)
