"""The record of the counterpart explainer: how it is built, trained, measured and described."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from apercu.classifiers import Classifier
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.explainers.counterfactual import find_doubts, measure_on_held_out
from apercu.explainers.counterpart.explainer import CounterpartExplainer
from apercu.explainers.counterpart.network import CounterpartNetwork
from apercu.explainers.counterpart.settings import COUNTERPART_PRESETS, CounterpartSettings
from apercu.explainers.encoder import build_encoder, fit_resolution, open_backbone
from apercu.explainers.kind import CardText, ExplainerKind

if TYPE_CHECKING:
    from apercu.explainers.counterpart.training import CounterpartTraining


def build_counterpart_network(
    settings: CounterpartSettings,
    classifier_info: ClassifierInfo,
    backbone: Classifier | None = None,
    *,
    pretrained: bool = True,
) -> CounterpartNetwork:
    """Build the untrained network that the settings describe.

    Args:
        settings: they name the encoder and the generators.
        classifier_info: the explained classifier.
        backbone: the classifier whose layers become the encoder, where the settings name one.
        pretrained: whether timm fetches weights.

    Returns:
        The network.

    Raises:
        ConfigError: the encoder cannot be built, or the resolution of the changes is no power of
            two.
    """
    encoder = build_encoder(settings, classifier_info, backbone, pretrained=pretrained)
    shape = settings.generators
    resolution = fit_resolution("generators.resolution", shape.resolution, encoder)
    shape = replace(shape, resolution=resolution)
    classes, channels = len(classifier_info.classes), classifier_info.input.channels
    return CounterpartNetwork(
        encoder,
        classes,
        channels,
        shape,
        frozen=settings.frozen,
        adapter_width=settings.adapter_width,
    )


def build_training(
    network: CounterpartNetwork, classifier: Classifier, settings: CounterpartSettings, seed: int
) -> CounterpartTraining:
    """Build the training module; imported late, as only trainings need Lightning."""
    from apercu.explainers.counterpart.training import CounterpartTraining

    return CounterpartTraining(network, classifier, settings, seed)


def describe(settings: CounterpartSettings) -> CardText:
    """Return what the card of a run says."""
    return CardText(
        "Counterpart explainer",
        f"Encoder `{settings.encoder}`, stable images from `{settings.objective.stable}`",
        "Use: `apercu explain RUN IMAGE --out counterparts`.",
    )


COUNTERPART = ExplainerKind(
    name="counterpart",
    presets=COUNTERPART_PRESETS,
    explainer=CounterpartExplainer,
    build_network=build_counterpart_network,
    build_training=build_training,
    describe=describe,
    measure=measure_on_held_out,
    find_doubts=find_doubts,
    open_backbone=open_backbone,
    min_classes=2,
    needs_one_class=True,
)
