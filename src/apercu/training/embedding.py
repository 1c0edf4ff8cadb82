"""The class embedding, learned before the mask: how the classifier's answers show in features.

Two ways. `Answers` fits all of the classifier's outputs at once by ridge regression: one answer
per class and image is free supervision, where a single label per image starves the embedding.
`Labels` is the published phase: tell real classes from fake ones by the mean activation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from apercu.networks.gate import ClassGate
from apercu.types import Logits


class Answers(BaseModel):
    """Least squares from pooled features to the classifier's logits.

    A frozen encoder leaves a linear problem, solved exactly. One that is trained learns the
    answers together with the embedding, by gradient descent.

    Attributes:
        penalty: weight of the ridge penalty, relative to the mean variance of a feature.
        images: how many training images a frozen encoder is fitted on, at most.
        steps: optimisation steps when the encoder is trained.
        batch: images per such step.
        rate: highest learning rate of such steps.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    form: Literal["answers"] = "answers"
    penalty: float = Field(0.01, gt=0)
    images: int = Field(3000, ge=1)
    steps: int = Field(1500, ge=1)
    batch: int = Field(64, ge=1)
    rate: float = Field(3e-3, gt=0)


class Labels(BaseModel):
    """The published embedding phase: cross-entropy of real against fake classes.

    Attributes:
        steps: optimisation steps.
        batch: images per step.
        rate: highest learning rate, reached after a rise and annealed.
        fakes: probability of a fake class.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    form: Literal["labels"] = "labels"
    steps: int = Field(8500, ge=1)
    batch: int = Field(128, ge=1)
    rate: float = Field(1e-3, gt=0)
    fakes: float = Field(0.5, gt=0, lt=1)


class RidgeMoments:
    """Sums over a stream of (pooled features, logits), enough to solve the regression."""

    def __init__(self, features: int, classes: int) -> None:
        self.count = 0
        self.features = torch.zeros(features, dtype=torch.float64)
        self.logits = torch.zeros(classes, dtype=torch.float64)
        self.gram = torch.zeros(features, features, dtype=torch.float64)
        self.cross = torch.zeros(features, classes, dtype=torch.float64)
        self.squares = 0.0

    def add(self, features: Tensor, logits: Logits) -> None:
        """Takes in one batch: `batch × features` and `batch × classes`."""
        features, logits = features.double().cpu(), logits.double().cpu()
        self.count += len(features)
        self.features += features.sum(0)
        self.logits += logits.sum(0)
        self.gram += features.T @ features
        self.cross += features.T @ logits
        self.squares += logits.square().mean(1).sum().item()

    def scale(self) -> tuple[float, float]:
        """Mean and standard deviation of all logits, over images and classes."""
        mean = (self.logits / self.count).mean().item()
        return mean, max(self.squares / self.count - mean**2, 1e-12) ** 0.5

    def solve(self, penalty: float) -> tuple[Tensor, Tensor]:
        """Embedding `classes × features` and bias `classes` of the least squares fit."""
        mean_features, mean_logits = self.features / self.count, self.logits / self.count
        covariance = self.gram / self.count - torch.outer(mean_features, mean_features)
        cross = self.cross / self.count - torch.outer(mean_features, mean_logits)
        ridge = penalty * covariance.diagonal().mean().clamp(min=1e-12)
        penalised = covariance + ridge * torch.eye(len(covariance), dtype=torch.float64)
        weights = torch.linalg.solve(penalised, cross).T
        return weights.float(), (mean_logits - weights @ mean_features).float()


def fit_answers(
    gate: ClassGate,
    batches: Iterable[Tensor],
    encode: Callable[[Tensor], Tensor],
    ask: Callable[[Tensor], Logits],
    penalty: float,
) -> float:
    """Sets the gate from the classifier's answers; every tenth batch is held out.

    Args:
        gate: the gate to set.
        batches: images, batch by batch.
        encode: images → the deepest feature map.
        ask: images → the classifier's logits.
        penalty: see `Answers`.

    Returns:
        Share of held-out images for which embedding and classifier name the same class.
    """
    moments: RidgeMoments | None = None
    held_out: list[tuple[Tensor, Logits]] = []
    for index, images in enumerate(batches):
        pooled, logits = encode(images).mean((2, 3)), ask(images)
        moments = moments or RidgeMoments(pooled.shape[1], logits.shape[1])
        if index % 10 == 9:
            held_out.append((pooled, logits))
        else:
            moments.add(pooled, logits)
    if moments is None:
        raise ValueError("fit_answers: expected at least one batch of images")
    embedding, bias = moments.solve(penalty)
    gate.set_units(*moments.scale())
    with torch.no_grad():
        gate.embedding.copy_(embedding / gate.deviation)
        gate.bias.copy_((bias - gate.mean) / gate.deviation)
    agreed = [
        (pooled.cpu() @ embedding.T + bias).argmax(1) == logits.cpu().argmax(1)
        for pooled, logits in held_out
    ]
    return torch.cat(agreed).float().mean().item() if agreed else float("nan")
