"""The class embedding of mask and counterpart explainers: how each class shows in the features.

There are three ways to learn it, before the explainer itself. `RidgeEmbedding` fits all of the
classifier's logits at once by ridge regression: they are free supervision for every class, where a
single label per image is too little. `MaskedEmbedding` goes on from there with logits of images
that parts were removed from, so that it learns where the evidence is, too. `BinaryEmbedding` is the
published phase: it separates real classes from fake ones by the mean activation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from apercu.classifiers.decisions import ONE_CLASS, Decision
from apercu.networks.gate import ClassGate
from apercu.types import Logits

FEWEST_FITTED = 64
"""Images that an embedding is fitted on even in the shortest training; fewer tell nothing."""


class FeatureBatch(NamedTuple):
    """Features of some images, and the classifier's logits.

    Attributes:
        pooled: pooled features, `batch × features`.
        logits: the classifier's logits, `batch × classes`.
    """

    pooled: Tensor
    logits: Logits


class RidgeEmbedding(BaseModel):
    """Least squares from pooled features to the classifier's logits.

    With a frozen encoder the problem is linear and is solved exactly. An encoder that is trained
    learns the logits together with the embedding, by gradient descent.

    Attributes:
        penalties: weights of the ridge penalty, relative to the mean variance of a feature; the
            one that predicts held-out images best is taken.
        images: number of training images that a frozen encoder is fitted on, at most.
        steps: optimisation steps when the encoder is trained.
        batch: images per such step.
        rate: highest learning rate of such steps.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    form: Literal["answers"] = "answers"
    penalties: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (0.001, 0.01, 0.1, 0.3, 1.0, 3.0), min_length=1
    )
    images: int = Field(3000, ge=1)
    steps: int = Field(1500, ge=1)
    batch: int = Field(64, ge=1)
    rate: float = Field(3e-3, gt=0)

    def shorten(self, fraction: float) -> RidgeEmbedding:
        """Return the settings with a fraction of the steps and images, at least `FEWEST_FITTED`."""
        images = max(math.ceil(fraction * self.images), min(FEWEST_FITTED, self.images))
        steps = math.ceil(fraction * self.steps)
        return self.model_copy(update={"images": images, "steps": max(1, steps)})


class MaskedEmbedding(RidgeEmbedding):
    """Gradient descent to the classifier's logits of images that parts were removed from.

    Cells of the deepest feature map are kept or removed at random in the image. The activations of
    the whole image, summed over the kept cells only, have to predict the logits of what was kept.
    That is the objective of FastSHAP (Jethwani et al. 2022) at the cells of the features, where the
    embedding and an adapter of the frozen features are the amortised explainer. The ridge
    regression is the start.

    Attributes:
        form: name of this way.
        masks: random masks per image.
        width: channels inside the adapter.
    """

    form: Literal["masked"] = "masked"  # type: ignore[assignment]
    steps: int = Field(2400, ge=1)
    masks: int = Field(4, ge=1, le=64)
    width: int = Field(128, ge=1, le=4096)


class BinaryEmbedding(BaseModel):
    """The published embedding phase: cross-entropy of real against fake classes.

    Attributes:
        steps: optimisation steps.
        batch: images per step.
        rate: highest learning rate, reached after a rise and then annealed.
        fakes: probability of a fake class.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    form: Literal["labels"] = "labels"
    steps: int = Field(8500, ge=1)
    batch: int = Field(128, ge=1)
    rate: float = Field(1e-3, gt=0)
    fakes: float = Field(0.5, gt=0, lt=1)

    def shorten(self, fraction: float) -> BinaryEmbedding:
        """Return the settings with a fraction of the steps."""
        steps = math.ceil(fraction * self.steps)
        return self.model_copy(update={"steps": max(1, steps)})


class RidgeMoments:
    """Sums over a stream of pooled features and logits, enough to solve the regression."""

    def __init__(self, features: int, classes: int) -> None:
        self.count = 0
        self.features = torch.zeros(features, dtype=torch.float64)
        self.logits = torch.zeros(classes, dtype=torch.float64)
        self.gram = torch.zeros(features, features, dtype=torch.float64)
        self.cross = torch.zeros(features, classes, dtype=torch.float64)
        self.squares = 0.0

    def add(self, features: Tensor, logits: Logits) -> None:
        """Add one batch: `batch × features` and `batch × classes`."""
        features, logits = features.cpu().double(), logits.cpu().double()
        self.count += len(features)
        self.features += features.sum(0)
        self.logits += logits.sum(0)
        self.gram += features.T @ features
        self.cross += features.T @ logits
        self.squares += logits.square().mean(1).sum().item()

    def state_dict(self) -> dict[str, Any]:
        """Return the sums by name."""
        return dict(vars(self))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set the sums, as `state_dict` returned them."""
        vars(self).update(state)

    def scale(self) -> tuple[float, float]:
        """Return the mean and the standard deviation of all logits, over images and classes."""
        mean = (self.logits / self.count).mean().item()
        return mean, max(self.squares / self.count - mean**2, 1e-12) ** 0.5

    def solve(self, penalty: float) -> tuple[Tensor, Tensor]:
        """Return the embedding, `classes × features`, and the bias, `classes`, of the fit."""
        mean_features, mean_logits = self.features / self.count, self.logits / self.count
        covariance = self.gram / self.count - torch.outer(mean_features, mean_features)
        cross = self.cross / self.count - torch.outer(mean_features, mean_logits)
        ridge = penalty * covariance.diagonal().mean().clamp(min=1e-12)
        penalised = covariance + ridge * torch.eye(len(covariance), dtype=torch.float64)
        weights = torch.linalg.solve(penalised, cross).T
        return weights.float(), (mean_logits - weights @ mean_features).float()


def fit_ridge(
    gate: ClassGate,
    training: Iterable[FeatureBatch],
    held_out: Iterable[FeatureBatch],
    penalties: Sequence[float],
) -> float:
    """Set the gate's embedding and bias by ridge regression to the classifier's logits.

    Args:
        gate: the gate to set.
        training: batches that the embedding is fitted to.
        held_out: batches that choose the penalty; without any, the largest penalty is taken.
        penalties: weights of the penalty to choose from, see `RidgeEmbedding`.

    Returns:
        Fraction of held-out images for which embedding and classifier predict the same class.
    """
    moments: RidgeMoments | None = None
    for pooled, logits in training:
        moments = moments or RidgeMoments(pooled.shape[1], logits.shape[1])
        moments.add(pooled, logits)
    if moments is None:
        raise ValueError("fit_ridge: expected at least one batch of images")
    return solve_ridge(gate, moments, list(held_out), penalties)


def solve_ridge(
    gate: ClassGate,
    moments: RidgeMoments,
    held_out: Sequence[FeatureBatch],
    penalties: Sequence[float],
    decision: Decision = ONE_CLASS,
) -> float:
    """Set the gate's embedding and bias from the sums over the training images.

    Args:
        gate: the gate to set.
        moments: the sums over the training images.
        held_out: batches that choose the penalty; without any, the largest penalty is taken.
        penalties: weights of the penalty to choose from, see `RidgeEmbedding`.
        decision: the decision of the classifier.

    Returns:
        How often embedding and classifier agree on images held out, see `Decision.agreement`.
    """
    best, agreement, least = moments.solve(max(penalties)), float("nan"), float("inf")
    unseen = [(batch.pooled.cpu(), batch.logits.cpu()) for batch in held_out]
    if unseen:
        pooled, logits = (torch.cat(parts) for parts in zip(*unseen, strict=True))
        for penalty in penalties:
            embedding, bias = moments.solve(penalty)
            predicted = pooled @ embedding.T + bias
            error = (predicted - logits).square().mean().item()
            if error < least:
                best, least = (embedding, bias), error
                agreement = decision.agreement(predicted, logits).mean().item()
    embedding, bias = (values.to(gate.embedding.device) for values in best)
    gate.set_logit_units(*moments.scale())
    with torch.no_grad():
        gate.embedding.copy_(embedding / gate.deviation)
        gate.bias.copy_((bias - gate.mean) / gate.deviation)
    return agreement
