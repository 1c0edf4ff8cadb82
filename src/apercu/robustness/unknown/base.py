"""What recognises images of unknown kinds: methods that are fitted to known images, and scorers.

A method is a frozen value that prints as its own settings. `fit` takes a classifier with clean
images, and returns a scorer: a higher score is more unknown. A scorer is kept as tensors and
settings (`UnknownScorer.state`), and `UnknownMethod.restore` makes it again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from apercu.classifiers import Classifier
from apercu.classifiers.preprocessing import check_images
from apercu.errors import ClassifierError, ImagesError, NoFeatureMapsError
from apercu.networks.feature_maps import FeatureMaps
from apercu.networks.graph_encoder import open_feature_maps
from apercu.progress import ProgressCallback, ignore_progress
from apercu.types import Images, Maps, Scores, Targets

BATCH = 64
"""Images that are scored at a time."""
FEWEST_IMAGES = 20
"""Smallest number of known images that a method is fitted to."""


@dataclass(frozen=True, eq=False)
class KnownImages:
    """Known images of a classifier, to which a method is fitted.

    Args:
        classifier: classifier whose answers are to be believed or not.
        images: known images at its size, `images × channels × height × width`.
        labels: true class of each image; None where the classes are not known.

    Raises:
        ImagesError: there are too few images, or the labels are no classes of the classifier.
        ClassifierError: the images have another size than the classifier takes.
        ImageError: pixels are outside [0, 1] or not numbers.
    """

    classifier: Classifier
    images: Images
    labels: Targets | None = None

    def __post_init__(self) -> None:
        self.classifier.require_classes()
        if len(self.images) < FEWEST_IMAGES:
            raise ImagesError(
                f"images: expected at least {FEWEST_IMAGES} known images to learn what is known, "
                f"got {len(self.images)}"
            )
        check_images(self.images, self.classifier.network.input)
        if self.labels is None:
            return
        count = len(self.classifier.classes)
        if len(self.labels) != len(self.images):
            raise ImagesError(
                f"labels: expected one for each of {len(self.images)} images, got "
                f"{len(self.labels)}"
            )
        if int(self.labels.min()) < 0 or int(self.labels.max()) >= count:
            raise ImagesError(
                f"labels: expected classes from 0 to {count - 1}, got {int(self.labels.min())} to "
                f"{int(self.labels.max())}"
            )

    def require_labels(self, name: str, least: int = 2) -> Targets:
        """Return the labels for a method that learns from them.

        Args:
            name: name of the method, for the error.
            least: smallest number of classes that must have images.

        Returns:
            The class of each image.

        Raises:
            ImagesError: there are no labels, or images of too few classes.
        """
        if self.labels is None:
            raise ImagesError(
                f"{name}: learns from labels; give images in a folder per class, or choose a "
                "method that needs none, such as mahalanobis"
            )
        classes = int(torch.bincount(self.labels).count_nonzero())
        if classes < least:
            raise ImagesError(
                f"{name}: expected known images of at least {least} classes, got {classes}"
            )
        return self.labels

    def read_batches(self, size: int = BATCH) -> Iterator[Images]:
        """Yield the images on the classifier's device, `size` at a time."""
        for images in split_batches(self.images, size):
            yield images.to(self.classifier.device)


class ScorerState(NamedTuple):
    """All that a fitted scorer is, without code: it is kept as JSON and safetensors.

    Attributes:
        method: name of the method, as people type it.
        settings: settings of the method.
        tensors: what was fitted, by name.
    """

    method: str
    settings: dict[str, Any]
    tensors: dict[str, Tensor]


class UnknownScorer(ABC):
    """A fitted method: scores how unknown an image is to a classifier.

    Attributes:
        method: the method with its settings.
        classifier: the classifier that the images are for.
    """

    method: UnknownMethod
    classifier: Classifier

    @abstractmethod
    def compute_scores(self, images: Images) -> Scores:
        """Score one batch on the classifier's device; higher is more unknown."""

    @abstractmethod
    def pack_tensors(self) -> dict[str, Tensor]:
        """Return what was fitted, by name; `UnknownMethod.restore` takes the same."""

    def compute_probabilities(self, images: Images) -> Float[Tensor, "batch classes"]:
        """Return the probabilities of the classes of one batch; some methods change them."""
        return self.classifier.predict_probabilities(images)

    def score(self, images: Images) -> Scores:
        """Score any number of images.

        Args:
            images: images at the classifier's size, in [0, 1].

        Returns:
            One number per image on the CPU; a higher one is more unknown.

        Raises:
            ClassifierError: a score is no number, as of a network whose features overflow; or the
                images have another size than the classifier takes.
            ImageError: pixels are outside [0, 1] or not numbers.
        """
        return self.run_batches(self.compute_scores, images)

    def predict_probabilities(self, images: Images) -> Float[Tensor, "batch classes"]:
        """Return the probabilities of the classes for any number of images, on the CPU."""
        return self.run_batches(self.compute_probabilities, images)

    def run_batches(self, compute: Callable[[Images], Tensor], images: Images) -> Tensor:
        """Compute something of any number of images without gradients, batch by batch.

        Args:
            compute: a function of one batch on the classifier's device.
            images: images at the classifier's size, in [0, 1].

        Returns:
            What it returned for all images, on the CPU, and finite.

        Raises:
            ClassifierError: a number is not finite, or the images have another size.
            ImageError: pixels are outside [0, 1] or not numbers.
        """
        check_images(images, self.classifier.network.input)
        with torch.no_grad():
            parts = [
                compute(batch.to(self.classifier.device)).float().cpu()
                for batch in split_batches(images, BATCH)
            ]
        return check_finite(torch.cat(parts), self.method.name, self.classifier)

    def state(self) -> ScorerState:
        """Return all that the scorer is, without code."""
        tensors = {
            name: tensor.detach().cpu().contiguous() for name, tensor in self.pack_tensors().items()
        }
        return ScorerState(self.method.name, asdict(self.method), tensors)  # type: ignore[call-overload]


class AnomalyMapScorer(UnknownScorer):
    """A scorer that also says where in an image the unknown is."""

    @property
    @abstractmethod
    def has_maps(self) -> bool:
        """Whether it was fitted with maps."""

    @abstractmethod
    def compute_maps(self, images: Images) -> Maps:
        """Return one map per image of a batch, at the size of the images; higher is more unknown.

        Raises:
            ConfigError: the method was fitted without maps.
        """

    def map_anomalies(self, images: Images) -> Maps:
        """Return one map for each of any number of images, on the CPU."""
        return self.run_batches(self.compute_maps, images)


class UnknownMethod(ABC):
    """Learns what is known to a classifier; prints as its own settings.

    Attributes:
        name: the name that people type.
        needs_labels: whether it learns from the classes of the known images.
        trains: whether a network is trained, which takes long.
        renamed_settings: today's names of settings by those of older folders and commands.
    """

    name: ClassVar[str]
    needs_labels: ClassVar[bool] = False
    trains: ClassVar[bool] = False
    renamed_settings: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def fit(self, known: KnownImages, report: ProgressCallback = ignore_progress) -> UnknownScorer:
        """Fit the method to known images.

        Args:
            known: a classifier and known images.
            report: receives how far the work is.

        Returns:
            The scorer.

        Raises:
            ImagesError: there are too few images or classes.
            ClassifierError: the classifier does not give what the method needs.
        """

    @abstractmethod
    def restore(self, classifier: Classifier, tensors: Mapping[str, Tensor]) -> UnknownScorer:
        """Make the scorer of `UnknownScorer.pack_tensors` again.

        Args:
            classifier: the classifier that the scorer was fitted for.
            tensors: what was fitted, by name.

        Returns:
            A scorer that gives the same scores.

        Raises:
            KeyError: a tensor is missing.
        """


def split_batches(images: Images, size: int) -> Iterator[Images]:
    """Yield images in batches of a size; the last one may be smaller."""
    for first in range(0, len(images), size):
        yield images[first : first + size]


def open_layers(classifier: Classifier, name: str) -> FeatureMaps:
    """Return the feature maps of several layers of a classifier's network, for a method.

    Args:
        classifier: a classifier that shows its layers.
        name: name of the method, for the error.

    Returns:
        The last map of each stride, finest first.

    Raises:
        ClassifierError: the classifier shows no layers, or none that are maps.
    """
    try:
        return open_feature_maps(classifier)
    except NoFeatureMapsError as error:
        raise ClassifierError(
            f"{name}: {classifier.spec} shows no layers that are maps; choose a method that looks "
            "at logits only, such as energy or max_softmax"
        ) from error


def check_classes(classifier: Classifier, name: str) -> None:
    """Raise ClassifierError for a regression, whose targets are no classes to be unsure of."""
    if classifier.output.name == "value":
        raise ClassifierError(
            f"{name}: {classifier.spec} predicts a value, and this method looks at the "
            "probabilities of classes; choose mahalanobis or stain_noise"
        )


def check_one_class(classifier: Classifier, name: str) -> None:
    """Raise ClassifierError for a regression, or where each class is decided by itself."""
    check_classes(classifier, name)
    if classifier.decision.is_multiple:
        raise ClassifierError(
            f"{name}: {classifier.spec} decides each class by itself, and this method is for one "
            "class per image; choose mahalanobis or energy"
        )


def check_finite(values: Tensor, name: str, classifier: Classifier) -> Tensor:
    """Return numbers that are all finite.

    Args:
        values: scores or features, `images × …`.
        name: name of the method, for the error.
        classifier: the classifier that gave them.

    Returns:
        The same numbers.

    Raises:
        ClassifierError: some are no numbers.
    """
    wrong = ~values.flatten(1 if values.ndim > 1 else 0).isfinite()
    if wrong.any():
        count = int(wrong.any(1).sum()) if wrong.ndim > 1 else int(wrong.sum())
        raise ClassifierError(
            f"{name}: {classifier.spec} gives no finite numbers for {count} of {len(values)} "
            "images, so they cannot be judged"
        )
    return values
