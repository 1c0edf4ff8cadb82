"""What an exported graph computes: images and targets → maps, and the prediction where wanted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, final

import torch
from jaxtyping import Int
from torch import Tensor, nn

from apercu.classifiers import Classifier
from apercu.classifiers.network import convert_to_logits_unchecked
from apercu.errors import ConfigError
from apercu.explainers.base import TrainedExplainer
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.explainers.counterfactual import runner_up
from apercu.explainers.counterpart.explainer import CounterpartExplainer
from apercu.explainers.counterpart.network import CounterpartNetwork
from apercu.explainers.counterpart.objective import CounterpartBatch, CounterpartObjective
from apercu.explainers.mask.explainer import MaskExplainer
from apercu.explainers.mask.network import MaskNetwork, enlarge
from apercu.networks.gate import GatedNetwork
from apercu.networks.graph_encoder import EncoderWithHead, GraphEncoder
from apercu.types import Images, Logits, Targets

TOP = -1
"""The target that stands for the class seen most."""


class ExportableExplainer(nn.Module, ABC):
    """Images in [0, 1] and one target per image → maps, all of it fit to be traced.

    Attributes:
        outputs: names of what it returns.
        network: the trained network.
    """

    outputs: tuple[str, ...]
    network: GatedNetwork

    def forward(self, images: Images, targets: Targets) -> tuple[Tensor, ...]:
        features = self.network.encode(images)
        return self.explain(
            images, features, self.network.gate.predict_logits(features[-1]), targets
        )

    @abstractmethod
    def explain(
        self, images: Images, features: list[Tensor], logits: Logits, targets: Targets
    ) -> tuple[Tensor, ...]:
        """The outputs.

        Args:
            images: in [0, 1].
            features: what the encoder makes of them.
            answers: how strongly each class is seen.
            targets: class indices; below 0 the class seen most.
        """


@final
class MaskGraph(ExportableExplainer):
    """`MaskExplainer.attribute`."""

    outputs = ("maps",)

    def __init__(self, network: MaskNetwork) -> None:
        super().__init__()
        self.network: MaskNetwork = network

    def explain(
        self, images: Images, features: list[Tensor], logits: Logits, targets: Targets
    ) -> tuple[Tensor, ...]:
        asked = torch.where(targets < 0, logits.argmax(1), targets)
        log_odds = self.network.decode(features, asked)
        return (enlarge(log_odds, images.shape[-2:]).sigmoid(),)


@final
class ClassesGraph(nn.Module):
    """`MaskExplainer.attribute_classes` of one image: encoded once, decoded for many targets."""

    outputs = ("maps",)

    def __init__(self, network: MaskNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Images, targets: Int[Tensor, " classes"]) -> tuple[Tensor, ...]:
        features = self.network.encode(images)
        top = self.network.gate.predict_logits(features[-1]).argmax(1)
        log_odds = self.network.decode_many(features, torch.where(targets < 0, top, targets))
        return (enlarge(log_odds, images.shape[-2:]).sigmoid(),)


@final
class CounterpartGraph(ExportableExplainer):
    """`CounterpartExplainer.attribute`, and the two images that its maps are the difference of."""

    outputs = ("maps", "stable", "adversarial")

    def __init__(self, network: CounterpartNetwork, objective: CounterpartObjective) -> None:
        super().__init__()
        self.network: CounterpartNetwork = network
        self.objective = objective

    def explain(
        self, images: Images, features: list[Tensor], logits: Logits, targets: Targets
    ) -> tuple[Tensor, ...]:
        seen = logits.argmax(1)
        wanted = torch.where((targets < 0) | (targets == seen), runner_up(logits, seen), targets)
        pair = self.network.generate(images, features, seen, wanted)
        stable = self.objective.select_stable(
            CounterpartBatch(images, seen, wanted), pair, self.network
        )
        return (pair.adversarial - stable).abs().mean(1), stable, pair.adversarial


@final
class CombinedGraph(nn.Module):
    """Prediction and maps in one graph; the class seen most is the classifier's own.

    Args:
        explaining: makes the maps.
        read: the classifier's logits, and the encoder's feature maps.
    """

    def __init__(self, explainer: ExportableExplainer, predictor: nn.Module) -> None:
        super().__init__()
        self.explainer = explainer
        self.predictor = predictor
        self.outputs = ("probabilities", *explainer.outputs)

    def forward(self, images: Images, targets: Targets) -> tuple[Tensor, ...]:
        logits, features = self.predictor(images)
        return logits.softmax(1), *self.explainer.explain(images, features, logits, targets)


def build_graph(explainer: TrainedExplainer) -> ExportableExplainer:  # type: ignore[type-arg]
    """The graph of a trained explainer.

    Raises:
        ConfigError: it is of a kind that searches for each image, so that there is no graph.
    """
    if explainer.kind == MaskExplainer.kind:
        return MaskGraph(explainer.network).eval()
    if explainer.kind == CounterpartExplainer.kind:
        return CounterpartGraph(explainer.network, explainer.settings.objective).eval()
    raise ConfigError(
        f"export: a {explainer.kind} explainer searches a path for each image, which "
        "is no graph; expected a mask or a counterpart explainer, train one of these"
    )


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
    network: GatedNetwork, classifier_info: ClassifierInfo, classifier: Classifier | None
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
        encoder.classifier[0].fingerprint == classifier_info.fingerprint
    ):
        return EncoderWithHead(encoder)
    if classifier is None:
        raise ConfigError(
            f"combined: the explainer looks through an encoder of its own; give --classifier "
            f"{classifier_info.spec} to join its prediction, or --no-combined"
        )
    classifier_info.check_classifier(classifier)
    if classifier.module is None:
        raise ConfigError(
            f"combined: {classifier.spec} does not show its layers, so it cannot be exported "
            "again; run it beside the explainer, with --no-combined"
        )
    return SeparatePredictor(classifier, network)


def find_explained_classifier(
    network: GatedNetwork, classifier_info: ClassifierInfo
) -> Classifier | None:
    """The explained classifier, where the explainer carries it as its encoder."""
    encoder = network.encoder
    if isinstance(encoder, GraphEncoder):
        own = encoder.classifier[0]
        return own if own.fingerprint == classifier_info.fingerprint else None
    return None
