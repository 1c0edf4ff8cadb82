"""What is asked about every image: which classes, and where masks are cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from apercu.classifiers import Classifier
from apercu.errors import ConfigError, TargetError
from apercu.explain.explanation import CounterpartExplanation, MaskExplanation
from apercu.explainers.counterfactual import CounterfactualExplainer
from apercu.explainers.mask.explainer import MaskExplainer
from apercu.images.formats.dicom import DicomReference
from apercu.types import Images, Logits, Picture

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
        self.fixed = passport.names.find_index(asked.target) if named else None
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


class MaskAnswers:
    """Masks of one or several classes.

    Args:
        explainer: a trained mask explainer.
        asked: what is asked.
        classifier: names the top classes where it is given; else the explainer does.

    Raises:
        RunError: the explainer was trained for another classifier.
        TargetError: there is no such class.
    """

    def __init__(
        self, explainer: MaskExplainer, asked: ExplainOptions, classifier: Classifier | None = None
    ) -> None:
        self.explainer = explainer
        self.asked = asked
        self.choice = TargetSelector(explainer, asked, classifier)
        self.several, self.count = asked.is_multiple, self.choice.count
        self.about = {"level": asked.level}

    def __call__(
        self, picture: Picture, source: DicomReference | None
    ) -> Iterator[MaskExplanation]:
        images = self.explainer.prepare(picture)[None]
        targets = self.choice(images)
        masks = self.explainer.attribute_classes(images, targets[None])[0].cpu()
        for target, mask in zip(targets.tolist(), masks, strict=True):
            title = self.explainer.classifier_info.classes[target]
            yield MaskExplanation(picture, target, title, mask, self.asked.level, source)


class CounterpartAnswers:
    """Counterparts for the runner-up, for a class by name, or for all classes but the one seen.

    Args:
        explainer: a trained explainer that changes images.
        asked: what is asked; `top` is the runner-up.
        classifier: says what it sees, and how sure it is of each picture of a strip; without it
            the explainer reads the class itself, and the strips have no probabilities.

    Raises:
        RunError: the explainer was trained for another classifier.
        TargetError: there is no such class.
        ConfigError: a level is asked for, which is a mask's.
    """

    def __init__(
        self,
        explainer: CounterfactualExplainer[Any, Any],
        asked: ExplainOptions,
        classifier: Classifier | None = None,
    ) -> None:
        passport = explainer.classifier_info
        if classifier is not None:
            passport.check_classifier(classifier)
        if asked.level != ExplainOptions.level:
            raise ConfigError("level: counterparts are not cut at a level; leave it out")
        self.explainer = explainer
        self.classifier = classifier
        named = not asked.is_multiple and asked.target != TOP
        self.fixed = passport.names.find_index(asked.target) if named else None
        self.several = asked.is_multiple
        self.count = min(asked.top, len(passport.classes) - 1) if asked.is_multiple else 1
        self.about: dict[str, float] = {}

    @torch.inference_mode()
    def __call__(
        self, picture: Picture, source: DicomReference | None
    ) -> Iterator[CounterpartExplanation]:
        images = self.explainer.prepare(picture)[None]
        answers = self._answers(images)
        seen, *others = answers[0].argsort(descending=True).tolist()
        wanted = others[: self.count] if self.fixed is None else [self.fixed]
        classes = self.explainer.classifier_info.classes
        if seen in wanted:
            raise TargetError(
                f"target: the image is seen as {classes[seen]} already; choose another class"
            )
        for target in wanted:
            strip = self.explainer.counterparts(images, target, logits=answers).strip[:, 0]
            shares = self._shares(strip, target)
            names = classes[seen], classes[target]
            yield CounterpartExplanation(images[0], names, target, strip.cpu(), shares, source)

    def _answers(self, images: Images) -> Logits:
        if self.classifier is None:
            return self.explainer.predict_logits(images).cpu()
        return self.classifier(images.to(self.classifier.device)).cpu()

    def _shares(self, strip: Images, target: int) -> tuple[float, ...]:
        if self.classifier is None:
            return ()
        answers = self.classifier(strip.to(self.classifier.device))
        return tuple(answers.softmax(1)[:, target].tolist())
