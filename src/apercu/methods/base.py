"""What every method is: a frozen value that asks a classifier for its evidence."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol, TypeAlias, final, runtime_checkable

from apercu.classifiers import Classifier
from apercu.errors import ClassifierError
from apercu.types import Images, Maps, Targets

MapScale: TypeAlias = Literal["map", "mask", "box"]
"""How the values of a map are read: `map` on a scale of its own (stretched to [0, 1] per image
before it is thresholded), `mask` in [0, 1] as it is, `box` exactly 0 or 1."""

Requirement: TypeAlias = Literal["gradients", "layers", "queries", "training", "truth"]
"""What an explanation takes: derivatives of the classifier, sight of its layers, many answers,
a training beforehand, or the truth itself."""


@runtime_checkable
class Explainer(Protocol):
    """What can be compared: every `Method`, and a trained explainer as `Trained`."""

    @property
    def map_scale(self) -> MapScale: ...

    @property
    def needs(self) -> tuple[Requirement, ...]: ...

    @property
    def cache_key(self) -> str:
        """Equal only for explainers that give the same maps."""

    @property
    def training_seconds(self) -> float: ...

    def __call__(self, classifier: Classifier, images: Images, targets: Targets) -> Maps: ...


class Method(ABC):
    """Explains by asking the classifier; needs no training; prints as its own settings."""

    map_scale: ClassVar[MapScale] = "map"
    needs: ClassVar[tuple[Requirement, ...]]
    training_seconds: ClassVar[float] = 0.0

    @property
    def cache_key(self) -> str:
        return repr(self)

    @abstractmethod
    def __call__(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        """Evidence for each image's target, at the size of the images.

        Raises:
            ClassifierError: the classifier does not allow what the method needs.
        """


class Wrapper(ABC):
    """Changes what another explainer is shown, or its maps; prints with the explainer inside."""

    method: Explainer

    @property
    def map_scale(self) -> MapScale:
        """A mean of boxes, or a blurred box, is a mask."""
        return "map" if self.method.map_scale == "map" else "mask"

    @property
    def needs(self) -> tuple[Requirement, ...]:
        return self.method.needs

    @property
    def cache_key(self) -> str:
        return repr(self)

    @property
    def training_seconds(self) -> float:
        return self.method.training_seconds

    @abstractmethod
    def __call__(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        """Evidence for each image's target, at the size of the images."""


@final
@dataclass(frozen=True)
class TrainedMethod:
    """A trained explainer among the methods: it needs no classifier any more.

    `identity` says which weights answer (a fingerprint), so that old results can be reused.
    """

    attribute: Callable[[Images, Targets], Maps] = field(repr=False)
    cache_key: str
    training_seconds: float
    map_scale: MapScale = "mask"
    needs: ClassVar[tuple[Requirement, ...]] = ("training",)

    def __call__(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        return self.attribute(images, targets)


def require_gradients(classifier: Classifier, method: str) -> None:
    """Raises `ClassifierError` for a classifier that can only be asked."""
    if not classifier.differentiable:
        raise ClassifierError(
            f"{method} needs a classifier with gradients; {classifier.spec} is asked only: "
            "choose a method that asks, such as occlusion, or a trained explainer"
        )
