"""What an explanation shows: the classes, where masks are cut, and which get a second look."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any, Literal, TypeAlias, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from apercu.classifiers import Classifier
from apercu.classifiers.names import ClassNames, ClassWord
from apercu.errors import ConfigError
from apercu.explain.explanation import CLASSIFIER, EXPLAINER, NamedClass
from apercu.explainers.base import TrainedExplainer
from apercu.explainers.encoder import Predictor
from apercu.explainers.mask.objectives.crop_search import (
    LIMIT_FACT,
    QUERIES,
    search_crops,
)
from apercu.log import warn
from apercu.types import Images, Logits, Maps, Targets
from apercu.verdicts import GuardChoice, PassJudge, Trust

TOP, ALL, PREDICTED = "top", "all", "predicted"
"""Words that may stand in the place of a class."""
SecondLookChoice: TypeAlias = Literal["doubtful", "all"]
"""Which masks get a second look: the doubtful ones, whose crop has a worse score than nine of ten
in the training, or all."""
MASKS_AT_ONCE = 20
"""Masks that get their second look together, so that many classes of an image fit in memory."""


@dataclass(frozen=True)
class ExplainOptions:
    """What is explained in every image.

    Attributes:
        target: `top`, `all`, `predicted` (all predicted classes, of which there may be several
            where each class is decided by itself), or a class by name, identifier or index. With
            counterparts it is the class to change into, and `top` is the runner-up. None, where
            nobody chose, is `top`.
        top: the largest number of classes that `all` and `predicted` show, the ones predicted most
            first.
        level: where masks are cut for boxes and crops, in (0, 1).
        second_look: `doubtful` or `all`: for these masks the classifier is asked about 20 crops,
            and the best one becomes the region at high levels; None for no mask.

    Raises:
        ConfigError: a number is out of range.
    """

    target: ClassWord | None = None
    top: int = 20
    level: float = 0.5
    second_look: SecondLookChoice | None = None

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ConfigError(f"level: expected a number above 0 and below 1, got {self.level}")
        if self.top < 1:
            raise ConfigError(f"top: expected at least 1 class, got {self.top}")

    @property
    def keyword(self) -> str | None:
        """The word that stands in the place of a class; None where a class is named, or nothing."""
        word = self.target
        return word if isinstance(word, str) and word in (TOP, ALL, PREDICTED) else None

    @property
    def is_multiple(self) -> bool:
        """Whether an image may have more than one explanation."""
        return self.keyword in (ALL, PREDICTED)


class TargetSelector:
    """Selects the classes that are explained in an image.

    Args:
        explainer: a trained explainer; it predicts the classes itself where no classifier does.
        options: what is explained.
        classifier: predicts the classes where it is given.
        guard: a guard or its folder, which judges the predictions; `none` for none, None for the
            one that the card of the classifier names.

    Raises:
        RunError: the explainer was trained for another classifier, or the guard does not belong to
            it.
        TargetError: there is no such class.
        ConfigError: a guard or a second look is asked for and nobody knows the classifier, or a
            level or a second look for an explainer that makes no masks.
    """

    def __init__(
        self,
        explainer: TrainedExplainer[Any, Any],
        options: ExplainOptions,
        classifier: Classifier | None = None,
        guard: GuardChoice = None,
    ) -> None:
        info = explainer.classifier_info
        self.is_given = classifier is not None
        if classifier is not None:
            info.check_classifier(classifier)
        else:
            classifier = explainer.own_classifier
        if not explainer.makes_masks:
            _check_counterpart_options(options)
        self.only_predicted = options.keyword == PREDICTED
        self.explainer = explainer
        self.classifier = classifier
        self.predictor = Predictor(explainer, classifier) if explainer.makes_masks else None
        self.guard = _choose_guard(guard, classifier, explainer)
        self.second_looks = (
            None
            if options.second_look is None
            else SecondLooks(explainer, classifier, options.second_look)
        )
        self.output, self.decision = info.output, info.decision
        self.index = _find_class(options, info.names)
        available = len(info.classes) if explainer.makes_masks else len(info.classes) - 1
        self.count = min(options.top, available) if options.is_multiple else 1

    @torch.inference_mode()
    def predict_logits(self, images: Images) -> Logits:
        """Return the classifier's logits, or else the explainer's own estimate, on the CPU."""
        if self.classifier is None:
            return self.explainer.estimate_logits(images).cpu()
        return self.classifier(images.to(self.classifier.device)).cpu()

    @torch.inference_mode()
    def predict_with_features(self, images: Images) -> tuple[Logits, list[Tensor]]:
        """Return the logits of images on the CPU, and the features from which masks are made.

        Where the classifier's own layers are the encoder, one pass gives both.
        """
        if self.predictor is None:
            return self.predict_logits(images), []
        logits, features = self.predictor(images)
        return logits.cpu(), features

    read = predict_with_features
    """The former name of `predict_with_features`."""

    @torch.inference_mode()
    def judge(
        self,
        images: Images,
        logits: Logits,
        features: list[Tensor] | None = None,
        masks: Maps | None = None,
    ) -> Trust | None:
        """Say whether the prediction of one image may be believed; None without a guard.

        Args:
            images: the image, `1 × channels × height × width`.
            logits: its logits.
            features: what `predict_with_features` returned besides; None where that was not
                called.
            masks: the mask of the class predicted most, where it is there already.

        Returns:
            The answer of the guard.
        """
        if self.guard is None:
            return None
        device = self.explainer.device
        images, logits = images.to(device), logits.to(device)
        predictor = self.predictor or Predictor(self.explainer, self.classifier)
        if features is None:
            logits, features = predictor(images)
        return self.guard.judge_pass(
            images, logits, features, masks, shows_classifier=predictor.shows_classifier
        )[0]

    def name_class(self, index: int) -> NamedClass:
        """Return a class with its name."""
        return NamedClass.of(self.explainer.classifier_info.names, index)

    def describe_prediction(self, logits: Logits, target: int) -> dict[str, Any]:
        """Return what is predicted for one image, as fields of an `Explanation`.

        Args:
            logits: the logits of the image, `1 × classes`.
            target: the class that is explained.

        Returns:
            The names and values of the fields.
        """
        order = logits[0].argsort(descending=True, stable=True).tolist()
        probabilities = self.decision.probabilities(logits)[0]
        predicted, values = self.find_predicted(logits), self.output.find_values(logits)
        has_classifier = self.classifier is not None
        return {
            "predicted": self.name_class(order[0]),
            "runner_up": self.name_class(order[1]) if len(order) > 1 else None,
            "probability": float(probabilities[target]) if has_classifier else None,
            "class_probabilities": probabilities,
            "read_by": CLASSIFIER if has_classifier else EXPLAINER,
            "predicted_classes": None
            if predicted is None
            else tuple(map(self.name_class, predicted)),
            "value": float(values[0]) if has_classifier and values is not None else None,
        }

    def find_predicted(self, logits: Logits) -> tuple[int, ...] | None:
        """Return all predicted classes of one image; None where exactly one is predicted always."""
        if not self.decision.is_multiple:
            return None
        order = logits[0].argsort(descending=True, stable=True)
        predicted = self.decision.find_predicted(logits)[0]
        return tuple(int(index) for index in order if predicted[index])

    def predict_strip(
        self, strip: Images, target: int
    ) -> tuple[tuple[float, ...], tuple[NamedClass, ...]]:
        """Return the probability of a class and the predicted class of each image of a strip.

        The probabilities are empty where no classifier is given. The predicted classes are those of
        a classifier that the explainer holds, too, and empty where there is none: nobody else can
        check an image that was made.
        """
        if self.classifier is None:
            return (), ()
        logits = self.predict_logits(strip)
        probabilities = self.decision.probabilities(logits)[:, target].tolist()
        classes = tuple(self.name_class(index) for index in logits.argmax(1).tolist())
        return tuple(probabilities) if self.is_given else (), classes

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
        order = logits[0].argsort(descending=True, stable=True)
        return [int(index) for index in order[1 : self.count + 1]]


@dataclass(frozen=True)
class SecondLookResult:
    """What a second look at one mask found.

    Attributes:
        first_score: log max(area, 0.05) − log p(class) of the crop around the mask at level 0.6.
        score: that of the crop that the search found; `first_score` where the mask kept its own.
        looked: whether there was a search, or the mask was good enough.
        queries: images about which the classifier was asked.
        found: whether the mask has a crop from the search now: a better one, or its own where no
            other was better. Without, all crops were worse, or there was no search.
    """

    first_score: float
    score: float
    looked: bool
    queries: int
    found: bool

    def describe(self) -> dict[str, Any]:
        """Return what `explain.json` says about the second look."""
        return {
            "first_score": round(self.first_score, 6),
            "score": round(self.score, 6),
            "looked": self.looked,
            "queries": self.queries,
        }


class SecondLooks:
    """Looks a second time at masks.

    Args:
        explainer: the explainer of the masks.
        classifier: the explained classifier, which is asked about crops; None where nobody has it.
        choice: which masks get a second look.

    Raises:
        ConfigError: the choice is unknown, the explainer makes no masks, nobody knows the
            classifier, or the run does not say which masks are doubtful.
    """

    def __init__(
        self,
        explainer: TrainedExplainer[Any, Any],
        classifier: Classifier | None,
        choice: str,
    ) -> None:
        if choice not in get_args(SecondLookChoice):
            raise ConfigError(f"second_look: expected doubtful or all, got {choice!r}")
        if not explainer.makes_masks:
            raise ConfigError("second_look: only masks have one; leave it out for counterparts")
        if classifier is None:
            raise ConfigError(
                "second_look: it asks the classifier, which the explainer does not hold; give "
                "--classifier SPEC, in Python classifier=…"
            )
        if choice == "doubtful" and LIMIT_FACT not in explainer.facts:
            raise ConfigError(
                "second_look: the explainer does not say which of its masks are doubtful, as it "
                "is no mask explainer or was trained by an earlier version; take all"
            )
        self.classifier = classifier
        self.limit = explainer.facts[LIMIT_FACT] if choice == "doubtful" else -inf

    def look(
        self, images: Images, targets: Targets, masks: Maps
    ) -> tuple[Float[Tensor, "batch height width"], list[SecondLookResult]]:
        """Return the masks after their second look, and what it found.

        Args:
            images: images in [0, 1], one per mask.
            targets: the class of each mask.
            masks: masks in [0, 1], `batch × height × width`.

        Returns:
            The masks, of which those without a search stay as they are, and one result for each.
        """
        device = self.classifier.device
        parts = [torch.split(each, MASKS_AT_ONCE) for each in (images, targets, masks)]
        after, results = [], []
        for part in zip(*parts, strict=True):
            found = search_crops(
                self.classifier, *(each.to(device) for each in part), above=self.limit
            )
            after.append(found.masks.to(masks.device))
            has_crop = found.boxes.any(1)
            rows = torch.stack([found.first_scores, found.scores, found.looked, has_crop], 1)
            results += [
                SecondLookResult(first, score, bool(looked), 1 + QUERIES * int(looked), bool(crop))
                for first, score, looked, crop in rows.tolist()
            ]
        return torch.cat(after), results


def _check_counterpart_options(options: ExplainOptions) -> None:
    """Raise ConfigError for options that only masks have."""
    if options.level != ExplainOptions.level:
        raise ConfigError(
            "level: only masks have a level, and this explainer makes counterparts; leave it out"
        )
    if options.keyword == PREDICTED:
        raise ConfigError(
            "target: expected a class that is not predicted, as a counterpart changes the "
            "image into it; give top, all or a class"
        )


def _find_class(options: ExplainOptions, names: ClassNames) -> int | None:
    """Return the index of the class that is named; None where it depends on the image.

    A warning says where a keyword is also the name of a class.
    """
    if options.keyword is None:
        index = None if options.target is None else names.find_index(options.target)
        word = str(options.target).strip()
        if isinstance(options.target, str) and word.isdecimal() and int(word) != index:
            warn(
                f"target: {word} is the name of class {index}; names have priority over indices, "
                "in Python a whole number is an index"
            )
        return index
    if same := names.find_by_name(options.keyword):
        warn(
            f"target: {options.keyword} has a meaning of its own here, and there is also a "
            f"class of this name; for the class give its index, {same[0]}"
        )
    return None


def _choose_guard(
    guard: GuardChoice,
    classifier: Classifier | None,
    explainer: TrainedExplainer[Any, Any],
) -> PassJudge | None:
    """Return the guard that was named, or else that of the classifier's card."""
    if guard is None and (classifier is None or classifier.guard_folder is None):
        return None
    from apercu.guard.use import choose_guard

    return choose_guard(guard, classifier, explainer)
