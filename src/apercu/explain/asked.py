"""What is asked about every image: which classes, and where masks are cut."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from apercu.classifiers import Classifier
from apercu.errors import ConfigError
from apercu.explainers.mask.explainer import MaskExplainer
from apercu.types import Images

TOP, ALL = "top", "all"


@dataclass(frozen=True)
class ExplainOptions:
    """What is asked about every image.

    Args:
        target: `top`, `all`, or a class by name, identifier or index.
        top: `all` means every class up to this many, else this many that are seen most.
        level: where the mask is cut for boxes and crops, in (0, 1).

    Raises:
        ConfigError: a number is out of range.
    """

    target: str = TOP
    top: int = 20
    level: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ConfigError(f"level: expected a number above 0 and below 1, got {self.level}")
        if self.top < 1:
            raise ConfigError(f"top: expected at least 1 class, got {self.top}")

    @property
    def is_multiple(self) -> bool:
        """Whether an image may have more than one answer."""
        return self.target == ALL


class TargetSelector:
    """Which classes are explained in an image.

    Args:
        explainer: it reads the image's classes itself where no classifier does.
        asked: what is asked.
        classifier: names the classes that it sees most.

    Raises:
        RunError: the explainer was trained for another classifier.
        TargetError: there is no such class.
    """

    def __init__(
        self, explainer: MaskExplainer, asked: ExplainOptions, classifier: Classifier | None
    ) -> None:
        passport = explainer.classifier_info
        if classifier is not None:
            passport.check_classifier(classifier)
        named = asked.target not in (TOP, ALL)
        self.fixed = passport.names.index_of(asked.target) if named else None
        self.count = min(asked.top, len(passport.classes)) if asked.is_multiple else 1
        self.explainer = explainer
        self.classifier = classifier

    @torch.inference_mode()
    def __call__(self, images: Images) -> Tensor:
        """Indices of the classes of one image, the one seen most first."""
        if self.fixed is not None:
            return torch.tensor([self.fixed])
        if self.classifier is not None:
            logits = self.classifier(images.to(self.classifier.device))
        else:
            logits = self.explainer.predict_logits(images)
        return logits[0].topk(self.count).indices.cpu()
