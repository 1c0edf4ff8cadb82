"""The engine of a trained explainer in PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from apercu.classifiers import Classifier
from apercu.classifiers.names import TOP_INDEX
from apercu.deploy.inference.engine import ExplainedBatch, ExplainerInfo, InferenceEngine
from apercu.explainers.base import MaskingExplainer
from apercu.explainers.encoder import Predictor
from apercu.explainers.run_folder import digest_run
from apercu.types import Images, Logits, Maps, Targets
from apercu.verdicts import GuardChoice, PassJudge, Trust


@final
@dataclass(frozen=True, eq=False)
class TorchEngine(InferenceEngine):
    """A trained explainer, which predicts by itself where its classifier is missing.

    Attributes:
        explainer: the explainer, which makes masks.
        predictor: predicts the classes of its images.
        guard: judges the predictions; None without.
    """

    explainer: MaskingExplainer[Any, Any]
    predictor: Predictor
    guard: PassJudge | None = None

    @classmethod
    def from_explainer(
        cls,
        explainer: MaskingExplainer[Any, Any],
        classifier: Classifier | None = None,
        guard: GuardChoice = None,
    ) -> TorchEngine:
        """Return the engine of an explainer, on its device.

        Args:
            explainer: a trained explainer that makes masks.
            classifier: predicts the classes, where the explainer does not hold it.
            guard: a guard or its folder, `none`, or None for the one that the classifier's card
                names. One that was fitted with this explainer judges the pass that is made anyway;
                one without an explainer costs a further pass of the classifier, unless the
                classifier itself is the encoder.

        Returns:
            The engine.

        Raises:
            RunError: the explainer was trained for another classifier, or the guard fitted for
                another one or with another explainer.
            ConfigError: a guard is named, and nobody knows the classifier.
        """
        classifier_info = explainer.classifier_info
        predictor = Predictor(explainer, classifier).to(str(explainer.device))
        from apercu.guard.use import choose_guard

        judge = choose_guard(guard, predictor.classifier, explainer)
        info = ExplainerInfo(
            runtime="torch",
            run=digest_run(explainer),
            classifier=classifier_info.spec,
            fingerprint=classifier_info.fingerprint,
            read_by=predictor.source,
            guard=None if judge is None else judge.digest,
            kind=explainer.kind,
        )
        return cls(
            info,
            classifier_info.input,
            classifier_info.names,
            classifier_info.output,
            explainer,
            predictor,
            judge,
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

    def judge(
        self, images: Images, logits: Logits, features: list[Tensor], masks: Maps | None = None
    ) -> list[Trust] | None:
        if self.guard is None:
            return None
        return self.guard.judge_pass(
            images.to(logits.device),
            logits,
            features,
            masks,
            shows_classifier=self.predictor.shows_classifier,
        )

    @torch.inference_mode()
    def __call__(self, images: Images, target: int = TOP_INDEX) -> ExplainedBatch:
        logits, features = self.predict_logits(images)
        predicted = logits.argmax(1)
        targets = predicted if target == TOP_INDEX else torch.full_like(predicted, target)
        maps = self.compute_masks(features, targets[:, None])[:, 0]
        probabilities = self.output.decision.probabilities(logits)
        masks = maps if bool((targets == predicted).all()) else None
        trust = self.judge(images, logits, features, masks)
        return ExplainedBatch(maps.float().cpu(), targets.cpu(), probabilities.float().cpu(), trust)
