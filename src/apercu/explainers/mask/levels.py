"""The level curve: what the classifier predicts of the region at each level of the masks."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from apercu import maps
from apercu.classifiers import Classifier
from apercu.explainers.mask.explainer import MaskExplainer
from apercu.explainers.mask.objectives.crop_search import score_boxes
from apercu.extras import is_installed
from apercu.io import format_csv_rows, write_file
from apercu.metrics.flipping import target_probability
from apercu.removal import Blur
from apercu.types import Images, Regions, Scores, Targets

ADVANTAGE_LEVELS = (0.3, 0.5, 0.7)
"""Levels of the masks at which regions are compared with the same regions elsewhere."""
LEVELS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class LevelPoint:
    """Means over images at one level of the masks.

    Attributes:
        level: threshold of the mask; the region is where the mask reaches it.
        area: fraction of the image in the region.
        kept: probability of the class when only the region is shown, the rest blurred.
        removed: probability of the class when the region is blurred.
        saliency_metric: log max(area, 0.05) − log p of the region's tightest box, cropped.
    """

    level: float
    area: float
    kept: float
    removed: float
    saliency_metric: float


LevelCurve: TypeAlias = list[LevelPoint]


def measure_levels(
    explainer: MaskExplainer,
    classifier: Classifier,
    batches: Iterable[Tensor],
    levels: Sequence[float] = LEVELS,
) -> LevelCurve:
    """Measure area, kept and removed probability at each level, for the classifier's top class.

    Args:
        explainer: the explainer of the masks.
        classifier: the explained classifier, which predicts each image three times per level.
        batches: images in [0, 1] at the classifier's size.
        levels: thresholds of the masks.

    Returns:
        One point per level.
    """
    sums = torch.zeros(len(levels), 4)
    count = 0
    for images in batches:
        images = images.to(explainer.device)
        targets = classifier(images).argmax(1)
        masks = explainer.attribute(images, targets)
        sums += torch.stack(
            [_measure_level(classifier, images, targets, masks >= level) for level in levels]
        )
        count += len(images)
    return [
        LevelPoint(level, *row) for level, row in zip(levels, (sums / count).tolist(), strict=True)
    ]


def measure_advantage(
    explainer: MaskExplainer, classifier: Classifier, batches: Iterable[Tensor]
) -> tuple[float, float]:
    """Measure whether masks are where the evidence is: against the same regions elsewhere.

    The score of a region is the probability of the class when only the region is shown, less that
    when it is removed. Each region is compared with itself, moved by half of the image's height and
    width, at three levels. A constant mask has no advantage.

    Args:
        explainer: the explainer of the masks.
        classifier: the explained classifier, which predicts each image 13 times.
        batches: images in [0, 1] at the classifier's size.

    Returns:
        The mean over images of the difference of the two scores, and its standard error, which is
        infinite for a single image.
    """
    rows = []
    for images in batches:
        images = images.to(explainer.device)
        targets = classifier(images).argmax(1)
        masks = explainer.attribute(images, targets)
        half = (masks.shape[1] // 2, masks.shape[2] // 2)
        differences = [
            _score_region(classifier, images, targets, masks >= level)
            - _score_region(classifier, images, targets, masks.roll(half, (1, 2)) >= level)
            for level in ADVANTAGE_LEVELS
        ]
        rows.append(torch.stack(differences).mean(0).cpu())
    values = torch.cat(rows)
    error = values.std().item() / len(values) ** 0.5 if len(values) > 1 else float("inf")
    return values.mean().item(), error


@torch.no_grad()
def _score_region(
    classifier: Classifier, images: Images, targets: Targets, regions: Regions
) -> Tensor:
    """Return the probability of the class in the region, less that outside of it."""
    kept, removed = _predict_kept_and_removed(classifier, images, targets, regions)
    return kept - removed


def _predict_kept_and_removed(
    classifier: Classifier, images: Images, targets: Targets, regions: Regions
) -> tuple[Scores, Scores]:
    """Return the probability of the class where all but the region, or the region, is blurred."""
    keep, blur = regions.float(), Blur()
    return (
        target_probability(classifier, blur(images, keep), targets),
        target_probability(classifier, blur(images, 1 - keep), targets),
    )


def measure_absent_area(explainer: MaskExplainer, batches: Iterable[Tensor], seed: int) -> float:
    """Return the mean mask area for random classes besides the predicted one."""
    generator = torch.Generator().manual_seed(seed)
    decision, areas = explainer.classifier_info.decision, []
    for images in batches:
        absent = decision.draw_absent(explainer.estimate_logits(images).cpu(), generator)
        areas.append(explainer.attribute(images, absent).mean((1, 2)).cpu())
    return torch.cat(areas).mean().item()


def write_level_curve(points: Sequence[LevelPoint], folder: Path) -> None:
    """Write the curve as `dial.csv`, and as `dial.png` where the extra `plots` is installed.

    Raises:
        OutputError: the folder cannot be written.
    """
    rows: list[list[object]] = [[field.name for field in fields(LevelPoint)]]
    rows += [[round(value, 4) for value in asdict(point).values()] for point in points]
    write_file(folder / "dial.csv", format_csv_rows(rows))
    if is_installed("plots"):
        write_file(folder / "dial.png", _plot_curve(points))


@torch.no_grad()
def _measure_level(
    classifier: Classifier, images: Images, targets: Targets, regions: Regions
) -> Tensor:
    """Return sums over the batch of area, kept, removed and the saliency metric."""
    height, width = images.shape[-2:]
    kept, removed = _predict_kept_and_removed(classifier, images, targets, regions)
    boxes = maps.tight_boxes(regions) / torch.tensor([width, height] * 2, device=regions.device)
    empty = ~regions.flatten(1).any(1, keepdim=True)
    boxes = torch.where(empty, boxes.new_tensor([0.0, 0.0, 1.0, 1.0]), boxes)
    metric = score_boxes(classifier, images, boxes[:, None], targets)
    scores = (regions.float().mean((1, 2)), kept, removed, metric.squeeze(1))
    return torch.stack([values.sum().cpu() for values in scores])


def _plot_curve(points: Sequence[LevelPoint]) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    areas = [point.area for point in points]
    axes.plot(areas, [p.kept for p in points], "o-", label="region kept")
    axes.plot(areas, [p.removed for p in points], "s-", label="region removed")
    for point in points[1::4]:
        axes.annotate(f"{point.level:g}", (point.area, point.kept), fontsize=8)
    axes.set(xlabel="area of the region", ylabel="probability of the class", ylim=(0, 1))
    axes.set_title("levels of the masks, from sufficient (left) to destroying (right)")
    axes.title.set_fontsize(9)
    axes.legend()
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)  # type: ignore[no-untyped-call]
    return buffer.getvalue()
