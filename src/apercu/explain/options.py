"""What an explanation shows: the classes of an image, and where masks are cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from apercu.classifiers import Classifier
from apercu.errors import ConfigError
from apercu.explainers.base import TrainedExplainer
from apercu.log import warn
from apercu.types import Images, Logits

TOP, ALL, PREDICTED = "top", "all", "predicted"


@dataclass(frozen=True)
class ExplainOptions:
    """What is explained in every image.

    Attributes:
        target: `top`, `all`, `predicted` (all predicted classes, of which there may be several
            where each class is decided by itself), or a class by name, identifier or index. With
            counterparts it is the class to change into, and `top` is the runner-up.
        top: the largest number of classes that `all` and `predicted` show, the ones predicted most
            first.
        level: where masks are cut for boxes and crops, in (0, 1).

    Raises:
        ConfigError: a number is out of range.
    """

    target: str | int = TOP
    top: int = 20
    level: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ConfigError(f"level: expected a number above 0 and below 1, got {self.level}")
        if self.top < 1:
            raise ConfigError(f"top: expected at least 1 class, got {self.top}")

    @property
    def is_multiple(self) -> bool:
        """Whether an image may have more than one explanation."""
        return self.target in (ALL, PREDICTED)


class TargetSelector:
    """Selects the classes that are explained in an image.

    Args:
        explainer: a trained explainer; it predicts the classes itself where no classifier does.
        options: what is explained.
        classifier: predicts the classes where it is given.

    Raises:
        RunError: the explainer was trained for another classifier.
        TargetError: there is no such class.
        ConfigError: a level is given for an explainer that makes no masks.
    """

    def __init__(
        self,
        explainer: TrainedExplainer[Any, Any],
        options: ExplainOptions,
        classifier: Classifier | None = None,
    ) -> None:
        info = explainer.classifier_info
        if classifier is not None:
            info.check_classifier(classifier)
        if not explainer.makes_masks and options.level != ExplainOptions.level:
            raise ConfigError("level: counterparts are not cut at a level; leave it out")
        if not explainer.makes_masks and options.target == PREDICTED:
            raise ConfigError(
                "target: counterparts change into a class that is not predicted; give top, all or "
                "a class"
            )
        self.explainer = explainer
        self.classifier = classifier
        self.output, self.decision = info.output, info.decision
        self.only_predicted = options.target == PREDICTED
        is_named = options.target not in (TOP, ALL, PREDICTED)
        self.index = info.names.find_index(options.target) if is_named else None
        if not is_named and (same := info.names.find_by_name(str(options.target))):
            warn(
                f"target: {options.target} does not mean the class of this name; give its index, "
                f"{same[0]}"
            )
        available = len(info.classes) if explainer.makes_masks else len(info.classes) - 1
        self.count = min(options.top, available) if options.is_multiple else 1

    @torch.inference_mode()
    def predict_logits(self, images: Images) -> Logits:
        """Return the classifier's logits, or else the explainer's own estimate, on the CPU."""
        if self.classifier is None:
            return self.explainer.estimate_logits(images).cpu()
        return self.classifier(images.to(self.classifier.device)).cpu()

    def find_probability(self, logits: Logits, target: int) -> float | None:
        """Return the classifier's probability of a class of one image, from its logits.

        It is None where no classifier is given: the explainer's estimate has no probabilities.
        """
        if self.classifier is None:
            return None
        return float(self.decision.probabilities(logits)[0, target])

    def find_value(self, logits: Logits) -> float | None:
        """Return the value of a regression for one image; None without one, or no classifier."""
        values = self.output.find_values(logits)
        return None if self.classifier is None or values is None else float(values[0])

    def find_predicted(self, logits: Logits) -> tuple[int, ...] | None:
        """Return all predicted classes of one image; None where exactly one is predicted always."""
        if not self.decision.is_multiple:
            return None
        order = logits[0].argsort(descending=True)
        predicted = self.decision.find_predicted(logits)[0]
        return tuple(int(index) for index in order if predicted[index])

    def predict_probabilities(self, images: Images, target: int) -> tuple[float, ...]:
        """Return the probability of a class in each image; empty where no classifier is given."""
        if self.classifier is None:
            return ()
        with torch.inference_mode():
            logits = self.classifier(images.to(self.classifier.device))
        return tuple(self.decision.probabilities(logits)[:, target].tolist())

    def select_most_predicted(self, logits: Logits) -> list[int]:
        """Return the classes of one image, `1 × classes`, the one predicted most first."""
        if self.index is not None:
            return [self.index]
        ordered = [int(index) for index in logits[0].topk(self.count).indices]
        if not self.only_predicted:
            return ordered
        predicted = self.decision.find_predicted(logits)[0]
        return [index for index in ordered if predicted[index]] or ordered[:1]

    def select_others(self, logits: Logits) -> list[int]:
        """Return the classes of one image without the predicted one, in the same order."""
        if self.index is not None:
            return [self.index]
        return [int(index) for index in logits[0].argsort(descending=True)[1 : self.count + 1]]
