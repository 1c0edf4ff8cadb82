"""The record of the mask explainer: how it is built, trained, measured and described."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from apercu.classifiers import Classifier
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.explainers.encoder import build_encoder, check_resolution, open_backbone
from apercu.explainers.kind import CardText, ExplainerKind
from apercu.explainers.mask.explainer import MaskExplainer
from apercu.explainers.mask.network import MaskNetwork
from apercu.explainers.mask.settings import MASK_PRESETS, MaskSettings
from apercu.training.data import TrainingImages, iterate_batches

if TYPE_CHECKING:
    from apercu.explainers.mask.training import MaskTraining


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
        ConfigError: the encoder cannot be built, or masks would be coarser than its deepest map.
    """
    encoder = build_encoder(settings, classifier_info, backbone, pretrained=pretrained)
    check_resolution("decoder.resolution", settings.decoder.resolution, encoder)
    classes = len(classifier_info.classes)
    return MaskNetwork(encoder, classes, settings.decoder, frozen=settings.frozen)


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


def measure(
    explainer: MaskExplainer, classifier: Classifier, images: TrainingImages, run: Path, seed: int
) -> dict[str, float]:
    """Measure the masks of images held out, and write their level curve into the run folder.

    Args:
        explainer: the trained explainer.
        classifier: the explained classifier itself, not its student.
        images: the images held out.
        run: the run folder.
        seed: seed of the absent classes.

    Returns:
        What was measured, by name.
    """
    from apercu.explainers.mask.levels import (
        measure_absent_area,
        measure_levels,
        write_level_curve,
    )

    count = len(images)
    points = measure_levels(explainer, classifier, iterate_batches(images, count))
    write_level_curve(points, run)
    middle = min(points, key=lambda point: abs(point.level - 0.5))
    best = min(points, key=lambda point: point.saliency_metric)
    return {
        "area_true": middle.area,
        "area_absent": measure_absent_area(explainer, iterate_batches(images, count), seed),
        "measured_images": float(count),
        "kept_probability": middle.kept,
        "removed_probability": middle.removed,
        "saliency_metric": best.saliency_metric,
        "saliency_level": best.level,
    }


MASK = ExplainerKind(
    name="mask",
    presets=MASK_PRESETS,
    explainer=MaskExplainer,
    build_network=build_mask_network,
    build_training=build_training,
    describe=describe,
    measure=measure,
    open_backbone=open_backbone,
)
