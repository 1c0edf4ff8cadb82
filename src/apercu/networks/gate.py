"""The class gate: where in the deepest features a class could be; and networks that have one."""

from __future__ import annotations

from abc import ABC
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from apercu.networks.blocks import FeatureAdapter
from apercu.networks.encoder import Encoder
from apercu.types import Images, Logits, Targets

GateKind: TypeAlias = Literal["relative", "published"]
Z_SHARPNESS = 6.0
"""Slope with which the gate closes around the threshold of the z-score."""
ALWAYS_OPEN = -1e6
"""Threshold of the z-score that no class is below."""


class ClassGate(nn.Module):
    """The activation of the target class at each position, and the gate that it opens.

    Dabkowski & Gal 2017, section 4.1: the activation is X_ij · C_s with a learned embedding C. Here
    it has a bias as well, and estimates the logit of the class in standard units of all logits
    (`mean`, `deviation`).

    The `published` gate is σ(activation), which saturates over most of an image that shows the
    class. The `relative` gate is the activation divided by its peak, times σ(peak − threshold): it
    keeps the order of the positions, and stays closed for a class that has no peak.

    With `closes_absent` both are also closed for a class that is unlikely in the image, times
    σ(`Z_SHARPNESS` × (z − `z_threshold`)). Its z-score z is the estimated logit, less the mean over
    all classes, in standard deviations over them. The threshold is chosen after the training; until
    then the gate is open. Peaks of absent classes can be as high as those of present ones, where
    z-scores are not (see docs/experiments.md).

    Args:
        classes: number of classes.
        channels: channels of the deepest feature map.
        kind: kind of the gate, `relative` or `published`.
        closes_absent: whether the gate depends on the z-score of the class, too.
    """

    mean: Tensor
    deviation: Tensor
    z_threshold: Tensor

    def __init__(
        self,
        classes: int,
        channels: int,
        kind: GateKind = "relative",
        *,
        closes_absent: bool = False,
    ) -> None:
        super().__init__()
        self.kind = kind
        self.embedding = nn.Parameter(torch.randn(classes, channels) / channels**0.5)
        self.bias = nn.Parameter(torch.zeros(classes))
        self.sharpness = nn.Parameter(torch.tensor(1.0))
        self.threshold = nn.Parameter(torch.tensor(0.0))
        self.register_buffer("mean", torch.tensor(0.0))
        self.register_buffer("deviation", torch.tensor(1.0))
        self.closes_absent = closes_absent
        if closes_absent:
            self.register_buffer("z_threshold", torch.tensor(ALWAYS_OPEN))

    def compute_activation(self, features: Tensor, targets: Targets) -> Tensor:
        """Return the activation of the target class per position, `batch × 1 × height × width`.

        The features of one image may have many targets.
        """
        maps = self.embedding[targets][:, None] @ features.flatten(2)
        maps = maps + self.bias[targets][:, None, None]
        return maps.reshape(maps.shape[0], 1, *features.shape[2:])

    def forward(self, features: Tensor, targets: Targets) -> Tensor:
        """Return the gate in [0, 1], `batch × 1 × height × width`."""
        gate = self._open_at_positions(features, targets)
        if not self.closes_absent:
            return gate
        present = Z_SHARPNESS * (self.compute_z_scores(features, targets) - self.z_threshold)
        return gate * torch.sigmoid(present)[:, None, None, None]

    def _open_at_positions(self, features: Tensor, targets: Targets) -> Tensor:
        """Return the gate in [0, 1] by the activations of the class alone."""
        activation = self.compute_activation(features, targets)
        if self.kind == "published":
            return torch.sigmoid(self.sharpness * (activation - self.threshold))
        peak = activation.amax((2, 3), keepdim=True)
        present = torch.sigmoid(self.sharpness * (peak - self.threshold))
        return present * F.relu(activation) / peak.clamp(min=1e-3)

    def compute_z_scores(self, features: Tensor, targets: Targets) -> Float[Tensor, " targets"]:
        """Return the z-score of each target among the estimated logits of all classes.

        The features of one image may have many targets.
        """
        pooled, logits = features.mean((2, 3)), self.predict_logits(features)
        mean = logits.mean(1)
        variance = (logits - mean[:, None]).square().mean(1)
        estimates = (self.embedding[targets] * pooled).sum(1) + self.bias[targets]
        return (estimates - mean) / variance.clamp(min=1e-12).sqrt()  # gradients stay finite

    def predict_logits(self, features: Tensor) -> Logits:
        """Return the embedding's estimate of the standardised logits of the classifier."""
        return features.mean((2, 3)) @ self.embedding.T + self.bias

    def standardise(self, logits: Logits) -> Logits:
        """Return logits of the classifier in the units of the activations."""
        return (logits - self.mean) / self.deviation

    def restore_units(self, logits: Logits) -> Logits:
        """Return standardised logits in the units of the classifier."""
        return logits * self.deviation + self.mean

    @torch.no_grad()
    def set_logit_units(self, mean: float, deviation: float) -> None:
        """Set the mean and the standard deviation of all logits, over images and classes."""
        self.mean.fill_(mean)
        self.deviation.fill_(deviation)

    @torch.no_grad()
    def set_threshold(self, present: float, absent: float) -> None:
        """Set the threshold a sixth of the way from the peak of absent classes to that of present.

        It is so low because the image may show a class that the classifier does not predict.

        Args:
            present: typical peak of the activation of a class that is in the image.
            absent: typical peak of the activation of a class that is not.
        """
        distance = max(present - absent, 1e-3)
        self.threshold.fill_(absent + distance / 6)
        self.sharpness.fill_(12 / distance)


class GatedNetwork(nn.Module, ABC):
    """An encoder and a class gate; subclasses add a decoder that makes explanations of them.

    A frozen encoder can have an adapter of its deepest features. Gate and decoder then take these
    as the adapter returns them.

    Args:
        encoder: encoder of the images.
        classes: number of classes of the gate.
        gate_kind: kind of the gate, `relative` or `published`.
        frozen: whether the encoder is frozen from the start (in evaluation mode, without
            gradients); else from the call of `freeze_encoder`.
        adapter_width: channels inside the adapter; 0 for none.
        encoder_side: shorter side in pixels to which images are enlarged for the encoder; None
            leaves them as they are.
        closes_absent: whether the gate depends on the z-score of the class, too.
    """

    def __init__(
        self,
        encoder: Encoder,
        classes: int,
        gate_kind: GateKind,
        *,
        frozen: bool,
        adapter_width: int = 0,
        encoder_side: int | None = None,
        closes_absent: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.encoder_side = encoder_side
        channels = encoder.channels[-1]
        self.adapter = FeatureAdapter(channels, adapter_width) if adapter_width else None
        self.frozen = frozen
        self.encoder_frozen = frozen
        self.classes_frozen = False
        self.gate = ClassGate(classes, encoder.channels[-1], gate_kind, closes_absent=closes_absent)
        if frozen:
            encoder.requires_grad_(False)

    def state_without_frozen_encoder(self) -> dict[str, Tensor]:
        """Return the weights, without those of an encoder that is frozen from the start."""
        return {
            name: tensor.contiguous().cpu()
            for name, tensor in self.state_dict().items()
            if not (self.frozen and name.startswith("encoder."))
        }

    def freeze_encoder(self) -> None:
        """End the training of the encoder, its adapter and the class embedding.

        Training masks makes them forget the classes; see docs/experiments.md.
        """
        self.encoder_frozen = self.classes_frozen = True
        for part in (self.encoder, self.adapter, self.gate.embedding, self.gate.bias):
            if part is not None:
                part.requires_grad_(False)

    def train(self, mode: bool = True) -> GatedNetwork:
        """Set training mode; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.encoder_frozen:
            self.encoder.eval()
            if self.adapter is not None and self.classes_frozen:
                self.adapter.eval()
        return self

    def encode(self, images: Images) -> list[Tensor]:
        """Return feature maps, finest first; one call is enough for any number of classes.

        A frozen encoder computes gradients only for images that require them.
        """
        needs_gradients = not self.encoder_frozen or images.requires_grad
        with torch.set_grad_enabled(torch.is_grad_enabled() and needs_gradients):
            maps = self.encoder(self.enlarge_images(images))
        return self.adapt(maps)

    def enlarge_images(self, images: Images) -> Float[Tensor, "batch channels rows columns"]:
        """Return images at the size at which the encoder takes them."""
        rows, columns = images.shape[2:]
        if self.encoder_side is None or min(rows, columns) == self.encoder_side:
            return images
        scale = self.encoder_side / min(rows, columns)
        size = (round(rows * scale), round(columns * scale))
        return F.interpolate(images, size, mode="bilinear", align_corners=False)

    def adapt(self, maps: list[Tensor]) -> list[Tensor]:
        """Return the feature maps of the encoder as gate and decoder take them."""
        return maps if self.adapter is None else [*maps[:-1], self.adapter(maps[-1])]
