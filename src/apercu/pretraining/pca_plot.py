"""A plot of features in two dimensions, in which each image stands at its features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from PIL import Image, ImageDraw

from apercu import render
from apercu.errors import ConfigError
from apercu.pretraining.heads.base import Features, LabelledFeatures

SIDE, THUMBNAIL, EDGE = 900, 44, 3
"""Pixels of the plot's side, of an image's side, and of the frame in the colour of its class."""
OUTER_FRACTION = 0.03
"""Fraction of the images at each end of an axis that are drawn at the end itself."""


def project_on_principal_components(features: Features) -> Float[torch.Tensor, "images 2"]:
    """Project standardised features on the two directions in which they vary most (PCA).

    The largest component of each direction is positive, so that it does not depend on the machine.
    """
    centred = features.double() - features.double().mean(0)
    centred = centred / centred.std(0, unbiased=False).clamp(min=1e-6)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    first = directions[:2]
    largest = first.gather(1, first.abs().argmax(1, keepdim=True))
    return (centred @ (first * largest.sign()).T).to(features)


def draw_pca_plot(labelled: LabelledFeatures, colours: Sequence[str]) -> Image.Image:
    """Draw images at the place of their features; of images that overlap, one is drawn.

    Args:
        labelled: features, images and classes.
        colours: colours of the frames, by class; all further classes have the last one.

    Returns:
        A square picture.

    Raises:
        ConfigError: the images are missing.
    """
    features, images, labels = labelled.features, labelled.images, labelled.labels
    if images is None:
        raise ConfigError("pca_plot: expected images beside their features")
    points = project_on_principal_components(features)
    low, high = (points.quantile(end, 0) for end in (OUTER_FRACTION, 1 - OUTER_FRACTION))
    positions = ((points - low) / (high - low).clamp(min=1e-9)).clamp(0, 1)
    canvas = Image.new("RGB", (SIDE, SIDE), render.PAPER)
    pen, room = ImageDraw.Draw(canvas), SIDE - THUMBNAIL - 2 * EDGE
    occupied: set[tuple[int, int]] = set()
    for index, (across, down) in enumerate(positions.tolist()):
        left, top = EDGE + round(across * room), EDGE + round((1 - down) * room)
        cell = left // (THUMBNAIL + 2 * EDGE), top // (THUMBNAIL + 2 * EDGE)
        if cell in occupied:
            continue
        occupied.add(cell)
        colour = colours[min(int(labels[index]), len(colours) - 1)]
        ends = (left - EDGE, top - EDGE, left + THUMBNAIL + EDGE - 1, top + THUMBNAIL + EDGE - 1)
        pen.rectangle(ends, fill=colour)
        picture = render.to_image(images[index].clamp(0, 1))
        canvas.paste(render.fit_to_side(picture, THUMBNAIL), (left, top))
    return canvas
