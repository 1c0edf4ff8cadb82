"""A run's mask explainer, run by PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from apercu.classifiers import Classifier
from apercu.deploy.export.graphs import TOP
from apercu.deploy.export.manifest import digest_run
from apercu.deploy.inference.engine import ExplainedBatch, ExplainerInfo, InferenceEngine
from apercu.deploy.inference.predictor import Predictor
from apercu.explainers.mask.explainer import MaskExplainer
from apercu.types import Images, Logits, Targets


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
