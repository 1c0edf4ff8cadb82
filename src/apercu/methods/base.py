"""What every method is: a frozen value that is called with a classifier, images and targets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import (
    Any,
    ClassVar,
    Literal,
    Never,
    Protocol,
    TypeAlias,
    cast,
    final,
    runtime_checkable,
)
from uuid import uuid4

import torch
from numpy.typing import NDArray
from torch import Tensor

from apercu.classifiers import Classifier
from apercu.classifiers.names import Target, choose_targets
from apercu.devices import copy_inference, leave_inference_mode
from apercu.errors import ClassifierError, ConfigError, ImageError
from apercu.own_code import digest_code
from apercu.types import Images, Maps, Targets

MapScale: TypeAlias = Literal["map", "mask", "box"]
"""How the values of a map are read: `map` on a scale of its own (stretched to [0, 1] per image
before it is thresholded), `mask` in [0, 1] as it is, `box` exactly 0 or 1."""

Requirement: TypeAlias = Literal["gradients", "layers", "queries", "training", "truth"]
"""What an explanation needs: gradients of the classifier, access to its layers, many forward
passes, a training beforehand, or the truth itself."""

ImageBatch: TypeAlias = Tensor | NDArray[Any]
"""Images in [0, 1] at the classifier's size, `batch × channels × height × width`, float."""


_PROCESS = f"process {uuid4().hex}"
"""What stands for a source that cannot be known, so that no other process reuses its results."""


@runtime_checkable
class MapExplainer(Protocol):
    """What can be compared: a method, or a trained explainer as `TrainedMethod`."""

    @property
    def map_scale(self) -> MapScale: ...

    @property
    def needs(self) -> tuple[Requirement, ...]: ...

    @property
    def cache_key(self) -> str:
        """A text that is equal only for explainers that give the same maps."""

    @property
    def training_seconds(self) -> float: ...

    def __call__(self, classifier: Classifier, images: Images, targets: Targets) -> Maps: ...


class _BaseMethod(ABC):
    """What methods and wrappers share: images and targets are checked in one place."""

    @property
    def cache_key(self) -> str:
        """A text that is equal only for explainers that give the same maps.

        The settings and, of a class from outside the package, a digest of its source.
        """
        return self._identify() or f"{self!r} of {_PROCESS}, {id(self)}"

    @property
    def has_identity(self) -> bool:
        """Whether its settings and its source are known, so that old results can be reused."""
        return self._identify() is not None

    def _identify(self) -> str | None:
        """Return the settings and the source as a text; None where one cannot be known."""
        kind = type(self)
        if kind.__module__.startswith("apercu."):
            return repr(self)
        state = dict(getattr(self, "__dict__", {"": self}))
        if isinstance(self, Wrapper):
            state.pop("method", None)
        digest = digest_code(kind)
        if digest is None or not all(map(_is_plain, state.values())):
            return None
        settings = ", ".join(f"{name}={value!r}" for name, value in state.items())
        return f"{kind.__qualname__}({settings}) of {digest}"

    @final
    def __call__(self, classifier: Classifier, images: ImageBatch, targets: Target = None) -> Maps:
        """Return the evidence for each image's target.

        Args:
            classifier: the classifier that is explained.
            images: images in [0, 1] at the classifier's size, `batch × channels × height × width`.
            targets: one class for all images or one per image, as indices or names. None stands
                for the class that the classifier predicts.

        Returns:
            One map per image, `batch × height × width`, at the size of the images.

        Raises:
            ClassifierError: the classifier does not allow what the method needs.
            ConfigError: the first argument is no classifier.
            ImageError: the images are not in [0, 1], or have another shape.
            TargetError: there is no such class, or not one target per image.
        """
        _check_classifier(self, classifier)
        with leave_inference_mode():
            batch = _check_batch(classifier, images)
            indices = copy_inference(choose_targets(classifier, batch, targets))
            return self.compute_maps(classifier, batch, indices)

    @abstractmethod
    def compute_maps(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        """Return the evidence for each image's target; images and targets are checked already.

        Raises:
            ClassifierError: the classifier does not allow what the method needs.
        """

    @final
    def bind(self, classifier: Classifier) -> BoundMethod:
        """Return this method together with a classifier, with captum's `attribute`.

        Raises:
            ConfigError: the argument is no classifier.
        """
        _check_classifier(self, classifier)
        return BoundMethod(cast("MapExplainer", self), classifier)

    @final
    def attribute(self, *inputs: object, **settings: object) -> Never:
        """Refuse the call, because a method holds no classifier.

        Raises:
            ConfigError: always; its message names the calls that work.
        """
        raise ConfigError(f"{type(self).__name__} holds no classifier; {_describe_use(self)}")


class Method(_BaseMethod):
    """A method that queries the classifier. It needs no training and prints as its settings."""

    map_scale: ClassVar[MapScale] = "map"
    needs: ClassVar[tuple[Requirement, ...]]
    slow: ClassVar[bool] = False
    """Whether it takes more than a hundred forward passes per image, so that a comparison measures
    it only when it is named."""
    training_seconds: ClassVar[float] = 0.0


class Wrapper(_BaseMethod):
    """Changes the images that another explainer receives, or its maps."""

    method: MapExplainer

    @property
    def cache_key(self) -> str:
        """A text that is equal only for explainers that give the same maps."""
        own, inner = super().cache_key, self.method.cache_key
        return own if inner in own else f"{own} of {inner}"

    @property
    def has_identity(self) -> bool:
        """Whether the settings and the source of both explainers are known."""
        inner = self.method
        return super().has_identity and (
            inner.has_identity if isinstance(inner, _BaseMethod) else True
        )

    @property
    def map_scale(self) -> MapScale:
        """`map` or `mask`; a mean of boxes, or a blurred box, is a mask."""
        return "map" if self.method.map_scale == "map" else "mask"

    @property
    def needs(self) -> tuple[Requirement, ...]:
        """What the explainer inside needs."""
        return self.method.needs

    @property
    def training_seconds(self) -> float:
        """The training time of the explainer inside."""
        return self.method.training_seconds


@final
@dataclass(frozen=True)
class BoundMethod:
    """A method and the classifier that it explains, with captum's `attribute`.

    Attributes:
        method: the method.
        classifier: the classifier.

    Example:
        >>> from apercu.methods import GradCam
        >>> grad_cam = GradCam().bind(classifier)  # doctest: +SKIP
        >>> maps = grad_cam.attribute(images, target=281)  # doctest: +SKIP
    """

    method: MapExplainer
    classifier: Classifier

    def attribute(self, inputs: ImageBatch, target: Target = None) -> Maps:
        """Return one map per image, at the size of the images.

        Args:
            inputs: images in [0, 1] at the classifier's size, `batch × channels × height × width`.
            target: one class for all images or one per image, as indices or names. None stands
                for the class that the classifier predicts.

        Returns:
            One map per image, `batch × height × width`.

        Raises:
            ClassifierError: the classifier does not allow what the method needs.
            ImageError: the images are not in [0, 1], or have another shape.
            TargetError: there is no such class, or not one target per image.
        """
        images = _check_batch(self.classifier, inputs)
        targets = choose_targets(self.classifier, images, target)
        return self.method(self.classifier, images, targets)

    def __call__(self, inputs: ImageBatch, target: Target = None) -> Maps:
        """Return one map per image, as `attribute` does."""
        return self.attribute(inputs, target)


@final
@dataclass(frozen=True, repr=False)
class TrainedMethod:
    """A trained explainer among the methods; it needs no classifier.

    Attributes:
        attribute: a function of images and targets that gives maps.
        cache_key: a text with the fingerprint of the weights, so that old results can be reused.
        training_seconds: the time that the training took.
        map_scale: how the values of its maps are read.
    """

    attribute: Callable[[Images, Targets], Maps] = field(repr=False)
    cache_key: str
    training_seconds: float
    map_scale: MapScale = "mask"
    needs: ClassVar[tuple[Requirement, ...]] = ("training",)

    def __call__(self, classifier: Classifier, images: Images, targets: Target = None) -> Maps:
        """Return one map per image; the classifier only resolves names and predicted classes."""
        return self.attribute(images, choose_targets(classifier, images, targets))

    def __repr__(self) -> str:
        """Return the text that stored results hold as the cache key of a wrapped explainer."""
        return (
            f"Trained(identity={self.cache_key!r}, training_seconds={self.training_seconds!r}, "
            f"kind={self.map_scale!r})"
        )


def require_gradients(classifier: Classifier, method: str) -> None:
    """Refuse a classifier that gives no gradients.

    Raises:
        ClassifierError: the classifier gives no gradients.
    """
    if not classifier.differentiable:
        raise ClassifierError(
            f"{method} needs a classifier with gradients, and {classifier.spec} gives none"
            f"{classifier.gradient_reason}: "
            "choose a method that only queries, such as occlusion, or a trained explainer"
        )


def _is_plain(value: object) -> bool:
    """Whether a setting prints as all that it is."""
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str | Enum)


def _check_classifier(method: _BaseMethod, classifier: object) -> None:
    if not isinstance(classifier, Classifier):
        raise ConfigError(
            f"{type(method).__name__}: expected a Classifier first, got "
            f"{type(classifier).__name__}; {_describe_use(method)}"
        )


def _check_batch(classifier: Classifier, images: ImageBatch) -> Images:
    """Return the images as a tensor on the classifier's device.

    Their size and values are checked when the classifier receives them; the baselines that never
    call it take images of any size.
    """
    batch: object = images
    if not isinstance(images, Tensor):
        with suppress(TypeError, ValueError, RuntimeError):
            batch = torch.as_tensor(images)
            batch = batch.float() if batch.is_floating_point() else batch
    if not isinstance(batch, Tensor) or batch.ndim != 4 or not batch.is_floating_point():
        shape = " × ".join(map(str, getattr(batch, "shape", ())))
        raise ImageError(
            "images: expected float batch × channels × height × width, got "
            f"{str(getattr(batch, 'dtype', type(batch).__name__)).removeprefix('torch.')} {shape}"
            "; classifier.prepare() makes one image ready, and torch.stack a batch of them"
        )
    return copy_inference(batch.to(classifier.device))


def _describe_use(method: _BaseMethod) -> str:
    """Return the end of an error line that shows how a method is called."""
    name = type(method).__name__
    return (
        f"call {name}()(classifier, images, target) or {name}().bind(classifier), with a "
        "classifier from apercu.open_classifier"
    )
