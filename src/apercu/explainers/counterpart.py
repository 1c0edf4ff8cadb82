"""The counterpart explainer: how an image would have to change to be seen as something else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from apercu.errors import TargetError
from apercu.explainers.base import TrainedExplainer
from apercu.explainers.targets import Target, per_image
from apercu.networks.counterparts import CounterpartNetwork
from apercu.training.counterparts.objective import Exchange, runner_up
from apercu.training.settings.counterpart import CounterpartSettings
from apercu.types import Images, Maps, Targets


@dataclass(frozen=True, eq=False)
class Counterpart:
    """An image's two counterparts, for a batch of images.

    Attributes:
        stable: seen as the image is seen; the image itself, or close to it.
        adversarial: seen as what is wanted, or meant to be.
        seen: what the explainer reads each image as.
        wanted: the class of the adversarial ones.
    """

    stable: Images
    adversarial: Images
    seen: Targets
    wanted: Targets

    @property
    def difference(self) -> Images:
        """What the adversarial images have more, or less, than the stable ones."""
        return self.adversarial - self.stable

    @property
    def maps(self) -> Maps:
        """How much each pixel changes: the mean over the channels."""
        return self.difference.abs().mean(1)

    def strip(self, steps: int) -> Tensor:
        """Images on the straight way from stable to adversarial, `steps × batch × …`."""
        shares = torch.linspace(0, 1, steps).tolist()
        return torch.stack([torch.lerp(self.stable, self.adversarial, share) for share in shares])


@final
class CounterpartExplainer(TrainedExplainer[CounterpartNetwork, CounterpartSettings]):
    """A trained counterpart explainer (Charachon et al. 2020); it needs its classifier no more.

    Example:
        >>> explainer = CounterpartExplainer.from_pretrained("runs/chest")  # doctest: +SKIP
        >>> pair = explainer.counterparts(images, target="normal")  # doctest: +SKIP
    """

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
        features, seen, second = self._read(inputs)
        wanted = second
        if target is not None:
            asked = per_image(self.passport.names, target, len(inputs)).to(self.device)
            wanted = torch.where(asked == seen, second, asked)
        return self._made(inputs, features, seen, wanted).maps

    @torch.inference_mode()
    def counterparts(
        self, inputs: Images, target: Target = None, *, seen: Targets | None = None
    ) -> Counterpart:
        """Both counterparts of each image.

        Args:
            inputs: images in [0, 1] at the classifier's size.
            target: the class that the adversarial ones should have; None takes the runner-up.
            seen: what the classifier sees the images as, where it has been asked; else the
                explainer reads it itself.

        Raises:
            ImageError: the images have another size or number of channels.
            TargetError: there is no such class, not one target per image, or an image is seen as
                its target already.
        """
        features, read, second = self._read(inputs, seen)
        if target is None:
            return self._made(inputs, features, read, second)
        wanted = per_image(self.passport.names, target, len(inputs)).to(self.device)
        if (same := (wanted == read).nonzero()).numel():
            name = self.passport.classes[int(read[same[0, 0]])]
            raise TargetError(f"target: the image is seen as {name} already; choose another class")
        return self._made(inputs, features, read, wanted)

    def _read(
        self, inputs: Images, seen: Targets | None = None
    ) -> tuple[list[Tensor], Targets, Targets]:
        """Features, the class each image is seen as, and the one after it."""
        features = self._encode(inputs)
        answers = self.network.gate.answers(features[-1])
        first = answers.argmax(1) if seen is None else seen.to(self.device)
        return features, first, runner_up(answers, first)

    def _made(
        self, inputs: Images, features: list[Tensor], seen: Targets, wanted: Targets
    ) -> Counterpart:
        images = inputs.to(self.device)
        pair = self.network.generate(images, features, seen, wanted)
        asked = Exchange(images, seen, wanted)
        stable = self.settings.objective.compared(asked, pair, self.network)
        return Counterpart(stable, pair.adversarial, seen, wanted)
