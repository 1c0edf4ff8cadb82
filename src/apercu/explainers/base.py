"""The base of every trained explainer: a network, its classifier's identity, a run folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from apercu.classifiers.names import Target
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.explainers.inputs import ImagesLike, batch_images
from apercu.explainers.settings import ExplainerSettings
from apercu.types import Images, Logits, Maps, Picture, Targets

if TYPE_CHECKING:
    from apercu.classifiers import Classifier
    from apercu.explain import CounterpartExplanation, MaskExplanation
    from apercu.explain.explain_images import ImageLike

N = TypeVar("N", bound=nn.Module)
S = TypeVar("S", bound=ExplainerSettings)
E = TypeVar("E", bound="TrainedExplainer")  # type: ignore[type-arg]


class TrainedExplainer(ABC, Generic[N, S]):
    """An explainer that was trained for one classifier, and no longer needs it.

    Wherever images are taken, they are a tensor of images in [0, 1] at the classifier's size, or
    numpy arrays, Pillow images or lists of pictures of any size; see `apercu.explainers.inputs`.

    Args:
        network: the trained network.
        classifier_info: identity, input and classes of the classifier.
        settings: the settings of the training.
        facts: what was measured in training, by name.

    Attributes:
        kind: name of the kind of explainer, as people type it.
        makes_masks: whether its maps are masks in [0, 1] with a level, rather than differences of
            two images.
    """

    kind: ClassVar[str]
    makes_masks: ClassVar[bool] = False

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

        Raises:
            ImageError: the images have another size or number of channels.
        """

    def __call__(self, inputs: ImagesLike, target: Target = None) -> Maps:
        """Return one map per image; see `attribute`."""
        return self.attribute(inputs, target)

    def predict(self, inputs: ImagesLike) -> Targets:
        """Return the class that the explainer itself predicts for each image.

        Raises:
            ImageError: the images have another size or number of channels.
        """
        return self.predict_logits(inputs).argmax(1)

    def explain(
        self,
        image: ImageLike,
        target: int | str | None = None,
        *,
        level: float = 0.5,
        classifier: Classifier | None = None,
    ) -> MaskExplanation | CounterpartExplanation:
        """Explain one image of any size: its map, its box, pictures of both, and files.

        Args:
            image: a file, a Pillow image, an array `height × width × channels`, or a tensor
                `channels × height × width`.
            target: the class to explain by name or index; None for the predicted one. With
                counterparts it is the class to change into; None for the runner-up.
            level: where a mask is cut for its box, in (0, 1).
            classifier: predicts the classes and their probabilities, where it is given.

        Returns:
            The explanation; a notebook shows it as a picture.

        Raises:
            ImageError: the image cannot be read, or has another number of channels.
            TargetError: there is no such class, or the image is predicted as it already.
            RunError: the explainer was trained for another classifier.
            ConfigError: the level is not between 0 and 1, or counterparts are given one.
        """
        from apercu.explain import explain_image

        return explain_image(self, image, target, level=level, classifier=classifier)

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why the explainer does not look trained; empty where it does, or where nothing tells."""
        from apercu.explainers.kind import LOOKS_TRAINED, find_kind

        if self.facts.get(LOOKS_TRAINED, 1.0):
            return ()
        return tuple(find_kind(self.kind).judge_training(self.settings, self.facts) or ())

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
            device: the device of its network.
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
            OutputError: the folder cannot be written.
        """
        from apercu.explainers.run_folder import save_run

        save_run(self, run)

    def to(self: E, device: str | torch.device) -> E:
        """Move the network to a device, and return the explainer."""
        self.device = torch.device(device)
        self.network.to(self.device)
        return self

    def prepare(self, picture: Picture) -> Tensor:
        """Return a picture of any size as the explainer takes it: all of it, squashed."""
        return self.classifier_info.prepare(picture)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.classifier_info.spec}, {len(self.classes)} classes)"

    def _prepare_batch(self, inputs: ImagesLike) -> Images:
        """Return images as a checked batch on the explainer's device."""
        images = batch_images(inputs, self.classifier_info)
        self.classifier_info.check_images(images)
        return images.to(self.device)
