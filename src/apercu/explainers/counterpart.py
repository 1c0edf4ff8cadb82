"""The counterpart explainer: how an image would have to change to be seen as something else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from apercu.errors import TargetError
from apercu.explainers.passport import Passport
from apercu.explainers.targets import Target, per_image
from apercu.networks.counterparts import CounterpartNetwork
from apercu.training.counterparts.objective import Exchange, runner_up
from apercu.training.settings.counterpart import CounterpartSettings
from apercu.types import Images, Maps, Picture, Targets


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
class CounterpartExplainer:
    """A trained counterpart explainer (Charachon et al. 2020); it needs its classifier no more.

    Args:
        network: the trained generators.
        passport: the classifier that it was trained for.
        settings: how it was trained.
        facts: what was measured in training, by name.

    Example:
        >>> explainer = CounterpartExplainer.from_pretrained("runs/chest")  # doctest: +SKIP
        >>> pair = explainer.counterparts(images, target="normal")  # doctest: +SKIP
    """

    def __init__(
        self,
        network: CounterpartNetwork,
        passport: Passport,
        settings: CounterpartSettings,
        facts: dict[str, float],
    ) -> None:
        self.network = network.eval()
        self.passport = passport
        self.settings = settings
        self.facts = dict(facts)
        self.device = torch.device("cpu")

    @classmethod
    def from_pretrained(
        cls, run: str | Path, *, device: str | torch.device = "cpu"
    ) -> CounterpartExplainer:
        """Opens a run folder.

        Raises:
            RunError: the folder is no run of this kind, or its training has not finished.
        """
        from apercu.explainers.run import load_run

        return load_run(run, cls).to(device)

    def save_pretrained(self, run: str | Path) -> None:
        """Writes a run folder that `from_pretrained` opens.

        Raises:
            OutputError: the folder cannot be written.
        """
        from apercu.explainers.run import save_run

        save_run(self, run)

    def to(self, device: str | torch.device) -> CounterpartExplainer:
        """Moves the network."""
        self.device = torch.device(device)
        self.network.to(self.device)
        return self

    def prepare(self, picture: Picture) -> Tensor:
        """A picture of any size as the explainer takes it: whole, squashed."""
        return self.passport.prepare(picture)

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

    @torch.inference_mode()
    def answers(self, inputs: Images) -> Tensor:
        """How strongly the explainer itself reads each class, `batch × classes`."""
        self.passport.check_images(inputs)
        return self.network.gate.answers(self.network.encode(inputs.to(self.device))[-1])

    def __repr__(self) -> str:
        return f"CounterpartExplainer({self.passport.spec}, {len(self.passport.classes)} classes)"

    def _read(
        self, inputs: Images, seen: Targets | None = None
    ) -> tuple[list[Tensor], Targets, Targets]:
        """Features, the class each image is seen as, and the one after it."""
        self.passport.check_images(inputs)
        features = self.network.encode(inputs.to(self.device))
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
