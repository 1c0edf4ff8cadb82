"""What the ways to learn a class embedding share: inputs, ridge regression, descent, peaks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from apercu.classifiers import Classifier
from apercu.classifiers.decisions import ONE_CLASS, Decision
from apercu.explainers.settings import BinaryEmbedding, RidgeEmbedding
from apercu.networks.gate import ClassGate, GatedNetwork
from apercu.progress import ProgressCallback, ignore_progress
from apercu.run_record import Phase
from apercu.training.data import FORWARD_BATCH, TrainingImages
from apercu.types import Images, Logits

LOGITS, STATE = "embedding-logits.ckpt", "embedding.ckpt"
"""Files of work that is not finished: the classifier's logits, and the state."""
DESCENT = "embedding steps"
"""Name of the work of gradient descent, as progress shows it."""
StepResult: TypeAlias = tuple[Tensor, Tensor]
"""The loss of one step, and for each of its images whether it was predicted right."""


@dataclass(frozen=True)
class EmbeddingWork:
    """What a class embedding is learned from, and where the state of the work is kept.

    Args:
        classifier: the classifier that teaches the classes.
        images: the training images.
        seed: seed of all draws.
        folder: folder in which state and result are kept, so that a resumed training reads them.
        say: receives one message.
        report: receives the name of each part of the work, how much is done, and how much there is.
    """

    classifier: Classifier
    images: TrainingImages
    seed: int
    folder: Path
    say: Callable[[str], None] = field(repr=False)
    report: ProgressCallback = field(default=ignore_progress, repr=False)

    def make_phase(self, name: str, file: str, settings: object = None) -> Phase:
        """Return one part of the work, whose state is kept in a file of the folder."""
        key = f"{self.classifier.fingerprint} {len(self.images)} {self.seed} {settings}"
        return Phase(name, self.report, self.folder / file, key)


class FeatureBatch(NamedTuple):
    """Features of some images, and the classifier's logits.

    Attributes:
        pooled: pooled features, `batch × features`.
        logits: the classifier's logits, `batch × classes`.
    """

    pooled: Tensor
    logits: Logits


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
    best, agreement, lowest = moments.solve(max(penalties)), float("nan"), float("inf")
    unseen = [(batch.pooled.cpu(), batch.logits.cpu()) for batch in held_out]
    if unseen:
        pooled, logits = (torch.cat(parts) for parts in zip(*unseen, strict=True))
        for penalty in penalties:
            embedding, bias = moments.solve(penalty)
            predicted = pooled @ embedding.T + bias
            error = (predicted - logits).square().mean().item()
            if error < lowest:
                best, lowest = (embedding, bias), error
                agreement = decision.agreement(predicted, logits).mean().item()
    embedding, bias = (values.to(gate.embedding.device) for values in best)
    gate.set_logit_units(*moments.scale())
    with torch.no_grad():
        gate.embedding.copy_(embedding / gate.deviation)
        gate.bias.copy_((bias - gate.mean) / gate.deviation)
    return agreement


def descend(
    network: GatedNetwork,
    settings: RidgeEmbedding | BinaryEmbedding,
    results: Callable[[int], Iterable[StepResult]],
    phase: Phase,
) -> float:
    """Run the optimiser for the number of steps in the settings, from the state that was kept.

    Args:
        network: the network that is trained.
        settings: number of steps and learning rate.
        results: function from the number of steps done to endless losses; each is computed only
            after the step before it.
        phase: reports the steps and keeps the state.

    Returns:
        Fraction of images predicted right over the last tenth of the steps.
    """
    network.train()
    parameters = [each for each in network.parameters() if each.requires_grad]
    optimiser = AdamW(parameters, lr=settings.rate, weight_decay=1e-4)
    schedule = OneCycleLR(optimiser, settings.rate, total_steps=settings.steps)
    accuracies: list[float] = []
    if state := phase.load():
        accuracies = state["accuracies"]
        network.load_state_dict(state["network"], strict=False)
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["rate"])

    def make_state() -> dict[str, Any]:
        return {
            "accuracies": accuracies,
            "network": network.state_without_frozen_encoder(),
            "optimiser": optimiser.state_dict(),
            "rate": schedule.state_dict(),
        }

    first = len(accuracies)
    phase.note(first, settings.steps)
    for loss, correct in islice(results(first), settings.steps - first):
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        accuracies.append(correct.float().mean().item())
        phase.note(len(accuracies), settings.steps, make_state)
    last = accuracies[-max(1, len(accuracies) // 10) :]
    return sum(last) / len(last)


def split_batches(count: int) -> tuple[list[int], list[int]]:
    """Return numbers of batches to fit on, and of those held out: every tenth, or the last of few.

    >>> split_batches(12 * FORWARD_BATCH)
    ([0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11], [9])
    >>> split_batches(3 * FORWARD_BATCH), split_batches(FORWARD_BATCH)
    (([0, 1], [2]), ([0], []))
    """
    numbers = range(-(-count // FORWARD_BATCH))
    held_out = [n for n in numbers if n % 10 == 9] or list(numbers[1:][-1:])
    return [n for n in numbers if n not in held_out], held_out


@torch.no_grad()
def measure_peaks(
    network: GatedNetwork, classifier: Classifier, batches: Iterable[Images]
) -> tuple[float, float]:
    """Return the mean highest activation of the classifier's top class, and of any other class."""
    network.eval()
    present: list[Tensor] = []
    absent: list[Tensor] = []
    generator = torch.Generator().manual_seed(0)
    for batch in batches:
        batch = batch.to(classifier.device)
        deepest, logits = network.encode(batch)[-1], classifier(batch)
        other = classifier.decision.draw_absent(logits, generator)
        top = classifier.decision.draw_predicted(logits, generator)
        for peaks, targets in ((present, top), (absent, other)):
            peaks.append(network.gate.compute_activation(deepest, targets).amax((1, 2, 3)))
    return torch.cat(present).mean().item(), torch.cat(absent).mean().item()
