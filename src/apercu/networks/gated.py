"""What all networks of trained explainers share: an encoder, and a gate that knows the classes."""

from __future__ import annotations

from abc import ABC

import torch
from torch import Tensor, nn

from apercu.networks.encoder import Encoder
from apercu.networks.gate import ClassGate, GateKind
from apercu.types import Images


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
