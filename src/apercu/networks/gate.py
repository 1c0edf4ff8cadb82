"""The class gate: where in the deepest features the asked class could be."""

from __future__ import annotations

from abc import ABC
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apercu.networks.encoder import Encoder
from apercu.types import Images, Logits, Targets

GateKind: TypeAlias = Literal["relative", "published"]


class ClassGate(nn.Module):
    """Activation of the asked class at each position, and the gate it opens.

    Dabkowski & Gal 2017, section 4.1: activation X_ij · C_s with a learned embedding C. With a
    bias it estimates the class's logit, in units of the spread of all logits (`mean`,
    `deviation`).

    The `published` gate is σ(activation). It saturates over most of an image that shows the
    class. The `relative` one is the activation as a share of its peak, times σ(peak − threshold):
    it keeps the order of the positions, and stays shut for a class that peaks nowhere.

    Args:
        classes: number of classes.
        channels: channels of the deepest feature map.
        kind: see above.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, classes: int, channels: int, kind: GateKind = "relative") -> None:
        super().__init__()
        self.kind = kind
        self.embedding = nn.Parameter(torch.randn(classes, channels) / channels**0.5)
        self.bias = nn.Parameter(torch.zeros(classes))
        self.sharpness = nn.Parameter(torch.tensor(1.0))
        self.threshold = nn.Parameter(torch.tensor(0.0))
        self.register_buffer("mean", torch.tensor(0.0))
        self.register_buffer("deviation", torch.tensor(1.0))

    def compute_activation(self, features: Tensor, targets: Targets) -> Tensor:
        """Class evidence per position, `batch × 1 × height × width`.

        Many targets may go with the features of one image.
        """
        maps = self.embedding[targets][:, None] @ features.flatten(2)
        maps = maps + self.bias[targets][:, None, None]
        return maps.reshape(maps.shape[0], 1, *features.shape[2:])

    def forward(self, features: Tensor, targets: Targets) -> Tensor:
        """The gate in [0, 1], `batch × 1 × height × width`."""
        activation = self.compute_activation(features, targets)
        if self.kind == "published":
            return torch.sigmoid(self.sharpness * (activation - self.threshold))
        peak = activation.amax((2, 3), keepdim=True)
        present = torch.sigmoid(self.sharpness * (peak - self.threshold))
        return present * F.relu(activation) / peak.clamp(min=1e-3)

    def predict_logits(self, features: Tensor) -> Logits:
        """The embedding's own estimate of the classifier's standardised logits, all at once."""
        return features.mean((2, 3)) @ self.embedding.T + self.bias

    def standardise(self, logits: Logits) -> Logits:
        """Logits of the classifier in the units of the activations."""
        return (logits - self.mean) / self.deviation

    @torch.no_grad()
    def set_logit_units(self, mean: float, deviation: float) -> None:
        """The mean and the standard deviation of all logits, over images and classes."""
        self.mean.fill_(mean)
        self.deviation.fill_(deviation)

    @torch.no_grad()
    def set_threshold(self, present: float, absent: float) -> None:
        """Half open a sixth of the way from an absent class's typical peak to a present one's.

        So low because a class that is there may be one that the classifier does not name.
        """
        way = max(present - absent, 1e-3)
        self.threshold.fill_(absent + way / 6)
        self.sharpness.fill_(12 / way)


class GatedNetwork(nn.Module, ABC):
    """Encoder and class gate; a decoder of its own kind makes explanations of them.

    Args:
        encoder: where features come from.
        classes: number of classes the gate knows.
        kind: of the gate.
        frozen: whether the encoder stays as it is (in evaluation mode and without gradients) from
            the start, or from when it is settled.
    """

    def __init__(
        self, encoder: Encoder, classes: int, gate_kind: GateKind, *, frozen: bool
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.frozen = frozen
        self.encoder_frozen = frozen
        self.gate = ClassGate(classes, encoder.channels[-1], gate_kind)
        if frozen:
            encoder.requires_grad_(False)

    def state_without_frozen_encoder(self) -> dict[str, Tensor]:
        """The state without a frozen encoder, which training leaves as it was."""
        return {
            name: tensor.contiguous().cpu()
            for name, tensor in self.state_dict().items()
            if not (self.frozen and name.startswith("encoder."))
        }

    def freeze_encoder(self) -> None:
        """Ends the embedding phase: encoder and class embedding learn no more.

        Masks teach them to forget the classes; see docs/experiments.md.
        """
        self.encoder_frozen = True
        for part in (self.encoder, self.gate.embedding, self.gate.bias):
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> GatedNetwork:
        """Training mode; a settled encoder stays in evaluation mode."""
        super().train(mode)
        if self.encoder_frozen:
            self.encoder.eval()
        return self

    def encode(self, images: Images) -> list[Tensor]:
        """Feature maps, finest first; one call serves any number of classes.

        A settled encoder passes on slopes only to images that ask for them.
        """
        learns = not self.encoder_frozen or images.requires_grad
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
            return self.encoder(images)
