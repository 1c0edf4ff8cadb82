"""Explainers that change an image until the classifier changes its mind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from apercu.classifiers.targets import Target, resolve_targets
from apercu.errors import TargetError
from apercu.explainers.base import TrainedExplainer
from apercu.explainers.counterpart.objective import runner_up
from apercu.explainers.settings import ExplainerSettings
from apercu.types import Images, Logits, Maps, Targets

N = TypeVar("N", bound=nn.Module)
S = TypeVar("S", bound=ExplainerSettings)

STRIP_LENGTH = 7
"""Pictures of a strip, both ends included."""


@dataclass(frozen=True, eq=False)
class Counterparts:
    """From images that are seen as they are to images that are seen as something else.

    Attributes:
        stable: seen as the image is seen; the image itself, or close to it.
        adversarial: seen as what is wanted, or meant to be.
        seen: the class of the stable ones.
        wanted: the class of the adversarial ones.
        between: pictures on the way from one to the other, in order, without either.
    """

    stable: Images
    adversarial: Images
    predicted: Targets
    target: Targets
    between: tuple[Images, ...] | None = None

    @property
    def difference(self) -> Images:
        """What the adversarial images have more, or less, than the stable ones."""
        return self.adversarial - self.stable

    @property
    def maps(self) -> Maps:
        """How much each pixel changes: the mean over the channels."""
        return self.difference.abs().mean(1)

    @property
    def strip(self) -> Float[Tensor, "steps batch channels height width"]:
        """All from stable to adversarial; the straight way where no other is known."""
        if self.between is not None:
            return torch.stack([self.stable, *self.between, self.adversarial])
        shares = torch.linspace(0, 1, STRIP_LENGTH).tolist()
        return torch.stack([torch.lerp(self.stable, self.adversarial, share) for share in shares])


class CounterfactualExplainer(TrainedExplainer[N, S], ABC):
    """A trained explainer that shows an image as another class; it needs its classifier no more."""

    @torch.inference_mode()
    def attribute(self, inputs: Images, target: Target = None) -> Maps:
        """How much each pixel would have to change for the class to be lost, or gained.

        Args:
            inputs: images in [0, 1] at the classifier's size.
            target: the class in question; None takes what the explainer reads as the top class.
                In an image that is read as it, it is lost to the runner-up; else it is gained.

        Raises:
            ImageError: the images have another size or number of channels.
            TargetError: there is no such class, or not one target per image.
        """
        known, answers = self._read_checked(inputs)
        seen = answers.argmax(1)
        wanted = second = runner_up(answers, seen)
        if target is not None:
            asked = resolve_targets(self.classifier_info.names, target, len(inputs)).to(self.device)
            wanted = torch.where(asked == seen, second, asked)
        return self._generate(known, answers, wanted).maps

    @torch.inference_mode()
    def counterparts(
        self, inputs: Images, target: Target = None, *, logits: Logits | None = None
    ) -> Counterparts:
        """Each image as it is seen, and as it would be seen as something else.

        Args:
            inputs: images in [0, 1] at the classifier's size.
            target: the class that the adversarial ones should have; None takes the runner-up.
            answers: what the classifier answers, where it has been asked; else the explainer
                reads it itself.

        Raises:
            ImageError: the images have another size or number of channels.
            TargetError: there is no such class, not one target per image, or an image is seen as
                its target already.
        """
        known, read = self._read_checked(inputs)
        logits = read if logits is None else logits.to(self.device)
        seen = logits.argmax(1)
        if target is None:
            return self._generate(known, logits, runner_up(logits, seen))
        wanted = resolve_targets(self.classifier_info.names, target, len(inputs)).to(self.device)
        if (same := (wanted == seen).nonzero()).numel():
            name = self.classifier_info.classes[int(seen[same[0, 0]])]
            raise TargetError(f"target: the image is seen as {name} already; choose another class")
        return self._generate(known, logits, wanted)

    @torch.inference_mode()
    def predict_logits(self, inputs: Images) -> Logits:
        """How strongly the explainer itself reads each class, `batch × classes`.

        Raises:
            ImageError: the images have another size or number of channels.
        """
        return self._read_checked(inputs)[1]

    def _read_checked(self, inputs: Images) -> tuple[Any, Logits]:
        self.classifier_info.check_images(inputs)
        return self._read(inputs.to(self.device))

    @abstractmethod
    def _read(self, images: Images) -> tuple[Any, Logits]:
        """What `_made` needs to know of the images, and what the classifier would answer."""

    @abstractmethod
    def _generate(self, encoded: Any, logits: Logits, targets: Targets) -> Counterparts:
        """Counterparts of images that the classifier answers so, as the wanted classes."""
