"""The engine of a trained explainer in PyTorch, and what predicts the classes for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from apercu.classifiers import Classifier
from apercu.classifiers.names import TOP
from apercu.deploy.export.manifest import digest_run
from apercu.deploy.inference.engine import ExplainedBatch, ExplainerInfo, InferenceEngine
from apercu.errors import ConfigError
from apercu.explainers.base import TrainedExplainer
from apercu.explainers.mask.explainer import MaskExplainer
from apercu.networks.gate import GatedNetwork
from apercu.networks.graph_encoder import EncoderWithHead, GraphEncoder
from apercu.types import Images, Logits, Targets


class Predictor:
    """Predicts the logits of images: the classifier where there is one, else the explainer.

    Args:
        explainer: a trained explainer.
        classifier: the classifier that it was trained for, if the caller has it. If it is the
            encoder of the explainer, one pass serves both.

    Raises:
        RunError: the explainer was trained for another classifier.
    """

    def __init__(
        self, explainer: TrainedExplainer[Any, Any], classifier: Classifier | None = None
    ) -> None:
        if classifier is not None:
            explainer.classifier_info.check_classifier(classifier)
        self.explainer = explainer
        network = explainer.network
        self.network = network if isinstance(network, GatedNetwork) else None
        if classifier is None and self.network is not None:
            classifier = explainer.own_classifier
        self.classifier = classifier
        self.source = "explainer" if classifier is None else "classifier"
        self._encoder_with_head = (
            None if self.network is None else _build_encoder_with_head(self.network, classifier)
        )

    def __call__(self, images: Images) -> tuple[Logits, list[Tensor]]:
        """Return the logits, and the features of an explainer with an encoder (else none)."""
        images = images.to(self.explainer.device)
        if self._encoder_with_head is not None:
            logits, features = self._encoder_with_head(images)
            return logits, features
        features = [] if self.network is None else self.network.encode(images)
        if self.classifier is not None:
            logits = self.classifier(images.to(self.classifier.device)).to(images.device)
        elif self.network is not None:
            gate = self.network.gate
            logits = gate.restore_units(gate.predict_logits(features[-1]))
        else:
            logits = self.explainer.estimate_logits(images)
        return logits, features

    def to(self, device: str) -> Predictor:
        """Move all networks to a device."""
        self.explainer.to(device)
        if self.classifier is not None:
            self.classifier.to(device)
        if self._encoder_with_head is not None:
            self._encoder_with_head.to(device)
        return self


def _build_encoder_with_head(
    network: GatedNetwork, classifier: Classifier | None
) -> nn.Module | None:
    """Return the encoder with its head, if the encoder is the classifier itself."""
    encoder = network.encoder
    if classifier is None or not isinstance(encoder, GraphEncoder):
        return None
    if encoder.classifier[0].fingerprint != classifier.fingerprint:
        return None
    try:
        return EncoderWithHead(encoder, network.adapter)
    except ConfigError:
        return None


@final
@dataclass(frozen=True, eq=False)
class TorchEngine(InferenceEngine):
    """A trained explainer, which predicts by itself where its classifier is missing.

    Attributes:
        explainer: the mask explainer.
        predictor: predicts the classes of its images.
    """

    explainer: MaskExplainer
    predictor: Predictor

    @classmethod
    def from_explainer(
        cls, explainer: MaskExplainer, classifier: Classifier | None = None
    ) -> TorchEngine:
        """Return the engine of an explainer, on its device.

        Args:
            explainer: a trained mask explainer.
            classifier: predicts the classes, where the explainer does not hold it.

        Returns:
            The engine.

        Raises:
            RunError: the explainer was trained for another classifier.
        """
        classifier_info = explainer.classifier_info
        predictor = Predictor(explainer, classifier).to(str(explainer.device))
        info = ExplainerInfo(
            runtime="torch",
            run=digest_run(explainer),
            classifier=classifier_info.spec,
            fingerprint=classifier_info.fingerprint,
            read_by=predictor.source,
        )
        return cls(
            info,
            classifier_info.input,
            classifier_info.names,
            classifier_info.output,
            explainer,
            predictor,
        )

    @torch.inference_mode()
    def predict_logits(
        self, images: Images, targets: Targets | None = None
    ) -> tuple[Logits, list[Tensor]]:
        return self.predictor(images)

    def compute_masks(
        self, features: list[Tensor], targets: Int[Tensor, "batch classes"]
    ) -> Float[Tensor, "batch classes height width"]:
        return self.explainer.decode_classes(features, targets)

    @torch.inference_mode()
    def __call__(self, images: Images, target: int = TOP) -> ExplainedBatch:
        logits, features = self.predict_logits(images)
        predicted = logits.argmax(1)
        targets = predicted if target == TOP else torch.full_like(predicted, target)
        maps = self.compute_masks(features, targets[:, None])[:, 0]
        probabilities = self.output.decision.probabilities(logits)
        return ExplainedBatch(maps.float().cpu(), targets.cpu(), probabilities.float().cpu())
