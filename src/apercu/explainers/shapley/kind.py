"""The record of the Shapley explainer: how it is built, trained, measured and described."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from apercu.classifiers import Classifier
from apercu.errors import ConfigError
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.explainers.encoder import build_encoder, open_backbone
from apercu.explainers.kind import CardText, ExplainerKind
from apercu.explainers.shapley.explainer import (
    SHAPLEY_PRESETS,
    ShapleyExplainer,
    ShapleySettings,
)
from apercu.explainers.shapley.network import ShapleyNetwork
from apercu.progress import ProgressCallback, ignore_progress
from apercu.training.data import TrainingImages, iterate_batches, report_batches

if TYPE_CHECKING:
    from apercu.explainers.shapley.training import ShapleyTraining

SUBSETS = 16
"""Subsets of the cells of each held-out image on which values are measured."""


def build_shapley_network(
    settings: ShapleySettings,
    classifier_info: ClassifierInfo,
    backbone: Classifier | None = None,
    *,
    pretrained: bool = True,
) -> ShapleyNetwork:
    """Build the untrained network that the settings describe.

    Args:
        settings: they name the encoder and the grid.
        classifier_info: the explained classifier.
        backbone: the classifier whose layers become the encoder, where the settings name one.
        pretrained: whether timm fetches weights.

    Returns:
        The network.

    Raises:
        ConfigError: the encoder cannot be built, or the grid has more cells than the images pixels.
    """
    grid, size = settings.shape.grid, classifier_info.input.size
    if grid > min(size):
        raise ConfigError(
            f"shape.grid: expected at most {min(size)} rows, as images have {size[0]} × {size[1]} "
            f"pixels, got {grid}"
        )
    encoder = build_encoder(settings, classifier_info, backbone, pretrained=pretrained)
    return ShapleyNetwork(
        encoder,
        len(classifier_info.classes),
        settings.shape,
        settings.value,
        classifier_info.decision,
        frozen=settings.frozen,
        adapter_width=settings.adapter_width,
    )


def build_training(
    network: ShapleyNetwork, classifier: Classifier, settings: ShapleySettings, seed: int
) -> ShapleyTraining:
    """Build the training module; imported late, as only trainings need Lightning."""
    from apercu.explainers.shapley.training import ShapleyTraining

    return ShapleyTraining(network, classifier, settings, seed)


def describe(settings: ShapleySettings) -> CardText:
    """Return what the card of a run says."""
    grid = settings.shape.grid
    return CardText(
        "Shapley explainer",
        f"Encoder `{settings.encoder}`, {grid} × {grid} cells that share the {settings.value}",
        "Use: `apercu explain RUN IMAGE --out maps`.",
    )


def find_doubts(facts: Mapping[str, float]) -> list[str]:
    """Return why values do not look trained, from what was measured on images held out."""
    from apercu.explainers.shapley.training import MIN_EXPLAINED

    if facts["explained"] >= MIN_EXPLAINED:
        return []
    return [
        "values are hardly better than equal ones (they explain "
        f"{facts['explained']:.2f} of the error of the same value for every cell)"
    ]


@torch.no_grad()
def measure(
    explainer: ShapleyExplainer,
    classifier: Classifier,
    images: TrainingImages,
    run: Path,
    seed: int,
    report: ProgressCallback = ignore_progress,
) -> dict[str, float]:
    """Measure how well values of the predicted class predict subsets of cells of held-out images.

    Args:
        explainer: the trained explainer.
        classifier: the explained classifier.
        images: the images held out.
        run: the run folder, into which nothing is written.
        seed: seed of the subsets.
        report: receives the name of the work, the images that are done, and the images in all.

    Returns:
        What was measured, by name.
    """
    from apercu.explainers.shapley.training import compute_explained, query_subsets

    network, count = explainer.network, len(images)
    generator, parts = torch.Generator().manual_seed(seed), []
    for batch in report_batches(iterate_batches(images, count), "measuring subsets", count, report):
        batch = batch.to(classifier.device)
        logits = classifier(batch)
        targets = logits.argmax(1)[:, None]
        values = network.compute_values(network.encode(batch), targets)
        rows = torch.split(batch, 1)
        queries = [query_subsets(network, classifier, row, SUBSETS, generator) for row in rows]
        subsets, gains = (torch.cat(tensors) for tensors in zip(*queries, strict=True))
        parts.append((values, subsets, gains.gather(2, targets[:, None].expand(-1, SUBSETS, -1))))
    explained = float("nan")
    if parts:
        explained = float(compute_explained(*map(torch.cat, zip(*parts, strict=True))))
    return {"explained": explained, "measured_images": float(count)}


SHAPLEY = ExplainerKind(
    name="shapley",
    presets=SHAPLEY_PRESETS,
    explainer=ShapleyExplainer,
    build_network=build_shapley_network,
    build_training=build_training,
    describe=describe,
    measure=measure,
    find_doubts=find_doubts,
    open_backbone=open_backbone,
    needs_gradients=False,
    min_classes=2,
)
