"""Background invariance: does the evidence stay on the object when the background is exchanged?

It needs true masks:

    empty = vacated(images, regions)
    other = exchange(images, regions, empty.roll(1, dims=0))
    before, after = (explainer(classifier, batch, targets) for batch in (images, other))
    background_invariance(before, after, regions)
"""

from __future__ import annotations

import torch

from apercu.metrics.energy import energy
from apercu.metrics.imputation import impute
from apercu.metrics.record import Metric
from apercu.statistics import divide_or
from apercu.types import Images, Maps, Regions, Scores


def background_invariance(before: Maps, after: Maps, regions: Regions) -> Scores:
    """Return the fraction of the evidence on the object that leaves it, 0 to 1; lower is better.

    Evidence is a map's positive mass. It is measured as a fraction of the map, so the scale of the
    map does not matter. A gain counts as 0. A map that has no evidence on the object before scores
    1, so that no explainer gains by missing the object. A constant positive map scores 0.

    Args:
        before: maps of the images, `batch × height × width`.
        after: maps of the same objects on other backgrounds, in the same shape.
        regions: true masks of the objects, in the same shape.

    Returns:
        One score per image.
    """
    inside_before, inside_after = energy(before, regions), energy(after, regions)
    lost = (inside_before - inside_after).clamp(min=0)
    return divide_or(lost, inside_before, otherwise=1.0)


def replace_background(images: Images, regions: Regions, backgrounds: Images) -> Images:
    """Return each image's object on another background."""
    return torch.where(regions[:, None], images, backgrounds)


def remove_objects(images: Images, regions: Regions) -> Images:
    """Return the images with their objects filled in from the surroundings."""
    return impute(images, ~regions)


BACKGROUND_INVARIANCE = Metric(
    name="background_invariance",
    function=background_invariance,
    takes=("maps", "maps_elsewhere", "true_regions"),
    better="lower",
    title="Background",
    phrase="background invariance",
    meaning="fraction of the evidence that leaves the object on another background",
)
