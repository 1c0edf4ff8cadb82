"""The record of the latent explainer: how it is built, trained, measured and described."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apercu.classifiers import Classifier
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.explainers.counterfactual import find_doubts, measure_on_held_out
from apercu.explainers.kind import CardText, ExplainerKind
from apercu.explainers.latent.explainer import LatentExplainer
from apercu.explainers.latent.network import LatentNetwork
from apercu.explainers.latent.settings import LATENT_PRESETS, LatentSettings

if TYPE_CHECKING:
    from apercu.explainers.latent.training import LatentTraining


def build_latent_network(
    settings: LatentSettings,
    classifier_info: ClassifierInfo,
    backbone: Classifier | None = None,
    *,
    pretrained: bool = True,
) -> LatentNetwork:
    """Build the untrained network that the settings describe.

    Args:
        settings: they give the size of the autoencoder.
        classifier_info: the explained classifier.
        backbone: not used; the network has its own encoder.
        pretrained: not used; there are no pretrained weights.

    Returns:
        The network.
    """
    channels, classes = classifier_info.input.channels, len(classifier_info.classes)
    return LatentNetwork(channels, classes, settings.shape)


def build_training(
    network: LatentNetwork, classifier: Classifier, settings: LatentSettings, seed: int
) -> LatentTraining:
    """Build the training module; imported late, as only trainings need Lightning."""
    from apercu.explainers.latent.training import LatentTraining

    return LatentTraining(network, classifier, settings, seed)


def describe(settings: LatentSettings) -> CardText:
    """Return what the card of a run says."""
    return CardText(
        "Latent explainer",
        f"Codes of {settings.shape.code} numbers for pictures of {settings.shape.side} pixels",
        "Use: `apercu explain RUN IMAGE --out paths`.",
    )


def open_no_backbone(settings: LatentSettings, classifier: Classifier) -> None:
    """Return None: the network has its own encoder."""


LATENT = ExplainerKind(
    name="latent",
    presets=LATENT_PRESETS,
    explainer=LatentExplainer,
    build_network=build_latent_network,
    build_training=build_training,
    describe=describe,
    measure=measure_on_held_out,
    find_doubts=find_doubts,
    open_backbone=open_no_backbone,
    needs_gradients=False,
    min_classes=2,
    needs_one_class=True,
)
