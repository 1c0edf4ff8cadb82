"""The mask explainer: what a classifier looks at for a class, in one forward pass."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from apercu import maps
from apercu.classifiers.targets import Target, find_class_indices, resolve_targets
from apercu.errors import ConfigError, TargetError
from apercu.explainers.base import TrainedExplainer
from apercu.explainers.mask.network import MaskNetwork, enlarge
from apercu.explainers.mask.settings import MaskSettings
from apercu.types import Images, Logits, Maps, Regions, Targets


@final
class MaskExplainer(TrainedExplainer[MaskNetwork, MaskSettings]):
    """A trained mask explainer (Dabkowski & Gal 2017); it needs its classifier no more.

    The height of a mask has a meaning: the region at a high level is the smallest that is
    sufficient for the class, the region at a low level the smallest whose removal destroys it.

    Example:
        >>> explainer = MaskExplainer.from_pretrained("runs/mobilenet")  # doctest: +SKIP
        >>> masks = explainer.attribute(images, target="tabby")  # doctest: +SKIP
    """

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
        targets = self._resolve_targets(features, target)
        log_odds = self.network.decode(features, targets)
        return enlarge(log_odds, inputs.shape[-2:]).sigmoid()

    @torch.inference_mode()
    def predict_logits(self, inputs: Images) -> Logits:
        """How strongly the explainer itself reads each class, `batch × classes`.

        Raises:
            ImageError: the images have another size or number of channels.
        """
        return self.network.gate.predict_logits(self._encode(inputs)[-1])

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
        indices = (
            find_class_indices(self.classifier_info.names, words)
            .to(self.device)
            .view(targets.shape)
        )
        return self.decode_classes(self._encode(inputs), indices)

    @torch.inference_mode()
    def decode_classes(self, features: list[Tensor], targets: Tensor) -> Tensor:
        """The same from what the encoder made of the images, unchecked.

        Args:
            features: of `network.encode`.
            targets: class indices, `batch × classes`.
        """
        log_odds = self.network.decode_classes(features, targets)
        masks = enlarge(log_odds.flatten(0, 1), self.classifier_info.input.size).sigmoid()
        return masks.view(*targets.shape, *masks.shape[1:])

    def region(self, inputs: Images, target: Target = None, *, level: float = 0.5) -> Regions:
        """Pixels whose mask reaches the level: the dial, destroying if low, sufficient if high.

        Raises:
            ConfigError: the level is not between 0 and 1.
        """
        if not 0 < level < 1:
            raise ConfigError(f"level: expected a number between 0 and 1, got {level}")
        return maps.find_regions(self.attribute(inputs, target), level)

    @torch.inference_mode()
    def predict(self, inputs: Images) -> Targets:
        """The class that the explainer itself reads from its features, per image."""
        return self.predict_logits(inputs).argmax(1)

    def _encode(self, inputs: Images) -> list[Tensor]:
        self.classifier_info.check_images(inputs)
        return self.network.encode(inputs.to(self.device))

    def _resolve_targets(self, features: list[Tensor], target: Target) -> Targets:
        if target is None:
            return self.network.gate.predict_logits(features[-1]).argmax(1)
        return resolve_targets(self.classifier_info.names, target, len(features[-1])).to(
            self.device
        )
