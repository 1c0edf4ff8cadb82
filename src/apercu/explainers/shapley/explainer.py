"""The Shapley explainer: what each part of an image contributes to a class, in one pass."""

from __future__ import annotations

from typing import ClassVar, Literal, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from apercu.classifiers.names import Target
from apercu.errors import ImageError, format_shape
from apercu.explainers.base import ImagesLike, MaskingExplainer
from apercu.explainers.settings import GatedSettings
from apercu.explainers.shapley.network import ShapleyNetwork, ShapleyShape, ValueKind, Values
from apercu.training.config import ConfigPresets, Schedule
from apercu.types import Logits, Maps


class ShapleySchedule(Schedule):
    """How long and how fast a Shapley explainer is trained.

    Attributes:
        copies: copies of each image of which other cells are left; each is one query.
        classes: classes of each image that are trained, half of them those predicted most.
    """

    steps: int = Field(600, ge=1)
    batch: int = Field(8, ge=1)
    rate: float = Field(2e-3, gt=0)
    copies: int = Field(4, ge=2, le=1024, multiple_of=2)
    classes: int = Field(16, ge=1)


class ShapleySettings(GatedSettings):
    """The settings of a Shapley explainer.

    Attributes:
        explainer: the kind of the explainer.
        shape: size of the grid and of the network.
        value: what is divided among the cells: the logit of a class, or its probability.
    """

    explainer: Literal["shapley"] = "shapley"
    shape: ShapleyShape = ShapleyShape()
    value: ValueKind = "logit"
    schedule: ShapleySchedule = ShapleySchedule()


SHAPLEY_PRESETS = ConfigPresets(ShapleySettings, {"light": ShapleySettings()})


@final
class ShapleyExplainer(MaskingExplainer[ShapleyNetwork, ShapleySettings]):
    """A trained Shapley explainer (FastSHAP, Jethani et al. 2022).

    The cells of a grid are players: the value of some of them is what the classifier predicts
    where the others are hidden by the colour that its normalisation turns into 0. The training
    needs predictions only, so the classifier may be any.

    Example:
        >>> explainer = ShapleyExplainer.from_pretrained("runs/shapley")  # doctest: +SKIP
        >>> values = explainer.shapley_values(images, target="tabby")  # doctest: +SKIP
    """

    kind: ClassVar[str] = "shapley"

    @torch.inference_mode()
    def shapley_values(
        self, inputs: ImagesLike, target: Target = None, *, logits: Logits | None = None
    ) -> Values:
        """Return what each cell of the grid contributes to a class of each image.

        Args:
            inputs: the images.
            target: the class in question; None takes the class that the explainer predicts.
            logits: the classifier's logits, `batch × classes`, where they are known; else the
                explainer's own estimate.

        Returns:
            Values, `batch × rows × columns`, in logits, or as probabilities where the settings say
            so. They add up to the value of the image above that of an image without any cell.

        Raises:
            ImageError: the images have another size or number of channels, or there are not as many
                rows of logits as images.
            TargetError: there is no such class, or not one target per image.
        """
        features = self.network.encode(self._prepare_batch(inputs))
        count, own = len(features[-1]), self.network.gate.predict_logits(features[-1])
        if logits is not None and logits.shape != own.shape:
            expected, got = format_shape(own.shape), format_shape(logits.shape)
            raise ImageError(f"logits: expected {expected}, got {got}")
        targets = own.argmax(1) if target is None else self._resolve_targets(target, count)
        if logits is not None:
            logits = logits.to(own)
        values = self.network.compute_values(features, targets[:, None], logits)[:, 0]
        return values * self.network.unit

    def attribute(self, inputs: ImagesLike, target: Target = None) -> Maps:
        """Return the value of the cell at each pixel, interpolated between their centres.

        Args:
            inputs: the images.
            target: the class in question; None takes the class that the explainer predicts.

        Returns:
            Maps, `batch × height × width`; below 0 where a cell speaks against the class.

        Raises:
            ImageError: the images have another size or number of channels.
            TargetError: there is no such class, or not one target per image.
        """
        return self._enlarge(self.shapley_values(inputs, target)[:, None])[:, 0]

    @torch.inference_mode()
    def decode_classes(self, features: list[Tensor], targets: Tensor) -> Tensor:
        """Return what speaks for several classes per image, as masks, from features.

        Args:
            features: feature maps that `network.encode` returned.
            targets: class indices, `batch × classes`.

        Returns:
            Positive values relative to the highest of the predicted class, in [0, 1], `batch ×
            classes × height × width`.
        """
        return self._enlarge(self.network.compute_masks(features, targets))

    def _enlarge(self, values: Tensor) -> Tensor:
        size = self.classifier_info.input.size
        return F.interpolate(values, size, mode="bilinear", align_corners=False)
