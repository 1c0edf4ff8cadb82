"""The mask explainer: what a classifier looks at for a class, in one forward pass."""

from __future__ import annotations

from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from apercu import maps
from apercu.classifiers.names import Target, find_class_indices
from apercu.errors import ConfigError, TargetError, format_shape
from apercu.explainers.base import ImagesLike, MaskingExplainer
from apercu.explainers.mask.network import MaskNetwork, enlarge
from apercu.explainers.mask.settings import MaskSettings
from apercu.types import Maps, Regions


@final
class MaskExplainer(MaskingExplainer[MaskNetwork, MaskSettings]):
    """A trained mask explainer (Dabkowski & Gal 2017).

    The height of a mask has a meaning: the region at a high level is the smallest that is
    sufficient for the class, the region at a low level the smallest whose removal destroys it.

    Example:
        >>> explainer = MaskExplainer.from_pretrained("runs/mobilenet")  # doctest: +SKIP
        >>> masks = explainer.attribute(images, target="tabby")  # doctest: +SKIP
    """

    kind: ClassVar[str] = "mask"
    map_scale: ClassVar[Literal["mask", "map"]] = "mask"

    @torch.inference_mode()
    def attribute(self, inputs: ImagesLike, target: Target = None) -> Maps:
        """Return one mask in [0, 1] per image, at the size of the classifier's images.

        Args:
            inputs: the images.
            target: the class to look for; None takes the class that the explainer predicts.

        Returns:
            Masks in [0, 1], `batch × height × width`.

        Raises:
            ImageError: the images have another size or number of channels.
            TargetError: there is no such class, or not one target per image.
        """
        features = self.network.encode(self._prepare_batch(inputs))
        if target is None:
            targets = self.network.gate.predict_logits(features[-1]).argmax(1)
        else:
            targets = self._resolve_targets(target, len(features[-1]))
        log_odds = self.network.decode(features, targets)
        return enlarge(log_odds, self.classifier_info.input.size).sigmoid()

    @torch.inference_mode()
    def attribute_classes(self, inputs: ImagesLike, targets: Tensor) -> Tensor:
        """Return masks of several classes per image for one encoder pass.

        Args:
            inputs: the images.
            targets: class indices, `batch × classes`.

        Returns:
            Masks in [0, 1], `batch × classes × height × width`.

        Raises:
            ImageError: the images have another size or number of channels.
            TargetError: there is no such class, or not one line of targets per image.
        """
        images = self._prepare_batch(inputs)
        if targets.ndim != 2 or len(targets) != len(images) or not targets.shape[1]:
            got = format_shape(targets.shape)
            raise TargetError(f"targets: expected {len(images)} × classes, got {got}")
        indices = find_class_indices(self.classifier_info.names, targets.flatten().tolist())
        indices = indices.to(self.device).view(targets.shape)
        return self.decode_classes(self.network.encode(images), indices)

    @torch.inference_mode()
    def decode_classes(self, features: list[Tensor], targets: Tensor) -> Tensor:
        """Return masks of several classes per image from features, unchecked.

        Args:
            features: feature maps that `network.encode` returned.
            targets: class indices, `batch × classes`.

        Returns:
            Masks in [0, 1], `batch × classes × height × width`.
        """
        log_odds = self.network.decode_classes(features, targets)
        masks = enlarge(log_odds.flatten(0, 1), self.classifier_info.input.size).sigmoid()
        return masks.view(*targets.shape, *masks.shape[1:])

    def region(self, inputs: ImagesLike, target: Target = None, *, level: float = 0.5) -> Regions:
        """Return the pixels whose mask reaches a level: low destroys the class, high is sufficient.

        Args:
            inputs: the images.
            target: see `attribute`.
            level: threshold of the mask, between 0 and 1.

        Returns:
            Regions, `batch × height × width`, bool.

        Raises:
            ConfigError: the level is not between 0 and 1.
        """
        if not 0 < level < 1:
            raise ConfigError(f"level: expected a number between 0 and 1, got {level}")
        return maps.find_regions(self.attribute(inputs, target), level)
