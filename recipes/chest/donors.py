"""Films that give a part to another film: chosen, aligned with it, and exposed alike."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from films import CLASSES, Films, MarkedFilms, find_patient
from torch import Tensor

from apercu.classifiers import Classifier
from apercu.images import open_images

NORMAL, ILL = range(len(CLASSES))
DONORS, CANDIDATES = 2, 12
"""Films that give a part to each film; films that are aligned with it to choose them."""
BATCH_SIZE = 64
SIDE, STEPS, LEARNING_RATE = 40, 50, 0.02
"""Side of the small films that are aligned, in pixels, and how their alignment is optimised."""


def make_pools(
    classifier: Classifier, films: Films, folder: Path
) -> tuple[MarkedFilms, MarkedFilms]:
    """Return the normal films, and the ill ones, that the classifier predicts correctly.

    Args:
        classifier: classifier of films.
        films: test films of the NIH.
        folder: the folder that they were read from, whose names tell the patients.

    Returns:
        Normal films and ill films; nothing is marked on them.

    Raises:
        SystemExit: fewer than CANDIDATES films of a class are predicted correctly.
    """
    items = open_images(folder, channels=1)
    names = [Path(item.name).name for item in items if Path(item.name).name.startswith("nih-")]
    predicted = predict_classes(classifier, films.images)
    unmarked = torch.zeros(len(films), *films.images.shape[2:], dtype=torch.bool)
    of_nih = MarkedFilms(films.images, unmarked, [find_patient(name) for name in names])
    pools = []
    for label in (NORMAL, ILL):
        pools.append(of_nih.select((films.labels == label) & (predicted == label)))
        if len(pools[-1]) < CANDIDATES:
            raise SystemExit(
                f"error: {folder}: expected {CANDIDATES} films of the NIH or more that are "
                f"predicted correctly as {CLASSES[label]}, got {len(pools[-1])}"
            )
    return pools[NORMAL], pools[ILL]


@torch.no_grad()
def predict_classes(classifier: Classifier, images: Tensor) -> Tensor:
    """Return the predicted class of each film."""
    return torch.cat([classifier(part).argmax(1) for part in torch.split(images, BATCH_SIZE)])


def borrow_films(films: MarkedFilms, pool: MarkedFilms) -> Tensor:
    """Return for each film those films of other patients that fit it best when aligned.

    The marked region and its surroundings do not count, so that nothing is chosen by what lies
    there. The exposure is that of the film outside the region.

    Args:
        films: films that get a part.
        pool: films that may give one.

    Returns:
        Aligned films in [0, 1], `films × donors × 1 × height × width`, the best first.
    """
    weights = 1 - cover_surroundings(films.regions)
    small, others = shrink(films.images), shrink(pool.images)
    fits = correlate(small[:, None], others[None], weights[:, None])
    for row, patient in enumerate(films.patients):
        is_same = [patient == other for other in pool.patients]
        fits[row, torch.tensor(is_same)] = -1
    order = fits.topk(CANDIDATES, dim=1).indices
    candidates = pool.images[order.flatten()]
    film, region = (
        values.repeat_interleave(CANDIDATES, 0) for values in (films.images, films.regions)
    )
    aligned, agreement = align(candidates, film, region)
    best = agreement.view(len(films), CANDIDATES).topk(DONORS).indices
    chosen = (best + CANDIDATES * torch.arange(len(films))[:, None]).flatten()
    results = match_exposure(aligned[chosen], film[chosen], region[chosen])
    return results.view(len(films), DONORS, *results.shape[1:])


def mirror_films(films: MarkedFilms) -> Tensor:
    """Return films mirrored and aligned with themselves, `films × 1 × height × width`."""
    return align(films.images.flip(3), films.images, films.regions)[0]


def shrink(images: Tensor) -> Tensor:
    """Return images of one channel at SIDE × SIDE pixels, without the channel."""
    return F.interpolate(images, (SIDE, SIDE), mode="bilinear", antialias=True)[:, 0]


def cover_surroundings(regions: Tensor) -> Tensor:
    """Return 1 in the regions and around them, else 0, `films × SIDE × SIDE`."""
    small = shrink(regions[:, None].float())[:, None]
    return (F.max_pool2d(small, 5, 1, 2)[:, 0] > 0.1).float()


def correlate(first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted correlation of two tensors over their last two dimensions."""
    total = weights.sum((-2, -1), keepdim=True)

    def subtract_mean(values: Tensor) -> Tensor:
        return values - (values * weights).sum((-2, -1), keepdim=True) / total

    first, second = subtract_mean(first), subtract_mean(second)
    product = (weights * first * second).sum((-2, -1))
    norms = (weights * first**2).sum((-2, -1)) * (weights * second**2).sum((-2, -1))
    return product / norms.clamp(min=1e-12).sqrt()


def align(moving: Tensor, fixed: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
    """Move, scale, shear and rotate films so that they agree with others outside regions.

    Args:
        moving: films that are moved, `films × 1 × height × width`.
        fixed: films that they are moved onto, in the same shape.
        regions: pixels that do not count, `films × height × width`; neither do those around them.

    Returns:
        The moved films, and their correlation with the fixed ones, one number per film.
    """
    weights = 1 - cover_surroundings(regions)
    small, target = shrink(moving)[:, None], shrink(fixed)
    change = torch.zeros(len(moving), 2, 3, requires_grad=True)
    optimiser = torch.optim.Adam([change], LEARNING_RATE)
    for _ in range(STEPS):
        loss = 1 - correlate(warp(small, change)[:, 0], target, weights)
        optimiser.zero_grad()
        (loss + 0.3 * change.square().sum((1, 2))).sum().backward()
        optimiser.step()
    change = change.detach()
    return warp(moving, change), correlate(warp(small, change)[:, 0], target, weights)


def warp(images: Tensor, change: Tensor) -> Tensor:
    """Return images under affine maps, given as what is added to the identity, `images × 2 × 3`."""
    grid = F.affine_grid(torch.eye(2, 3) + change, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def match_exposure(images: Tensor, others: Tensor, regions: Tensor) -> Tensor:
    """Return images with the mean and the contrast that others have outside regions.

    Args:
        images: films in [0, 1], `films × 1 × height × width`.
        others: films in the same shape, whose mean and contrast are wanted.
        regions: pixels that do not count, `films × height × width`.

    Returns:
        Films in [0, 1] in the same shape; the contrast is at most halved or doubled.
    """
    weights = (~regions)[:, None].float()
    total = weights.sum((2, 3), keepdim=True)

    def compute_moments(values: Tensor) -> tuple[Tensor, Tensor]:
        mean = (values * weights).sum((2, 3), keepdim=True) / total
        variance = (weights * (values - mean).square()).sum((2, 3), keepdim=True) / total
        return mean, variance.sqrt().clamp(min=1e-3)

    mean, deviation = compute_moments(images)
    other_mean, other_deviation = compute_moments(others)
    return ((images - mean) * (other_deviation / deviation).clamp(0.5, 2) + other_mean).clamp(0, 1)
