"""The class gate: where in the deepest features the asked class could be."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from apercu.types import Logits, Targets


class ClassGate(nn.Module):
    """Activation of the asked class at each position, and the gate it opens.

    Dabkowski & Gal 2017, section 4.1: activation X_ij · C_s with a learned embedding C. The bias
    and the two scalars make the activation an estimate of the class's logit, so that one gate
    fits embeddings that were learned in different ways. Activations are in units of the spread of
    all logits (`mean` and `deviation`).

    Args:
        classes: number of classes.
        channels: channels of the deepest feature map.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(classes, channels) / channels**0.5)
        self.bias = nn.Parameter(torch.zeros(classes))
        self.sharpness = nn.Parameter(torch.tensor(1.0))
        self.threshold = nn.Parameter(torch.tensor(0.0))
        self.register_buffer("mean", torch.tensor(0.0))
        self.register_buffer("deviation", torch.tensor(1.0))

    def activation(self, features: Tensor, targets: Targets) -> Tensor:
        """Class evidence per position, `batch × 1 × height × width`."""
        maps = torch.einsum("bchw,bc->bhw", features, self.embedding[targets])
        return (maps + self.bias[targets, None, None]).unsqueeze(1)

    def forward(self, features: Tensor, targets: Targets) -> Tensor:
        """The gate in (0, 1), `batch × 1 × height × width`."""
        activation = self.activation(features, targets)
        return torch.sigmoid(self.sharpness * (activation - self.threshold))

    def answers(self, features: Tensor) -> Logits:
        """The embedding's own estimate of the classifier's standardised logits, all at once."""
        return features.mean((2, 3)) @ self.embedding.T + self.bias

    def standardised(self, logits: Logits) -> Logits:
        """Logits of the classifier in the units of the activations."""
        return (logits - self.mean) / self.deviation
