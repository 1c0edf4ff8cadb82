"""Features in two dimensions, each image drawn where its features lie."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from PIL import Image, ImageDraw

from apercu import render
from apercu.errors import ConfigError
from apercu.pretraining.heads.base import Features, LabelledFeatures

SIDE, THUMBNAIL, EDGE = 900, 44, 3
"""Pixels of the picture, of an image in it, and of the frame in the colour of its class."""
OUTER_FRACTION = 0.03
"""Share of the images at each end of an axis that are drawn at its end."""


def project_on_principal_components(features: Features) -> Float[torch.Tensor, "images 2"]:
    """The two directions in which standardised features vary most (PCA).

    The sign of each is that of its largest share, so that it does not depend on the machine.
    """
    centred = features.double() - features.double().mean(0)
    centred = centred / centred.std(0, unbiased=False).clamp(min=1e-6)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    found = directions[:2]
    largest = found.gather(1, found.abs().argmax(1, keepdim=True))
    return (centred @ (found * largest.sign()).T).to(features)


def draw_pca_plot(known: LabelledFeatures, colours: Sequence[str]) -> Image.Image:
    """A picture of images at the place of their features; of those that overlap, one is drawn.

    Args:
        known: features, images and classes.
        colours: of the frames, by class; the last is that of all further ones.

    Raises:
        ConfigError: there are features alone.
    """
    features, images, labels = known.features, known.images, known.labels
    if images is None:
        raise ConfigError("plane: expected images beside their features")
    places = project_on_principal_components(features)
    low, high = (places.quantile(end, 0) for end in (OUTER_FRACTION, 1 - OUTER_FRACTION))
    shares = ((places - low) / (high - low).clamp(min=1e-9)).clamp(0, 1)
    canvas = Image.new("RGB", (SIDE, SIDE), render.PAPER)
    pen, room = ImageDraw.Draw(canvas), SIDE - THUMBNAIL - 2 * EDGE
    taken: set[tuple[int, int]] = set()
    for index, (across, down) in enumerate(shares.tolist()):
        left, top = EDGE + round(across * room), EDGE + round((1 - down) * room)
        cell = left // (THUMBNAIL + 2 * EDGE), top // (THUMBNAIL + 2 * EDGE)
        if cell in taken:
            continue
        taken.add(cell)
        colour = colours[min(int(labels[index]), len(colours) - 1)]
        ends = (left - EDGE, top - EDGE, left + THUMBNAIL + EDGE - 1, top + THUMBNAIL + EDGE - 1)
        pen.rectangle(ends, fill=colour)
        shown = render.to_image(images[index].clamp(0, 1))
        canvas.paste(render.fit_to_side(shown, THUMBNAIL), (left, top))
    return canvas
