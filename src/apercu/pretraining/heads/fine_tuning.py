"""A head that trains all weights further; with new weights, supervised learning from scratch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn

from apercu.classifiers import Classifier
from apercu.classifiers.distillation_data import PreparedImages, stack_images
from apercu.classifiers.reinitialise import copy_trainable, recalibrate_batchnorm
from apercu.errors import ClassifierError, ConfigError
from apercu.methods.layers import SCORING_LAYERS, find_head
from apercu.pretraining.heads.base import (
    LabelledFeatures,
    Labels,
    Learner,
    compute_class_weights,
    count_classes,
)
from apercu.pretraining.pretexts.base import turn_randomly
from apercu.types import Targets

RECALIBRATION_IMAGES = 512
"""Images from which batch norms take their statistics after the training."""


@final
@dataclass(frozen=True)
class FineTuning(Learner):
    """Replaces the last layer, and trains all layers by AdamW with a rate that rises and falls.

    Networks whose features are joined are trained one by one; the mean of their logits decides.

    Args:
        steps: number of batches.
        batch: number of images of a batch, drawn with replacement.
        rate: highest learning rate.
        decay: weight decay.
        turned: whether images are turned by right angles and mirrored.
    """

    steps: int = 200
    batch: int = 32
    rate: float = 1e-3
    decay: float = 1e-2
    turned: bool = False

    def __post_init__(self) -> None:
        if min(self.steps, self.batch) < 1:
            raise ConfigError("fine_tuning: expected steps and batch of at least 1")

    def predict(
        self,
        training: LabelledFeatures,
        chosen: Sequence[int],
        test: LabelledFeatures,
        seed: int,
    ) -> Targets:
        if training.parts:
            pairs = zip(training.parts, test.parts, strict=True)
            logits = [self._compute_logits(own, chosen, other, seed) for own, other in pairs]
            return torch.stack(logits).mean(0).argmax(1)
        return self._compute_logits(training, chosen, test, seed).argmax(1)

    def _compute_logits(
        self,
        training: LabelledFeatures,
        chosen: Sequence[int],
        test: LabelledFeatures,
        seed: int,
    ) -> Float[Tensor, "images classes"]:
        """Train one network, and compute its logits of the test images."""
        if training.classifier is None or training.images is None or test.images is None:
            raise ConfigError("fine_tuning: expected the images of the features")
        classes, device = count_classes(training, test), training.classifier.device
        network = self.train_network(
            training.classifier, training.images, chosen, training.labels, classes, seed
        )
        with torch.no_grad():
            logits = [
                network(
                    training.classifier.normalise(stack_images(test.images, rows).to(device))
                ).cpu()
                for rows in torch.split(torch.arange(len(test.labels)), self.batch)
            ]
        return torch.cat(logits)

    def train_network(
        self,
        classifier: Classifier,
        images: PreparedImages,
        chosen: Sequence[int],
        labels: Labels,
        classes: int,
        seed: int,
    ) -> nn.Module:
        """Train a copy of the classifier's network with a new last layer.

        Args:
            classifier: network, which does not change.
            images: all prepared images.
            chosen: indices of the images to learn from.
            labels: class indices of all images.
            classes: number of classes.
            seed: seed of every draw.

        Returns:
            The trained network, normalised images → logits.

        Raises:
            ClassifierError: the classifier cannot be trained.
        """
        generator, device = Generator().manual_seed(seed), classifier.device
        rows = torch.tensor(list(chosen))
        network = replace_head(classifier, images[0], classes, seed).to(device).train()
        weights = compute_class_weights(labels[rows], classes).to(device)
        optimiser = torch.optim.AdamW(network.parameters(), self.rate, weight_decay=self.decay)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, self.rate, self.steps + 1)
        for _ in range(self.steps):
            drawn = rows[torch.randint(len(rows), (self.batch,), generator=generator)]
            batch = stack_images(images, drawn)
            if self.turned:
                batch = turn_randomly(batch, generator)
            logits = network(classifier.normalise(batch.to(device)))
            targets = labels[drawn].to(device)
            losses = F.cross_entropy(logits, targets, reduction="none")
            optimiser.zero_grad()
            torch.autograd.backward((weights[targets] * losses).mean())
            optimiser.step()
            rate.step()
        used = rows[torch.randperm(len(rows), generator=generator)[:RECALIBRATION_IMAGES]]
        parts = used.tensor_split(max(1, len(used) // self.batch))
        batches = (stack_images(images, part).to(device) for part in parts)
        recalibrate_batchnorm(network, (classifier.normalise(batch) for batch in batches))
        return network


def replace_head(classifier: Classifier, image: torch.Tensor, classes: int, seed: int) -> nn.Module:
    """Copy a classifier's network, and replace its last layer.

    Args:
        classifier: network, which does not change.
        image: one prepared image, with which the last layer is found.
        classes: number of classes.
        seed: seed of the new layer.

    Returns:
        The copy, normalised images → logits.

    Raises:
        ClassifierError: the network cannot be trained, or its last layer cannot be replaced.
    """
    network = copy_trainable(classifier)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if classifier.network.output == "features":
            head = nn.Linear(len(classifier.classes), classes).to(classifier.device)
            return nn.Sequential(network, head)
        name = find_head(classifier, image[None].to(classifier.device))
        parent, _, last = name.rpartition(".")
        old = network.get_submodule(name)
        if not isinstance(old, SCORING_LAYERS):
            raise ClassifierError(f"{classifier.spec}: its last layer {name} cannot be replaced")
        new: nn.Module
        has_bias = old.bias is not None
        if isinstance(old, nn.Linear):
            new = nn.Linear(old.in_features, classes, has_bias)
        else:
            new = nn.Conv2d(old.in_channels, classes, 1, bias=has_bias)
        setattr(network.get_submodule(parent), last, new.to(old.weight.device, old.weight.dtype))
    _check_replaced(classifier, network, image, classes, name)
    return network


@torch.no_grad()
def _check_replaced(
    classifier: Classifier, network: nn.Module, image: torch.Tensor, classes: int, name: str
) -> None:
    """Refuse a network that computes more from its last layer than the logits.

    Raises:
        ClassifierError: with the new layer it fails, or gives another number of logits.
    """
    images = image[None].to(classifier.device)
    try:
        numbers = classifier.network.pick_tensor(network(classifier.normalise(images)))
    except (RuntimeError, ValueError, TypeError, IndexError):
        numbers = torch.empty(0)
    if numbers.numel() != classes:
        raise ClassifierError(
            f"{classifier.spec}: its last layer {name} cannot be replaced, as forward computes "
            f"its logits from more than that layer; let it end in one nn.Linear"
        )
