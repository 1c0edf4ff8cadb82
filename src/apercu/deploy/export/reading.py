"""Where a combined graph gets the prediction from: the encoder's own pass, or one beside it."""

from __future__ import annotations

from typing import Any, final

from torch import Tensor, nn

from apercu.classifiers import Classifier
from apercu.classifiers.network import convert_to_logits_unchecked
from apercu.errors import ConfigError
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.networks.gate import GatedNetwork
from apercu.networks.graph_encoder import EncoderWithHead, GraphEncoder
from apercu.types import Images, Logits


@final
class SeparatePredictor(nn.Module):
    """A classifier and another network's encoder, a pass of each.

    Args:
        classifier: one whose layers can be exported.
        network: the explainer's.
    """

    def __init__(self, classifier: Classifier, network: GatedNetwork) -> None:
        super().__init__()
        self.classifier = [classifier]  # in a list: its door is no part of this module
        self.module = classifier.module
        self.network = network

    def forward(self, images: Images) -> tuple[Logits, list[Tensor]]:
        """Logits, and what the encoder gives."""
        classifier = self.classifier[0]
        answer: Any = classifier.network.forward(classifier.normalise(images))
        return convert_to_logits_unchecked(answer, classifier.network.output), self.network.encode(
            images
        )


def build_predictor(
    network: GatedNetwork, passport: ClassifierInfo, classifier: Classifier | None
) -> nn.Module:
    """Images → the explained classifier's logits and the explainer's feature maps.

    Args:
        network: the explainer's.
        passport: says which classifier it explains.
        classifier: that one; None where it is the explainer's own encoder.

    Raises:
        ConfigError: the classifier is not known, or a black box that cannot be exported.
        RunError: it is another than the explained one.
    """
    encoder = network.encoder
    if isinstance(encoder, GraphEncoder) and (
        encoder.classifier[0].fingerprint == passport.fingerprint
    ):
        return EncoderWithHead(encoder)
    if classifier is None:
        raise ConfigError(
            f"combined: the explainer looks through an encoder of its own; give --classifier "
            f"{passport.spec} to join its prediction, or --no-combined"
        )
    passport.check_classifier(classifier)
    if classifier.module is None:
        raise ConfigError(
            f"combined: {classifier.spec} does not show its layers, so it cannot be exported "
            "again; run it beside the explainer, with --no-combined"
        )
    return SeparatePredictor(classifier, network)


def find_explained_classifier(network: GatedNetwork, passport: ClassifierInfo) -> Classifier | None:
    """The explained classifier, where the explainer carries it as its encoder."""
    encoder = network.encoder
    if isinstance(encoder, GraphEncoder):
        own = encoder.classifier[0]
        return own if own.fingerprint == passport.fingerprint else None
    return None
