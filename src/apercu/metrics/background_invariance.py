"""Background invariance: does the evidence stay on the object when the background is exchanged?

It needs true masks. Each object is put on the background of another image, whose own object is
filled in; the maps before and after are compared on the object:

>>> images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
>>> regions = torch.zeros(2, 8, 8, dtype=torch.bool)
>>> regions[:, 2:6, 2:6] = True
>>> backgrounds = remove_objects(images, regions).roll(1, dims=0)
>>> others = replace_background(images, regions, backgrounds)
>>> maps_of = lambda images: images.mean(1)  # an explainer
>>> background_invariance(maps_of(images), maps_of(others), regions).shape
torch.Size([2])
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
    """Return each image's object on another background.

    Args:
        images: images with objects, `batch × channels × height × width`.
        regions: true masks of the objects, `batch × height × width`.
        backgrounds: images that are taken outside of the objects, in the shape of `images`.

    Returns:
        Images in the same shape.
    """
    return torch.where(regions[:, None], images, backgrounds)


def remove_objects(images: Images, regions: Regions) -> Images:
    """Return the images with their objects filled in from the surroundings.

    Args:
        images: images with objects, `batch × channels × height × width`.
        regions: true masks of the objects, `batch × height × width`.

    Returns:
        Images in the same shape.
    """
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
