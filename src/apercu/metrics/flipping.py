"""Deletion and insertion (Petsiuk et al. 2018, RISE) and their calibration (Gomez et al. 2022).

A map's pixels are flipped, highest first, from the image to a plain colour or from a blurred image
to the image. The classifier's probabilities on the way are `FlippingCurves`, from which all scores
are computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from apercu.classifiers.decisions import find_decision
from apercu.classifiers.names import Target, choose_targets
from apercu.errors import ConfigError
from apercu.maps import min_max_scale, reduce_maps
from apercu.metrics.record import Metric
from apercu.removal import Black, BoxBlur, Flat, Removal
from apercu.statistics import correlate_rows
from apercu.types import Images, LogitsFn, Maps, Scores


@dataclass(frozen=True)
class Flipping:
    """How pixels are flipped.

    Attributes:
        removal: what replaces a pixel that is removed.
        insert: False to go from the image to the removed one, True for the way back.
        cumulative: False if each step flips its own pixels only.
        steps: the number of equal steps, at most one per pixel.
        batch: the number of flipped images that the classifier receives at once.
        cells: None to flip pixels. A number n to flip one whole cell of a grid of n × n cells per
            step, whatever `steps` is, as Gomez et al. do with small maps; `apercu.maps.reduce_maps`
            says what the map is in a cell.

    Raises:
        ConfigError: fewer than 2 steps or cells, or a batch below 1.
    """

    removal: Removal
    insert: bool = False
    cumulative: bool = True
    steps: int = 196
    batch: int = 32
    cells: int | None = None

    def __post_init__(self) -> None:
        if self.steps < 2 or self.batch < 1:
            raise ConfigError(
                "flipping: expected at least 2 steps and a batch of at least 1, "
                f"got {self.steps} and {self.batch}"
            )
        if self.cells is not None and self.cells < 2:
            raise ConfigError(f"flipping: expected at least 2 cells per side, got {self.cells}")


DELETION: Final = Flipping(Black())
"""Deletion to black. RISE deletes to the mean colour, see `apercu.metrics.rise_curves`."""


def make_deletion_and_insertion(zero: tuple[float, ...]) -> tuple[Flipping, Flipping]:
    """Return deletion and insertion as Gomez et al. (2022) run them.

    Args:
        zero: the colour in [0, 1] that normalisation turns into 0. Deletion leaves it behind, and
            the box blur of insertion continues the image with it beyond the edges.

    Returns:
        The settings of deletion and of insertion.
    """
    return Flipping(Flat(zero)), Flipping(BoxBlur(zero), insert=True)


@dataclass(frozen=True, eq=False)
class FlippingCurves:
    """The probability of the target while pixels are flipped.

    Point k of K lies at k/K of the pixels; point 0 is before the first step.

    Attributes:
        flipping: how the pixels were flipped.
        probabilities: the probability of the target at each point, `batch × points`.
        saliency: the mean of the map, stretched to [0, 1], over the pixels of each step,
            `batch × steps`.
    """

    flipping: Flipping
    probabilities: Float[Tensor, "batch points"]
    saliency: Float[Tensor, "batch steps"]


def flip_pixels(
    classifier: LogitsFn,
    images: Images,
    targets: Target,
    maps: Maps,
    flipping: Flipping = DELETION,
) -> FlippingCurves:
    """Flip the pixels of every image and compute the probabilities of all steps in large batches.

    Equal values flip row by row. Step k of K ends after k/K of the pixels, rounded down.

    Args:
        classifier: the classifier that is explained.
        images: images in [0, 1], `batch × channels × height × width`.
        targets: the class of each image, or one for all.
        maps: maps, `batch × height × width`, of any scale.
        flipping: how pixels are flipped.

    Returns:
        The curves of all images.

    Raises:
        ConfigError: there are more cells per side than pixels.
    """
    targets = choose_targets(classifier, images, targets)
    count, size = len(images), maps.shape[1:]
    if flipping.cells is not None:
        if flipping.cells > min(size):
            raise ConfigError(
                f"cells: expected at most one per pixel of {size[0]} × {size[1]}, "
                f"got {flipping.cells}"
            )
        maps = reduce_maps(maps, flipping.cells)
    pixels = maps[0].numel()
    steps = pixels if flipping.cells is not None else min(flipping.steps, pixels)
    ends = torch.arange(steps + 1, device=maps.device) * pixels // steps
    cell_step = torch.searchsorted(ends, rank_pixels(maps), right=True)  # 1 … steps
    pixel_step = _enlarge_cells(cell_step, size)
    start, end = images, flipping.removal.make_replacement(images)
    if flipping.insert:
        start, end = end, start
    parts = []
    with torch.no_grad():
        values = min_max_scale(maps).flatten(1)
        sums = values.new_zeros(count, steps).scatter_add_(1, cell_step.flatten(1) - 1, values)
        pairs = torch.arange(count * (steps + 1), device=maps.device)
        for pair in torch.split(pairs, flipping.batch):
            image, step = pair // (steps + 1), pair % (steps + 1)
            flip_at, now = pixel_step[image, None], step[:, None, None, None]
            is_flipped = flip_at <= now if flipping.cumulative else flip_at == now
            mixed = torch.where(is_flipped, end[image], start[image])
            parts.append(target_probability(classifier, mixed, targets[image]))
    probabilities = torch.cat(parts).view(count, steps + 1)
    return FlippingCurves(flipping, probabilities, sums / ends.diff())


def _enlarge_cells(steps: Tensor, size: torch.Size) -> Int[Tensor, "batch height width"]:
    """Return the step of each pixel: that of its cell."""
    rows, columns = (
        torch.arange(length, device=steps.device) * cells // length
        for length, cells in zip(size, steps.shape[1:], strict=True)
    )
    return steps[:, rows][:, :, columns]


def target_probability(classifier: LogitsFn, images: Images, targets: Target) -> Scores:
    """Return the probability of each image's target."""
    targets = choose_targets(classifier, images, targets)
    return find_decision(classifier).probability(classifier(images), targets)


def rank_pixels(maps: Maps) -> Int[Tensor, "batch height width"]:
    """Return the rank of each pixel in descending order, from 0; equal values row by row."""
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    ranks = torch.arange(order.shape[1], device=maps.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, ranks).view_as(maps)


def dauc(deletion: FlippingCurves) -> Scores:
    """Return the area under the deletion curve, 0 to 1; lower is better."""
    return compute_area(deletion)


def iauc(insertion: FlippingCurves) -> Scores:
    """Return the area under the insertion curve, 0 to 1; higher is better."""
    return compute_area(insertion)


def dc(deletion: FlippingCurves) -> Scores:
    """Return the calibration of deletion, −1 to 1; higher is better."""
    return compute_calibration(deletion)


def ic(insertion: FlippingCurves) -> Scores:
    """Return the calibration of insertion, −1 to 1; higher is better."""
    return compute_calibration(insertion)


def compute_area(curves: FlippingCurves) -> Scores:
    """Return the area under the probabilities, by trapezoids, over fractions of pixels from 0 to 1.

    Without accumulation the first point, where nothing is flipped, is left out.
    """
    heights = curves.probabilities
    if not curves.flipping.cumulative:
        heights = heights[:, 1:]
    return (heights[:, 1:] + heights[:, :-1]).mean(dim=1) / 2


def compute_calibration(curves: FlippingCurves) -> Scores:
    """Return Pearson's correlation of the saliency and the effect of each step.

    The effect is the fall of the probability by deletion and the rise by insertion, against the
    step before or, without accumulation, against the original image. The score is 0 where the map
    or the effects are constant.
    """
    after = curves.probabilities[:, 1:]
    before = curves.probabilities[:, : -1 if curves.flipping.cumulative else 1]
    effects = after - before if curves.flipping.insert else before - after
    return correlate_rows(effects, curves.saliency)


DAUC = Metric(
    name="dauc",
    function=dauc,
    takes=("deletion",),
    better="lower",
    title="DAUC",
    phrase="DAUC",
    meaning="mean probability while the strongest pixels turn to the mean colour",
)
IAUC = Metric(
    name="iauc",
    function=iauc,
    takes=("insertion",),
    better="higher",
    title="IAUC",
    phrase="IAUC",
    meaning="mean probability while the strongest pixels return to a blurred image",
)
DC = Metric(
    name="dc",
    function=dc,
    takes=("deletion",),
    better="higher",
    title="DC",
    phrase="DC",
    meaning="correlation of the map with what each deletion takes away, −1 to 1",
)
IC = Metric(
    name="ic",
    function=ic,
    takes=("insertion",),
    better="higher",
    title="IC",
    phrase="IC",
    meaning="correlation of the map with what each insertion brings, −1 to 1",
)
DAUC_NC = Metric(
    name="dauc_nc",
    function=dauc,
    takes=("single_step_deletion",),
    better="lower",
    title="DAUC-nc",
    phrase="DAUC-nc",
    meaning="as DAUC, each step on its own",
    by_name_only=True,
)
IAUC_NC = Metric(
    name="iauc_nc",
    function=iauc,
    takes=("single_step_insertion",),
    better="higher",
    title="IAUC-nc",
    phrase="IAUC-nc",
    meaning="as IAUC, each step on its own",
    by_name_only=True,
)
DC_NC = Metric(
    name="dc_nc",
    function=dc,
    takes=("single_step_deletion",),
    better="higher",
    title="DC-nc",
    phrase="DC-nc",
    meaning="as DC, each step on its own",
    by_name_only=True,
)
IC_NC = Metric(
    name="ic_nc",
    function=ic,
    takes=("single_step_insertion",),
    better="higher",
    title="IC-nc",
    phrase="IC-nc",
    meaning="as IC, each step on its own",
    by_name_only=True,
)
