"""Who says which classes an image shows: the classifier where there is one, else the explainer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from apercu.classifiers import Classifier
from apercu.deploy.export.graphs import TOP, find_explained_classifier
from apercu.deploy.export.manifest import digest_run
from apercu.deploy.inference.engine import ExplainedBatch, ExplainerInfo, InferenceEngine
from apercu.errors import ConfigError
from apercu.explainers.base import TrainedExplainer
from apercu.explainers.mask.explainer import MaskExplainer
from apercu.networks.gate import GatedNetwork
from apercu.networks.graph_encoder import EncoderWithHead, GraphEncoder
from apercu.types import Images, Logits, Targets


class Predictor:
    """Answers for images, and the features that they were read from where both come at once.

    Args:
        explainer: a trained explainer.
        classifier: the one it was trained for, where the caller gives it. Where the explainer
            carries that classifier as its encoder, one pass of it serves both.

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
            classifier = find_explained_classifier(self.network, explainer.classifier_info)
        self.classifier = classifier
        self.source = "explainer" if classifier is None else "classifier"
        self._encoder_with_head = (
            None if self.network is None else _build_encoder_with_head(self.network, classifier)
        )

    def __call__(self, images: Images) -> tuple[Logits, list[Tensor]]:
        """Answers, and the features of an explainer with an encoder (else none)."""
        images = images.to(self.explainer.device)
        if self._encoder_with_head is not None:
            answers, features = self._encoder_with_head(images)
            return answers, features
        features = [] if self.network is None else self.network.encode(images)
        if self.classifier is not None:
            answers = self.classifier(images.to(self.classifier.device)).to(images.device)
        elif self.network is not None:
            answers = self.network.gate.predict_logits(features[-1])
        else:
            answers = self.explainer.predict_logits(images)
        return answers, features

    def to(self, device: str) -> Predictor:
        """Moves everything that computes."""
        self.explainer.to(device)
        if self.classifier is not None:
            self.classifier.to(device)
        if self._encoder_with_head is not None:
            self._encoder_with_head.to(device)
        return self


def _build_encoder_with_head(
    network: GatedNetwork, classifier: Classifier | None
) -> nn.Module | None:
    """The encoder with its head on, where the encoder is the classifier itself."""
    encoder = network.encoder
    if classifier is None or not isinstance(encoder, GraphEncoder):
        return None
    if encoder.classifier[0].fingerprint != classifier.fingerprint:
        return None
    try:
        return EncoderWithHead(encoder)
    except ConfigError:
        return None


@final
@dataclass(frozen=True, eq=False)
class TorchEngine(InferenceEngine):
    """A trained explainer, which predicts itself where nobody hands its classifier in.

    Attributes:
        explainer: of masks.
        reading: says what is seen in its images.
    """

    explainer: MaskExplainer
    predictor: Predictor

    @classmethod
    def from_explainer(
        cls, explainer: MaskExplainer, classifier: Classifier | None = None
    ) -> TorchEngine:
        """That of an explainer, on its device.

        Args:
            explainer: a trained one.
            classifier: says what it sees, where the explainer does not carry it itself.

        Raises:
            RunError: the explainer was trained for another classifier.
        """
        passport = explainer.classifier_info
        reading = Predictor(explainer, classifier).to(str(explainer.device))
        about = ExplainerInfo(
            runtime="torch",
            run=digest_run(explainer),
            classifier=passport.spec,
            fingerprint=passport.fingerprint,
            read_by=reading.source,
        )
        return cls(about, passport.input, passport.names, explainer, reading)

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
        answers, features = self.predict_logits(images)
        seen = answers.argmax(1)
        targets = seen if target == TOP else torch.full_like(seen, target)
        maps = self.compute_masks(features, targets[:, None])[:, 0]
        probabilities = answers.softmax(1)
        return ExplainedBatch(maps.float().cpu(), targets.cpu(), probabilities.float().cpu())
