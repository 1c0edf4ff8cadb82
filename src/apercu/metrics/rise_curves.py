"""Deletion and insertion exactly as RISE runs them (Petsiuk et al. 2018), to stand beside its rows.

They differ from `dauc` and `iauc`, which follow Gomez et al. (2022), in the number of steps and in
the blurred image of insertion.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from apercu.classifiers import Classifier
from apercu.metrics.flipping import Flipping, compute_area, flip_pixels
from apercu.metrics.record import Metric
from apercu.removal import Flat, Removal
from apercu.types import Images, Maps, Scores, Targets

KERNEL = 11
"""Side of the kernel that blurs the image, in pixels."""
SIGMA = 5.0
"""Standard deviation of that kernel, in pixels."""


class KernelBlur(Removal):
    """Evidence is blurred by RISE's kernel of 11 pixels, in which a Gaussian is folded back.

    Args:
        outside: the colour beyond the edges of the image, a value in [0, 1] per channel.
    """

    def __init__(self, outside: tuple[float, ...]) -> None:
        self.outside = outside

    def make_replacement(self, images: Images, generator: Generator | None = None) -> Images:
        line = build_rise_kernel().to(images)
        channels = images.shape[1]
        colour = torch.tensor(self.outside).to(images)[:, None, None]
        blurred = images - colour
        for shape in ((-1, 1), (1, -1)):
            kernel = line.view(1, 1, *shape).expand(channels, -1, -1, -1)
            padding = tuple(side // 2 for side in kernel.shape[2:])
            blurred = F.conv2d(blurred, kernel, padding=padding, groups=channels)
        return blurred + colour


def build_rise_kernel() -> Tensor:
    """Return one axis of RISE's kernel: a Gaussian filter of an impulse, mirrored at its edges."""
    radius = int(4 * SIGMA + 0.5)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = (-0.5 * (offsets / SIGMA).square()).exp()
    weights = weights / weights.sum()
    middle = KERNEL // 2
    reached = (torch.arange(KERNEL)[:, None] + offsets.long()) % (2 * KERNEL)
    folded = torch.where(reached < KERNEL, reached, 2 * KERNEL - 1 - reached)
    return (weights * (folded == middle)).sum(1)


def rise_deletion(classifier: Classifier, images: Images, targets: Targets, maps: Maps) -> Scores:
    """Return the area under the curve of deletion to the mean colour, 0 to 1; lower is better.

    A step flips as many pixels as the image is wide.

    Args:
        classifier: the classifier that is explained.
        images: images in [0, 1], `batch × channels × height × width`.
        targets: one class per image.
        maps: maps, `batch × height × width`.

    Returns:
        One score per image.
    """
    return _flip_rows(classifier, images, targets, maps, Flipping(Flat(classifier.zero_colour)))


def rise_insertion(classifier: Classifier, images: Images, targets: Targets, maps: Maps) -> Scores:
    """Return the area under the curve of insertion into a blurred image; higher is better.

    A step flips as many pixels as the image is wide.

    Args:
        classifier: the classifier that is explained.
        images: images in [0, 1], `batch × channels × height × width`.
        targets: one class per image.
        maps: maps, `batch × height × width`.

    Returns:
        One score per image.
    """
    insertion = Flipping(KernelBlur(classifier.zero_colour), insert=True)
    return _flip_rows(classifier, images, targets, maps, insertion)


def _flip_rows(
    classifier: Classifier, images: Images, targets: Targets, maps: Maps, flipping: Flipping
) -> Scores:
    """Return the area under the curve where each step flips as many pixels as a row has."""
    flipping = replace(flipping, steps=max(2, maps.shape[1]))
    return compute_area(flip_pixels(classifier, images, targets, maps, flipping))


RISE_DELETION = Metric(
    name="rise_deletion",
    function=rise_deletion,
    takes=("classifier", "images", "targets", "maps"),
    better="lower",
    title="RISE deletion",
    phrase="deletion as in RISE",
    meaning="mean probability while pixels turn to the mean colour, a row's number per step",
    by_name_only=True,
)
RISE_INSERTION = Metric(
    name="rise_insertion",
    function=rise_insertion,
    takes=("classifier", "images", "targets", "maps"),
    better="higher",
    title="RISE insertion",
    phrase="insertion as in RISE",
    meaning="mean probability while pixels return to an image blurred by 11 pixels",
    by_name_only=True,
)
