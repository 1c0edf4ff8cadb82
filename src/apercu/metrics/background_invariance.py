"""Does the evidence stay on the object when the background is exchanged? Needs true masks.

empty = vacated(images, regions)
other = exchange(images, regions, empty.roll(1, dims=0))
before, after = (explainer(classifier, some, targets) for some in (images, other))
background_invariance(before, after, regions)
"""

from __future__ import annotations

import torch

from apercu.metrics.energy import energy
from apercu.metrics.road import impute
from apercu.types import Images, Maps, Regions, Scores


def background_invariance(before: Maps, after: Maps, regions: Regions) -> Scores:
    """The share of the evidence on the object that leaves it, 0 to 1; lower is better.

    Evidence is a map's positive mass; it is measured as a share of the map, so its scale does not
    matter, and a gain counts as 0. A map without evidence on the object at first scores 1, so
    that none gains by missing it; one that is constant, and positive, loses nothing and scores 0.
    """
    first, then = energy(before, regions), energy(after, regions)
    left = (first - then).clamp(min=0)
    return torch.where(first > 0, left / first.where(first > 0, 1), 1)


def replace_background(images: Images, regions: Regions, backgrounds: Images) -> Images:
    """Each image's object on another background."""
    return torch.where(regions[:, None], images, backgrounds)


def remove_objects(images: Images, regions: Regions) -> Images:
    """The images without their objects, whose place is filled from its surroundings."""
    return impute(images, ~regions)
