"""A head that trains all weights further; with new weights, supervised learning from scratch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Generator, nn

from apercu.classifiers import Classifier
from apercu.classifiers.distillation_data import PreparedImages, stack_images
from apercu.classifiers.reinitialise import copy_trainable, recalibrate_batchnorm
from apercu.errors import ClassifierError, ConfigError
from apercu.methods.layers import SCORING_LAYERS, find_target_layers
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
        if training.classifier is None or training.images is None or test.images is None:
            raise ConfigError("fine_tuning: expected images beside their features")
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
        return torch.cat(logits).argmax(1)

    def train_network(
        self,
        classifier: Classifier,
        images: PreparedImages,
        chosen: Sequence[int],
        labels: Labels,
        classes: int,
        seed: int,
    ) -> nn.Module:
        """A copy of the classifier's network with a new head, trained; normalised images → logits.

        Args:
            classifier: stays as it is.
            images: all that there are.
            known: the indices of those to training from, and the classes of all.
            classes: how many there are.
            seed: of every draw.

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
            inputs = stack_images(images, drawn)
            if self.turned:
                shown = turn_randomly(shown, generator)
            logits = network(classifier.normalise(shown.to(device)))
            wanted = labels[drawn].to(device)
            each = F.cross_entropy(logits, wanted, reduction="none")
            optimiser.zero_grad()
            torch.autograd.backward((counts[wanted] * each).mean())
            optimiser.step()
            rate.step()
        seen = rows[torch.randperm(len(rows), generator=generator)[:RECALIBRATION_IMAGES]]
        parts = seen.tensor_split(max(1, len(seen) // self.batch))
        shown_again = (stack_images(images, part).to(device) for part in parts)
        recalibrate_batchnorm(network, (classifier.normalise(shown) for shown in shown_again))
        return network


def replace_head(classifier: Classifier, image: torch.Tensor, classes: int, seed: int) -> nn.Module:
    """A copy of a classifier's network whose last layer is new.

    Raises:
        ClassifierError: it cannot be trained, or its last layer cannot be replaced.
    """
    network = copy_trainable(classifier)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if classifier.network.output == "features":
            return nn.Sequential(network, nn.Linear(len(classifier.classes), classes))
        name = find_target_layers(classifier, image[None].to(classifier.device)).head
        parent, _, last = name.rpartition(".")
        old = network.get_submodule(name)
        if not isinstance(old, SCORING_LAYERS):
            raise ClassifierError(f"{classifier.spec}: its last layer {name} cannot be replaced")
        new: nn.Module
        if isinstance(old, nn.Linear):
            new = nn.Linear(old.in_features, classes)
        else:
            new = nn.Conv2d(old.in_channels, classes, 1)
        setattr(network.get_submodule(parent), last, new)
    return network
