"""The record of the mask explainer: how it is built, trained, measured and described."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from apercu.classifiers import Classifier
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.explainers.encoder import (
    build_encoder,
    check_encoder_side,
    fit_resolution,
    open_backbone,
)
from apercu.explainers.kind import CardText, ExplainerKind
from apercu.explainers.mask.explainer import MaskExplainer
from apercu.explainers.mask.network import MaskNetwork
from apercu.explainers.mask.settings import MASK_PRESETS, MaskSettings
from apercu.networks.gate import ALWAYS_OPEN
from apercu.progress import ProgressCallback, ignore_progress
from apercu.training.data import TrainingImages, iterate_batches, report_batches
from apercu.types import Images

if TYPE_CHECKING:
    from apercu.explainers.mask.training import MaskTraining

MIN_ADVANTAGE = 0.05
"""Advantage over the same regions elsewhere below which masks do not look trained."""
MAX_ABSENT_RATIO = 0.8
"""Mean area for absent classes, relative to predicted ones, above which neither do they."""


def build_mask_network(
    settings: MaskSettings,
    classifier_info: ClassifierInfo,
    backbone: Classifier | None = None,
    *,
    pretrained: bool = True,
) -> MaskNetwork:
    """Build the untrained network that the settings describe.

    Args:
        settings: they name the encoder and the decoder.
        classifier_info: the explained classifier.
        backbone: the classifier whose layers become the encoder, where the settings name one.
        pretrained: whether timm fetches weights.

    Returns:
        The network.

    Raises:
        ConfigError: the encoder cannot be built, or the resolution of the masks is no power of two.
    """
    encoder = build_encoder(settings, classifier_info, backbone, pretrained=pretrained)
    shape = settings.decoder
    resolution = fit_resolution("decoder.resolution", shape.resolution, encoder)
    classes, shape = len(classifier_info.classes), replace(shape, resolution=resolution)
    size, side = classifier_info.input.size, settings.encoder_side
    side = None if side is None or side <= min(size) else side  # images never become smaller
    check_encoder_side(encoder, side, size)
    return MaskNetwork(
        encoder,
        classes,
        shape,
        frozen=settings.frozen,
        adapter_width=settings.adapter_width,
        encoder_side=side,
        refinement=settings.refinement,
        closes_absent=settings.close_absent,
    )


def build_training(
    network: MaskNetwork, classifier: Classifier, settings: MaskSettings, seed: int
) -> MaskTraining:
    """Build the training module; imported late, as only trainings need Lightning."""
    from apercu.explainers.mask.training import MaskTraining

    return MaskTraining(network, classifier, settings, seed)


def describe(settings: MaskSettings) -> CardText:
    """Return what the card of a run says."""
    return CardText(
        "Mask explainer",
        f"Encoder `{settings.encoder}`, objective `{settings.objective.form}`",
        "`dial.csv` shows area, kept and removed probability by level; `dial.png` draws them,\n"
        "where the extra `plots` is installed.\n"
        "Use: `apercu explain RUN IMAGE --out maps`.",
    )


def find_doubts(facts: Mapping[str, float]) -> list[str]:
    """Return why masks do not look trained, from what was measured on images held out.

    Args:
        facts: what was measured, by name.

    Returns:
        One phrase for each reason.
    """
    doubts, advantage = [], facts["advantage"]
    if advantage < max(MIN_ADVANTAGE, 2 * facts["advantage_error"]):
        doubts.append(
            "masks are hardly better than the same regions elsewhere in the image (by "
            f"{advantage:.2f} ± {2 * facts['advantage_error']:.2f} in the probability of the class)"
        )
    if facts["area_absent"] > MAX_ABSENT_RATIO * facts["area_true"]:
        doubts.append(
            f"masks hardly depend on the class (mean area {facts['area_true']:.2f} for the "
            f"predicted class, {facts['area_absent']:.2f} for another)"
        )
    return doubts


def measure(
    explainer: MaskExplainer,
    classifier: Classifier,
    images: TrainingImages,
    run: Path,
    seed: int,
    report: ProgressCallback = ignore_progress,
) -> dict[str, float]:
    """Measure the masks of images held out, and write their level curve into the run folder.

    Args:
        explainer: the trained explainer.
        classifier: the explained classifier itself, not its student.
        images: the images held out.
        run: the run folder.
        seed: seed of the absent classes.
        report: receives the name of the work, the images that are done, and the images in all.

    Returns:
        What was measured, by name.
    """
    from apercu.explainers.mask.levels import (
        measure_absent_area,
        measure_advantage,
        measure_levels,
        write_level_curve,
    )
    from apercu.explainers.mask.objectives.crop_search import LIMIT_FACT, choose_limit

    count = len(images)

    def batches(name: str) -> Iterator[Images]:
        return report_batches(iterate_batches(images, count), f"measuring {name}", count, report)

    points = measure_levels(explainer, classifier, batches("levels"))
    write_level_curve(points, run)
    advantage, error = measure_advantage(explainer, classifier, batches("regions"))
    middle = min(points, key=lambda point: abs(point.level - 0.5))
    best = min(points, key=lambda point: point.saliency_metric)
    return {
        "area_true": middle.area,
        "area_absent": measure_absent_area(explainer, batches("absent classes"), seed),
        "advantage": advantage,
        "advantage_error": error,
        "measured_images": float(count),
        "kept_probability": middle.kept,
        "removed_probability": middle.removed,
        "saliency_metric": best.saliency_metric,
        "saliency_level": best.level,
        LIMIT_FACT: choose_limit(explainer, classifier, batches("doubtful masks")),
    }


def finish(
    explainer: MaskExplainer,
    classifier: Classifier,
    images: TrainingImages,
    report: ProgressCallback = ignore_progress,
) -> dict[str, float]:
    """Choose from which z-score on the gate is open, where the settings ask for it.

    Args:
        explainer: the trained explainer.
        classifier: the explained classifier itself, not its student.
        images: the images held out.
        report: receives the name of the work, the images that are done, and the images in all.

    Returns:
        The threshold of the z-score, where masks of some classes are closed.
    """
    if not explainer.settings.close_absent:
        return {}
    from apercu.explainers.mask.threshold import choose_threshold

    threshold = choose_threshold(explainer, classifier, images, report)
    return {} if threshold == ALWAYS_OPEN else {"z_threshold": threshold}


MASK = ExplainerKind(
    name="mask",
    presets=MASK_PRESETS,
    explainer=MaskExplainer,
    build_network=build_mask_network,
    build_training=build_training,
    describe=describe,
    measure=measure,
    find_doubts=find_doubts,
    open_backbone=open_backbone,
    finish=finish,
    min_classes=2,
)
