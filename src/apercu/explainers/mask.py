"""The mask explainer: what a classifier looks at for a class, in one forward pass."""

from __future__ import annotations

from pathlib import Path
from typing import final

import torch
from torch import Tensor

from apercu import maps
from apercu.errors import ConfigError, TargetError
from apercu.explainers.passport import Passport
from apercu.explainers.targets import Target, class_indices, per_image
from apercu.networks.masking import MaskingNetwork, enlarge
from apercu.training.settings import MaskSettings
from apercu.types import Images, Maps, Picture, Regions, Targets


@final
class MaskExplainer:
    """A trained mask explainer (Dabkowski & Gal 2017); it needs its classifier no more.

    The height of a mask has a meaning: the region at a high level is the smallest that is
    sufficient for the class, the region at a low level the smallest whose removal destroys it.

    Args:
        network: the trained network.
        passport: the classifier that it was trained for.
        settings: how it was trained.
        facts: what was measured in training, by name.

    Example:
        >>> explainer = MaskExplainer.from_pretrained("runs/mobilenet")  # doctest: +SKIP
        >>> masks = explainer.attribute(images, target="tabby")  # doctest: +SKIP
    """

    def __init__(
        self,
        network: MaskingNetwork,
        passport: Passport,
        settings: MaskSettings,
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
    ) -> MaskExplainer:
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

    def to(self, device: str | torch.device) -> MaskExplainer:
        """Moves the network."""
        self.device = torch.device(device)
        self.network.to(self.device)
        return self

    def prepare(self, picture: Picture) -> Tensor:
        """A picture of any size as the explainer takes it: whole, squashed."""
        return self.passport.prepare(picture)

    @torch.inference_mode()
    def attribute(self, inputs: Images, target: Target = None) -> Maps:
        """One mask in [0, 1] per image, at the size of the images.

        Args:
            inputs: images in [0, 1] at the classifier's size.
            target: the class to look for; None takes what the explainer reads as the top class.

        Raises:
            ImageError: the images have another size or number of channels.
            TargetError: there is no such class, or not one target per image.
        """
        features = self._encode(inputs)
        targets = self._targets(features, target)
        log_odds = self.network.decode(features, targets)
        return enlarge(log_odds, inputs.shape[-2:]).sigmoid()

    @torch.inference_mode()
    def attribute_classes(self, inputs: Images, targets: Tensor) -> Tensor:
        """Masks of several classes per image for one encoder pass.

        Args:
            inputs: images in [0, 1] at the classifier's size.
            targets: class indices, `batch × classes`.

        Returns:
            `batch × classes × height × width`.

        Raises:
            ImageError: the images have another size or number of channels.
            TargetError: there is no such class, or not one line of targets per image.
        """
        if targets.ndim != 2 or len(targets) != len(inputs) or not targets.shape[1]:
            shown = " × ".join(map(str, targets.shape)) or "one number"
            raise TargetError(f"targets: expected {len(inputs)} × classes, got {shown}")
        words = targets.flatten().tolist()
        indices = class_indices(self.passport.names, words).to(self.device).view(targets.shape)
        log_odds = self.network.decode_classes(self._encode(inputs), indices)
        masks = enlarge(log_odds.flatten(0, 1), inputs.shape[-2:]).sigmoid()
        return masks.view(*targets.shape, *masks.shape[1:])

    def region(self, inputs: Images, target: Target = None, *, level: float = 0.5) -> Regions:
        """Pixels whose mask reaches the level: the dial, destroying if low, sufficient if high.

        Raises:
            ConfigError: the level is not between 0 and 1.
        """
        if not 0 < level < 1:
            raise ConfigError(f"level: expected a number between 0 and 1, got {level}")
        return maps.regions(self.attribute(inputs, target), level)

    @torch.inference_mode()
    def top(self, inputs: Images) -> Targets:
        """The class that the explainer itself reads from its features, per image."""
        features = self._encode(inputs)
        return self.network.gate.answers(features[-1]).argmax(1)

    def __repr__(self) -> str:
        return f"MaskExplainer({self.passport.spec}, {len(self.passport.classes)} classes)"

    def _encode(self, inputs: Images) -> list[Tensor]:
        self.passport.check_images(inputs)
        return self.network.encode(inputs.to(self.device))

    def _targets(self, features: list[Tensor], target: Target) -> Targets:
        if target is None:
            return self.network.gate.answers(features[-1]).argmax(1)
        return per_image(self.passport.names, target, len(features[-1])).to(self.device)
