"""Exchanges at many places of a film: the rank of the marked place, and how well maps agree."""

from __future__ import annotations

import torch
from controls import measure_overlap
from exchange_table import compute_interval
from films import MarkedFilms
from torch import Tensor

from apercu.classifiers import Classifier
from apercu.methods import CentreBlob
from apercu.metrics import iou_over_percentiles, ncc
from apercu.metrics.evidence_exchange import move_regions, replace_parts

WINDOW, STRIDE = 40, 16
"""Side of the windows of a map, and distance between neighbouring places, in pixels."""
FEATHER = 0.02
"""Blur of the edges of a part, as a fraction of a side."""
BATCH_SIZE = 64


def rank_marked_regions(
    classifier: Classifier, marked: MarkedFilms, donors: Tensor, target: int, seed: int
) -> dict[str, object]:
    """Measure what fraction of all other places of the same shape matter less than the marked one.

    Args:
        classifier: classifier of films.
        marked: films, and the regions that are compared with other places.
        donors: aligned films that give the parts, `films × donors × 1 × height × width`; the
            first of each film counts.
        target: class whose margin is measured.
        seed: seed of the interval.

    Returns:
        The number of films that have other places, and the mean fraction with its interval.
    """
    fractions = []
    height, width = marked.regions.shape[1:]
    downs, rights = (
        range(-length // STRIDE * STRIDE, length, STRIDE) for length in (height, width)
    )
    offsets = torch.tensor([(down, right) for down in downs for right in rights])
    for image, region, donor in zip(marked.images, marked.regions, donors[:, 0], strict=True):
        places = move_regions(region.expand(len(offsets), -1, -1), offsets)
        is_whole = places.flatten(1).sum(1) >= 0.95 * region.sum()
        is_apart = measure_overlap(places, region) <= 0.5
        places = torch.cat([region[None], places[is_whole & is_apart]])
        changes = exchange_places(classifier, image, donor, places, target)
        if len(changes) > 1:
            fractions.append((changes[1:] > changes[0]).float().mean().item())
    return {
        "films": len(fractions),
        "share_of_places_that_matter_less": compute_interval(torch.tensor(fractions), seed),
    }


def compare_exchange_maps(
    classifier: Classifier, marked: MarkedFilms, donors: Tensor, target: int, seed: int
) -> dict[str, object]:
    """Measure how well maps of the exchange agree with the marks; a blob in the centre is compared.

    Such a map is faithful to the classifier by construction.

    Args:
        classifier: classifier of films.
        marked: films and their marks.
        donors: aligned films that give the parts, `films × donors × 1 × height × width`; the
            first of each film counts.
        target: class whose margin is measured.
        seed: seed of the intervals.

    Returns:
        The mean of each metric with its interval, by map and metric.
    """
    height, width = marked.regions.shape[1:]
    windows = make_windows(height, width)
    weights = windows.float()
    rows = []
    for film, donor in zip(marked.images, donors[:, 0], strict=True):
        losses = -exchange_places(classifier, film, donor, windows, target)
        rows.append((losses[:, None, None] * weights).sum(0) / weights.sum(0).clamp(min=1))
    maps = torch.stack(rows)
    blob = CentreBlob()(classifier, marked.images, torch.full((len(marked),), target))
    return {
        name: {
            "ncc": compute_interval(ncc(values, marked.regions), seed),
            "iou_over_percentiles": compute_interval(
                iou_over_percentiles(values, marked.regions), seed
            ),
        }
        for name, values in {"exchange": maps, "centre_blob": blob}.items()
    }


def make_windows(height: int, width: int) -> Tensor:
    """Return squares at regular places, `windows × height × width`."""
    starts = [
        (top, left)
        for top in range(0, height - WINDOW + 1, STRIDE)
        for left in range(0, width - WINDOW + 1, STRIDE)
    ]
    windows = torch.zeros(len(starts), height, width, dtype=torch.bool)
    for window, (top, left) in zip(windows, starts, strict=True):
        window[top : top + WINDOW, left : left + WINDOW] = True
    return windows


def exchange_places(
    classifier: Classifier, film: Tensor, donor: Tensor, places: Tensor, target: int
) -> Tensor:
    """Measure how the margin of a class changes when a place comes from another film.

    Args:
        classifier: classifier of two classes.
        film: one film in [0, 1], `1 × height × width`.
        donor: the film that gives the parts, in the same shape.
        places: regions, `places × height × width`.
        target: class whose margin is measured.

    Returns:
        The change in logits for each place; below 0 where the class loses.
    """
    results = []
    with torch.no_grad():
        before = compute_margin(classifier(film[None]), target)
        for part in torch.split(places, BATCH_SIZE):
            films = film.expand(len(part), -1, -1, -1)
            changed = replace_parts(films, donor.expand_as(films), part, FEATHER)
            results.append(compute_margin(classifier(changed), target) - before)
    return torch.cat(results)


def compute_margin(logits: Tensor, target: int) -> Tensor:
    """Return the logit of one of two classes minus that of the other."""
    return logits[:, target] - logits[:, 1 - target]
