"""A run folder's mask explainer, run by PyTorch."""

from __future__ import annotations

from typing import final

import torch

from apercu.batch.explaining import About, Answers, Explaining
from apercu.classifiers import Classifier
from apercu.explain.asked import TOP
from apercu.explainers.mask import MaskExplainer
from apercu.export.describing import digest_of_run
from apercu.serving.reading import Reading
from apercu.types import Images


@final
class TorchMasks(Explaining):
    """Masks of one class, or of the class that is seen most in each image.

    Args:
        explainer: a trained mask explainer.
        target: `top`, or a class by name, identifier or index.
        classifier: says what it sees, where the explainer does not carry it itself.

    Raises:
        RunError: the explainer was trained for another classifier.
        TargetError: there is no such class.
    """

    def __init__(
        self, explainer: MaskExplainer, target: str, classifier: Classifier | None = None
    ) -> None:
        passport = explainer.passport
        self.reading = Reading(explainer, classifier)
        self.explainer = explainer
        self.fixed = None if target == TOP else passport.names.index_of(target)
        about = About(
            runtime="torch",
            run=digest_of_run(explainer),
            classifier=passport.spec,
            fingerprint=passport.fingerprint,
            read_by=self.reading.by,
        )
        super().__init__(about, passport.input, passport.classes)

    @torch.inference_mode()
    def __call__(self, images: Images) -> Answers:
        answers, features = self.reading(images)
        targets = answers.argmax(1) if self.fixed is None else _all(self.fixed, answers)
        masks = self.explainer.decode_classes(features, targets[:, None])[:, 0]
        shares = answers.softmax(1).gather(1, targets[:, None])[:, 0]
        return Answers(masks.float().cpu(), targets.cpu(), shares.float().cpu())


def _all(target: int, answers: torch.Tensor) -> torch.Tensor:
    return torch.full((len(answers),), target, device=answers.device)
