"""What exported graphs compute: maps from images and targets, and the prediction in some."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, final

import torch
from jaxtyping import Int
from torch import Tensor, nn

from apercu.classifiers import Classifier
from apercu.classifiers.decisions import ONE_CLASS, Decision
from apercu.deploy.export.settings import ExportSettings
from apercu.errors import ConfigError, RunError
from apercu.explainers.base import TrainedExplainer
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.explainers.counterfactual import runner_up
from apercu.explainers.counterpart.explainer import CounterpartExplainer
from apercu.explainers.counterpart.network import CounterpartNetwork
from apercu.explainers.counterpart.objective import CounterpartBatch, CounterpartObjective
from apercu.explainers.mask.explainer import MaskExplainer
from apercu.explainers.mask.network import MaskNetwork, enlarge
from apercu.explainers.run_folder import digest_run
from apercu.explainers.shapley.explainer import ShapleyExplainer
from apercu.guard.guard import Guard
from apercu.guard.network import GuardNetwork
from apercu.guard.summaries import Observation
from apercu.networks.gate import GatedNetwork
from apercu.networks.graph_encoder import EncoderWithHead, GraphEncoder
from apercu.types import Images, Logits, Targets
from apercu.verdicts import LEAVE_OUT, NO_GUARD, TRUST, GuardChoice


class ExportableExplainer(nn.Module, ABC):
    """A module that can be traced: maps from images in [0, 1] and one target per image.

    Attributes:
        outputs: the names of its outputs.
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
        """Compute the outputs of the graph.

        Args:
            images: images in [0, 1].
            features: the feature maps of the encoder.
            logits: the logits of all classes.
            targets: class indices; an index below 0 stands for the class predicted most.

        Returns:
            One tensor for each of `outputs`.
        """


@final
class MaskGraph(ExportableExplainer):
    """The graph of `MaskExplainer.attribute`."""

    outputs = ("maps",)

    def __init__(self, network: MaskNetwork) -> None:
        super().__init__()
        self.network: MaskNetwork = network

    def explain(
        self, images: Images, features: list[Tensor], logits: Logits, targets: Targets
    ) -> tuple[Tensor, ...]:
        indices = torch.where(targets < 0, logits.argmax(1), targets)
        log_odds = self.network.decode(features, indices)
        return (enlarge(log_odds, images.shape[-2:]).sigmoid(),)


@final
class ClassesGraph(nn.Module):
    """The graph of `MaskExplainer.attribute_classes` for one image and many targets."""

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
    """The graph of `CounterpartExplainer.attribute`, with both images whose difference it is."""

    outputs = ("maps", "stable", "adversarial")

    def __init__(self, network: CounterpartNetwork, objective: CounterpartObjective) -> None:
        super().__init__()
        self.network: CounterpartNetwork = network
        self.objective = objective

    def explain(
        self, images: Images, features: list[Tensor], logits: Logits, targets: Targets
    ) -> tuple[Tensor, ...]:
        predicted = logits.argmax(1)
        unset = (targets < 0) | (targets == predicted)
        others = torch.where(unset, runner_up(logits, predicted), targets)
        pair = self.network.generate(images, features, predicted, others)
        batch = CounterpartBatch(images, predicted, others)
        stable = self.objective.select_stable(batch, pair, self.network)
        return (pair.adversarial - stable).abs().mean(1), stable, pair.adversarial


@final
class CombinedGraph(nn.Module):
    """Prediction and maps in one graph; the classifier itself predicts.

    Args:
        explainer: computes the maps.
        predictor: computes the classifier's logits and the encoder's feature maps.
        decision: how logits become probabilities.
        guard: judges the prediction, where there is a guard; its verdict is the last output.
    """

    def __init__(
        self,
        explainer: ExportableExplainer,
        predictor: nn.Module,
        decision: Decision = ONE_CLASS,
        guard: GuardNetwork | None = None,
    ) -> None:
        super().__init__()
        self.decision = decision
        self.explainer = explainer
        self.predictor = predictor
        self.guard = guard
        self.outputs = ("probabilities", *explainer.outputs)
        self.outputs += (TRUST,) if guard is not None else ()

    def forward(self, images: Images, targets: Targets) -> tuple[Tensor, ...]:
        logits, features = self.predictor(images)
        probabilities = self.decision.probabilities(logits)
        explained = self.explainer.explain(images, features, logits, targets)
        if self.guard is None:
            return probabilities, *explained
        return probabilities, *explained, self._judge(self.guard, images, logits, features)

    def _judge(
        self, guard: GuardNetwork, images: Images, logits: Logits, features: list[Tensor]
    ) -> Tensor:
        """Return the verdict of a guard, from the mask of the class that is predicted most."""
        if not isinstance(self.explainer, MaskGraph):
            return guard(Observation(images, logits, features))
        (masks,) = self.explainer.explain(images, features, logits, logits.argmax(1))
        explained = self.explainer.network.gate.predict_logits(features[-1])
        return guard(Observation(images, logits, features, masks, explained))


def check_filter(classifier: Classifier) -> None:
    """Raise ConfigError if a classifier has a filter in front that cannot be a part of a graph."""
    filter = classifier.filter
    if filter is not None and (reason := filter.graph_obstacle):
        raise ConfigError(
            f"export: the filter {classifier.network.filter} has no ONNX form: {reason}; explain "
            "with PyTorch, or give the classifier another filter"
        )


def build_graph(explainer: TrainedExplainer) -> ExportableExplainer:  # type: ignore[type-arg]
    """Return the graph of a trained explainer.

    Raises:
        ConfigError: the explainer searches for each image, so that there is no graph, or its
            encoder has a filter in front that has no ONNX form.
    """
    encoder = getattr(explainer.network, "encoder", None)
    if isinstance(encoder, GraphEncoder):
        check_filter(encoder.classifier[0])
    if explainer.kind == MaskExplainer.kind:
        return MaskGraph(explainer.network).eval()
    if explainer.kind == CounterpartExplainer.kind:
        return CounterpartGraph(explainer.network, explainer.settings.objective).eval()
    if explainer.kind == ShapleyExplainer.kind:
        raise ConfigError(
            "export: there is no graph of a shapley explainer; serve its run folder, or train a "
            "mask or a counterpart explainer"
        )
    raise ConfigError(
        f"export: a {explainer.kind} explainer searches a path for each image, which "
        "is no graph; expected a mask or a counterpart explainer, train one of these"
    )


def check_page_guard(
    guard: GuardChoice, classifier: Classifier | None, settings: ExportSettings
) -> None:
    """Check that no guard is asked of a page for browsers, which shows none, whichever it is.

    Args:
        guard: a guard, its folder, `none` for none, or None for that of the classifier's card.
        classifier: the explained classifier, where it is known.
        settings: what is written.

    Raises:
        ConfigError: a page is written, and the caller or the card names a guard.
    """
    named = classifier.guard_folder if guard is None and classifier is not None else guard
    if settings.web and named is not None and named != NO_GUARD:
        raise ConfigError(
            "guard: a page of format web shows no guard; serve it with `apercu serve`, or "
            f"{LEAVE_OUT}"
        )


def check_guard(
    guard: Guard,
    explainer: TrainedExplainer,  # type: ignore[type-arg]
    settings: ExportSettings,
) -> None:
    """Check that a guard can be a part of the combined graph.

    Raises:
        RunError: it was not fitted with this explainer.
        ConfigError: there is no combined graph, or one in another precision.
    """
    check_page_guard(guard, None, settings)
    if guard.record.run != digest_run(explainer):
        fitted = "without an explainer" if guard.record.run is None else "with another explainer"
        raise RunError(
            f"guard: was fitted {fitted}, and judges no pass of this one; fit one with "
            f"--explainer, or {LEAVE_OUT}"
        )
    if settings.combined is False:
        raise ConfigError(
            f"guard: only the combined graph predicts; choose otherwise, or {LEAVE_OUT}"
        )
    if settings.precision != "fp32":
        raise ConfigError(
            f"guard: its thresholds hold in fp32, not in {settings.precision}; choose otherwise, "
            f"or {LEAVE_OUT}"
        )


@final
class SeparatePredictor(nn.Module):
    """A classifier and another network's encoder; each makes a pass.

    Args:
        classifier: a classifier whose layers can be exported.
        network: the explainer's network.
    """

    def __init__(self, classifier: Classifier, network: GatedNetwork) -> None:
        super().__init__()
        self.classifier = [classifier]  # in a list, since it is no submodule
        self.module = classifier.module
        self.network = network

    def forward(self, images: Images) -> tuple[Logits, list[Tensor]]:
        """Return the logits and the feature maps of the encoder."""
        classifier = self.classifier[0]
        outputs: Any = classifier.network.forward(classifier.normalise(images))
        logits = classifier.network.read_logits_unchecked(outputs)
        return logits, self.network.encode(images)


def build_predictor(
    network: GatedNetwork, classifier_info: ClassifierInfo, classifier: Classifier | None
) -> nn.Module:
    """Return a module that computes the classifier's logits and the explainer's feature maps.

    Args:
        network: the explainer's network.
        classifier_info: the classifier that it explains.
        classifier: the same classifier, opened; None where it is the explainer's own encoder.

    Returns:
        A module that can be traced.

    Raises:
        ConfigError: the classifier is missing, a black box that cannot be exported, or has a filter
            without an ONNX form.
        RunError: the classifier is not the explained one.
    """
    encoder = network.encoder
    if isinstance(encoder, GraphEncoder) and (
        encoder.classifier[0].fingerprint == classifier_info.fingerprint
    ):
        if network.encoder_side is None:
            return EncoderWithHead(encoder, network.adapter)
        classifier = encoder.classifier[0]  # it sees the images at another size than the encoder
    if classifier is None:
        raise ConfigError(
            f"combined: the explainer has an encoder of its own; give --classifier "
            f"{classifier_info.spec} to join its prediction, or --no-combined"
        )
    classifier_info.check_classifier(classifier)
    if classifier.module is None:
        raise ConfigError(
            f"combined: {classifier.spec} does not show its layers, so it cannot be exported "
            "again; run it beside the explainer, with --no-combined"
        )
    check_filter(classifier)
    return SeparatePredictor(classifier, network)
