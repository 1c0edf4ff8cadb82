"""The base of every trained explainer: a network, its classifier's identity, a run folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Generic,
    Literal,
    TypeAlias,
    TypeVar,
    final,
    overload,
)

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from apercu.classifiers.names import ClassChoice, ClassWord, Target, resolve_targets
from apercu.devices import read_device
from apercu.errors import ImageError, format_shape
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.explainers.settings import ExplainerSettings
from apercu.images.reader import convert_picture
from apercu.networks.gate import ClassGate, GatedNetwork
from apercu.types import Images, Logits, Maps, Picture, Targets
from apercu.verdicts import GuardChoice

if TYPE_CHECKING:
    from apercu.classifiers import Classifier
    from apercu.explain import CounterpartExplanation, Explanations, MaskExplanation
    from apercu.explain.explain_images import ImageLike
    from apercu.explain.options import SecondLookChoice


N = TypeVar("N", bound=nn.Module)
GN = TypeVar("GN", bound=GatedNetwork)
S = TypeVar("S", bound=ExplainerSettings)
E = TypeVar("E", bound="TrainedExplainer")  # type: ignore[type-arg]


class TrainedExplainer(ABC, Generic[N, S]):
    """An explainer that was trained for one classifier, and no longer needs it.

    Wherever images are taken, they are a tensor of images in [0, 1] at the classifier's size, or
    numpy arrays, Pillow images or lists of pictures of any size.

    Args:
        network: the trained network.
        classifier_info: identity, input and classes of the classifier.
        settings: the settings of the training.
        facts: what was measured in training, by name.

    Attributes:
        kind: name of the kind of explainer, as people type it.
        makes_masks: whether it explains by masks in [0, 1] with a level, rather than by changed
            images.
        map_scale: how the values of `attribute` are read, `mask` or `map`.
    """

    kind: ClassVar[str]
    makes_masks: ClassVar[bool] = False
    map_scale: ClassVar[Literal["mask", "map"]] = "map"

    def __init__(
        self, network: N, classifier_info: ClassifierInfo, settings: S, facts: dict[str, float]
    ) -> None:
        self.network: N = network.eval()
        self.classifier_info = classifier_info
        self.settings: S = settings
        self.facts = dict(facts)
        self.device = torch.device("cpu")

    @abstractmethod
    def attribute(self, inputs: ImagesLike, target: Target = None) -> Maps:
        """Return one map per image, at the size of the images.

        Args:
            inputs: the images.
            target: one class for all images or one for each; None takes the class that the
                explainer itself predicts.

        Returns:
            Maps, `batch × height × width`; higher is more evidence.

        Raises:
            ImageError: the images have another size or number of channels.
            TargetError: there is no such class, or not one target per image.
        """

    @abstractmethod
    def predict_logits(self, inputs: ImagesLike) -> Logits:
        """Return the explainer's own estimate of the classifier's logits, `batch × classes`.

        With a class gate they are in standard units: less the mean of all logits, divided by their
        standard deviation. `estimate_logits` has the classifier's units.

        Raises:
            ImageError: the images have another size or number of channels.
        """

    @torch.inference_mode()
    def estimate_logits(self, inputs: ImagesLike) -> Logits:
        """Return an estimate of the classifier's logits in its own units, `batch × classes`.

        Probabilities, the value of a regression, and which of several classes are predicted follow
        from these.

        Raises:
            ImageError: the images have another size or number of channels.
        """
        logits, gate = self.predict_logits(inputs), getattr(self.network, "gate", None)
        return gate.restore_units(logits) if isinstance(gate, ClassGate) else logits

    def __call__(self, inputs: ImagesLike, target: Target = None) -> Maps:
        """Return one map per image; see `attribute`."""
        return self.attribute(inputs, target)

    def predict(self, inputs: ImagesLike) -> Targets:
        """Return the class that the explainer itself predicts for each image.

        Raises:
            ImageError: the images have another size or number of channels.
        """
        return self.predict_logits(inputs).argmax(1)

    @overload
    def explain(  # type: ignore[overload-overlap]  # other words name one class
        self,
        image: ImageLike | Sequence[ImageLike],
        target: Literal["all", "predicted"],
        *,
        top: int | None = None,
        level: float = 0.5,
        second_look: SecondLookChoice | None = None,
        classifier: Classifier | None = None,
        guard: GuardChoice = None,
    ) -> Explanations: ...

    @overload
    def explain(  # type: ignore[overload-overlap]  # a text is one image, not several
        self,
        image: ImageLike,
        target: ClassWord | None = None,
        *,
        top: int | None = None,
        level: float = 0.5,
        second_look: SecondLookChoice | None = None,
        classifier: Classifier | None = None,
        guard: GuardChoice = None,
    ) -> MaskExplanation | CounterpartExplanation: ...

    @overload
    def explain(
        self,
        image: Sequence[ImageLike],
        target: ClassWord | None = None,
        *,
        top: int | None = None,
        level: float = 0.5,
        second_look: SecondLookChoice | None = None,
        classifier: Classifier | None = None,
        guard: GuardChoice = None,
    ) -> Explanations: ...

    def explain(
        self,
        image: ImageLike | Sequence[ImageLike],
        target: ClassWord | None = None,
        *,
        top: int | None = None,
        level: float = 0.5,
        second_look: SecondLookChoice | None = None,
        classifier: Classifier | None = None,
        guard: GuardChoice = None,
    ) -> MaskExplanation | CounterpartExplanation | Explanations:
        """Explain one image of any size, or several: map, box, pictures of both, and files.

        Args:
            image: a file, a Pillow image, an array `height × width × channels`, or a tensor
                `channels × height × width`; or a list of these.
            target: the class to explain by name or index; None for the predicted one, `all` and
                `predicted` for several. With counterparts it is the class to change into; None for
                the runner-up.
            top: the largest number of classes of an image for `all` and `predicted`; None for 20.
            level: where a mask is cut for its box, in (0, 1).
            second_look: `doubtful` or `all`: these masks are searched for a smaller crop that keeps
                the class, with 20 queries of the classifier each; None for no mask.
            classifier: predicts the classes and their probabilities, where it is given.
            guard: a guard or its folder, which says whether the prediction may be believed
                (`explanation.trust`); `none` for none, None for that of the classifier's card.

        Returns:
            The explanation, which shows itself in a notebook; of several images or classes
            `Explanations`.

        Raises:
            ImageError: an image is missing, cannot be read, or has another number of channels.
            TargetError: there is no such class, or the image is predicted as it already.
            RunError: explainer or guard do not belong to the classifier.
            ConfigError: the level is not between 0 and 1, counterparts are given one, or a second
                look is asked for and nobody knows the classifier.
        """
        from apercu.explain import explain_image

        return explain_image(
            self,
            image,
            target,
            top=top,
            level=level,
            second_look=second_look,
            classifier=classifier,
            guard=guard,
        )

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why the explainer does not look trained; empty where it does, or where nothing tells."""
        from apercu.explainers.kind import LOOKS_TRAINED, find_kind

        if self.facts.get(LOOKS_TRAINED, 1.0):
            return ()
        try:
            return tuple(find_kind(self.kind).judge_training(self.settings, self.facts) or ())
        except LookupError:  # facts that somebody has cut down
            return ()

    @property
    def own_classifier(self) -> Classifier | None:
        """The explained classifier, where its layers are the encoder; else None."""
        encoder = getattr(self.network, "encoder", None)
        held: list[Classifier] = getattr(encoder, "classifier", [])  # a GraphEncoder holds one
        fingerprint = self.classifier_info.fingerprint
        return next((own for own in held if own.fingerprint == fingerprint), None)

    @property
    def classes(self) -> tuple[str, ...]:
        """Readable names of the classes."""
        return self.classifier_info.classes

    @classmethod
    def from_pretrained(
        cls: type[E], run: str | Path, *, device: str | torch.device = "cpu", trust: bool = False
    ) -> E:
        """Open a run folder.

        Args:
            run: the run folder.
            device: `auto`, `cpu`, `cuda`, `mps`, or a device of torch.
            trust: whether the folder may name a factory, whose code is run.

        Returns:
            The explainer.

        Raises:
            UntrustedError: the folder could run code, and is not trusted.
            RunError: the folder is no run of this kind, or its training has not finished.
        """
        from apercu.explainers.run_folder import load_run

        return load_run(run, cls, trust=trust).to(device)

    def save_pretrained(self, run: str | Path) -> None:
        """Write a run folder that `from_pretrained` opens.

        Raises:
            RunError: the folder holds a saved classifier or a guard.
            OutputError: the folder cannot be written.
        """
        from apercu.explainers.run_folder import save_run

        save_run(self, run)

    def to(self: E, device: str | torch.device) -> E:
        """Move the network to a device, and return the explainer.

        Args:
            device: `auto` (a GPU where there is one), `cpu`, `cuda`, `mps`, or a device of torch.

        Returns:
            This explainer.

        Raises:
            ConfigError: there is no such device.
        """
        self.device = read_device(device)
        self.network.to(self.device)
        return self

    def prepare(self, picture: Picture) -> Tensor:
        """Return a picture of any size as the explainer takes it: all of it, squashed."""
        return self.classifier_info.prepare(picture)

    def _repr_html_(self) -> str:
        """Return a short card, for notebooks: what is explained, how it was trained, any doubts."""
        from apercu.pages import count_noun, render_output

        info, facts, doubts = self.classifier_info, self.facts, self.doubts
        names = ", ".join(info.names.short_names[:3])
        size = format_shape(info.input.size)
        rows = [
            ("classes", f"{len(self.classes):,}: {names}{', …' if len(self.classes) > 3 else ''}"),
            (
                "images",
                f"{size} pixels, {count_noun(info.input.channels, 'channel')}; others are resized",
            ),
        ]
        if {"steps", "training_images"} <= facts.keys():
            trained = f"{facts['steps']:,.0f} steps on {facts['training_images']:,.0f} images"
            rows.append(("trained", trained))
        notes = [f"It does not look trained: {'; '.join(doubts)}."] if doubts else []
        notes.append("explainer.explain(IMAGE) explains one image, explainer(IMAGES) gives maps.")
        heading = f"{self.kind.capitalize()} explainer of {info.spec}"
        return render_output([heading], cells=rows, notes=notes)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.classifier_info.spec}, {len(self.classes)} classes)"

    def _prepare_batch(self, inputs: ImagesLike) -> Images:
        """Return images as a checked batch on the explainer's device."""
        images = batch_images(inputs, self.classifier_info)
        self.classifier_info.check_images(images)
        return images.to(self.device, torch.float32)

    def _resolve_targets(self, target: ClassChoice, count: int) -> Targets:
        """Return the index of one class per image, on the explainer's device."""
        return resolve_targets(self.classifier_info.names, target, count).to(self.device)


AnyExplainer: TypeAlias = TrainedExplainer[Any, Any]
"""A trained explainer of any kind."""


class MaskingExplainer(TrainedExplainer[GN, S], ABC):
    """A trained explainer that explains by masks, from features that serve all classes."""

    makes_masks: ClassVar[bool] = True

    @final
    @torch.inference_mode()
    def predict_logits(self, inputs: ImagesLike) -> Logits:
        features = self.network.encode(self._prepare_batch(inputs))
        return self.network.gate.predict_logits(features[-1])

    @abstractmethod
    def decode_classes(self, features: list[Tensor], targets: Tensor) -> Tensor:
        """Return masks of several classes per image from features, unchecked.

        Args:
            features: feature maps that `network.encode` returned.
            targets: class indices, `batch × classes`.

        Returns:
            Masks in [0, 1], `batch × classes × height × width`.
        """


ImagesLike: TypeAlias = Tensor | NDArray[Any] | Image.Image | Sequence[Any]
"""A batch as a tensor; or arrays with the channels last, Pillow images, and lists of pictures."""


def batch_images(images: ImagesLike, classifier_info: ClassifierInfo) -> Tensor:
    """Return images as the batch that a classifier takes.

    A tensor is returned as it is. Arrays and Pillow images may have any size: they are squashed to
    that of the classifier.

    Args:
        images: a tensor, `batch × channels × height × width`; an array, `batch × height × width ×
            channels` or one picture of it, uint8 or floats in [0, 1]; a Pillow image; or a list of
            pictures, in which a tensor is `channels × height × width`.
        classifier_info: says how the images of the classifier look.

    Returns:
        Floats, `batch × channels × height × width`; a tensor is not checked here.

    Raises:
        ImageError: they are no images, or have another number of channels.
    """
    if isinstance(images, Tensor):
        return images
    channels = classifier_info.input.channels
    several: Sequence[Any] = [images]
    if isinstance(images, np.ndarray):
        several = list(images) if images.ndim == 4 else [images]
    elif isinstance(images, Sequence) and not isinstance(images, str | bytes):
        several = images
    pictures = [convert_picture(picture, channels) for picture in several]
    if not pictures:
        raise ImageError("images: expected at least one, got an empty list")
    return torch.stack([classifier_info.prepare(picture) for picture in pictures])
