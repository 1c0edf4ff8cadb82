"""Removal of a backdoor with few clean images: fine-pruning, and unlearning of a known trigger."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from torch import Generator, Tensor, nn

from apercu.classifiers import Classifier
from apercu.classifiers.network import Network
from apercu.classifiers.reinitialise import copy_trainable
from apercu.errors import ClassifierError, ConfigError, ImagesError
from apercu.filters.checks import check_count, check_fraction, check_positive, check_whole
from apercu.methods.hooks import attach_hook
from apercu.methods.layers import find_head
from apercu.option_strings import MAX_SEED
from apercu.robustness.backdoors.neural_cleanse import ReversedTrigger
from apercu.types import Images, Logits, Targets
from apercu.weights import digest_module

FEWEST_IMAGES = 10
"""Smallest number of labelled clean images to clean a classifier with."""
MOMENTUM = 0.9
PARTS = 32
"""Portions in which channels are pruned."""


@dataclass(frozen=True, eq=False)
class CleanedClassifier:
    """A classifier without its backdoor, as far as the method reaches.

    Attributes:
        classifier: the new classifier, without the temperature of the old one, which calibrated
            other weights; the old one is unchanged.
        pruned: number of channels that were cut off.
    """

    classifier: Classifier
    pruned: int = 0


@dataclass(frozen=True)
class BackdoorRemoval(ABC):
    """Trains a copy of a classifier further with few clean images; prints as its own settings.

    Args:
        steps: number of steps of the training.
        rate: learning rate.
        batch: images of each step.
        images: number of labelled clean images that are used.
        seed: seed of the batches.
    """

    name: ClassVar[str]
    steps: int = 100
    rate: float = 0.01
    batch: int = 32
    images: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        check_count(self.steps, f"{self.name}: steps")
        check_count(self.batch, f"{self.name}: batch")
        check_whole(self.name, FEWEST_IMAGES, 10**6, images=self.images)
        check_positive(self.name, rate=self.rate)
        check_whole(self.name, 0, MAX_SEED, seed=self.seed)

    @abstractmethod
    def __call__(
        self,
        classifier: Classifier,
        images: Images,
        labels: Targets,
        triggers: Sequence[ReversedTrigger] = (),
    ) -> CleanedClassifier:
        """Remove a backdoor.

        Args:
            classifier: classifier whose layers can be reached.
            images: clean images, `batch × channels × height × width`.
            labels: true class of each image.
            triggers: reconstructed triggers of suspicious classes.

        Returns:
            The new classifier.

        Raises:
            ClassifierError: the classifier cannot be trained further.
            ImagesError: there are too few images.
            ConfigError: the method needs a trigger, and there is none.
        """


@final
@dataclass(frozen=True)
class FinePruning(BackdoorRemoval):
    """Cuts off channels that clean images do not use, then trains a little with clean images.

    After Liu, Dolan-Gavitt and Garg (2018). The claim: a backdoor uses channels that are
    dormant on clean images; pruning them in the order of their mean activation, until the
    accuracy falls, and fine-tuning afterwards removes it. Our choices: the channels are the inputs
    of the last layer; batch norms keep their statistics; stochastic gradient descent.

    Args:
        tolerance: fall of the accuracy on the clean images that pruning may cost.
        steps: number of steps of fine-tuning.
        rate: learning rate.
        batch: images of each step.
        images: number of labelled clean images that are used.
        seed: seed of the batches.
    """

    name: ClassVar[str] = "fine_pruning"
    tolerance: float = 0.04

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction(self.tolerance, f"{self.name}: tolerance")

    def __call__(
        self,
        classifier: Classifier,
        images: Images,
        labels: Targets,
        triggers: Sequence[ReversedTrigger] = (),
    ) -> CleanedClassifier:
        images, labels = images[: self.images], labels[: self.images]
        copied = _TrainedCopy.make(classifier, images)
        kept = self._prune(copied, images, labels)
        copied.fit(_draw_batches(images, labels, self), self.rate, kept)
        return CleanedClassifier(copied.finish(), int((~kept).sum()))

    @torch.no_grad()
    def _prune(self, copied: _TrainedCopy, images: Images, labels: Targets) -> Tensor:
        """Cut off dormant channels; return which are kept."""
        head, activations = copied.head, copied.measure_activations(images)
        weights, order = head.weight.clone(), activations.argsort()
        kept = torch.ones(len(order), dtype=torch.bool, device=images.device)
        before = copied.measure_accuracy(images, labels)
        for part in order.tensor_split(min(PARTS, len(order)))[:-1]:
            kept[part] = False
            head.weight.copy_(weights * kept)
            if copied.measure_accuracy(images, labels) < before - self.tolerance:
                kept[part] = True
                break
        head.weight.copy_(weights * kept)
        return kept


@final
@dataclass(frozen=True)
class Unlearning(BackdoorRemoval):
    """Trains with clean images, some of which carry a reconstructed trigger and the true label.

    The repair of Neural Cleanse (Wang et al. 2019). The claim: one pass over a tenth of the
    training images, a fifth of them with the reversed trigger, ends the attack and keeps the
    accuracy. Our choices: a number of steps, batch norms that keep their statistics, and each of
    several triggers in turn.

    Args:
        fraction: fraction of the images of a step that carry a trigger.
        steps: number of steps.
        rate: learning rate.
        batch: images of each step.
        images: number of labelled clean images that are used.
        seed: seed of the batches.
    """

    name: ClassVar[str] = "unlearning"
    renamed_settings: ClassVar[Mapping[str, str]] = {"share": "fraction"}
    fraction: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction(self.fraction, f"{self.name}: fraction")

    def __call__(
        self,
        classifier: Classifier,
        images: Images,
        labels: Targets,
        triggers: Sequence[ReversedTrigger] = (),
    ) -> CleanedClassifier:
        if not triggers:
            raise ConfigError(
                "unlearning: needs a reconstructed trigger, and no class is suspicious; "
                "use fine_pruning"
            )
        images, labels = images[: self.images], labels[: self.images]
        copied = _TrainedCopy.make(classifier, images)
        marked = max(1, round(self.fraction * self.batch))

        def mark(number: int, batch: Images) -> Images:
            trigger = triggers[number % len(triggers)]
            return torch.cat([trigger.stamp(batch[:marked]), batch[marked:]])

        copied.fit(_draw_batches(images, labels, self, mark), self.rate)
        return CleanedClassifier(copied.finish())


@dataclass(frozen=True, eq=False)
class _TrainedCopy:
    """A copy of a classifier's network while it is trained."""

    classifier: Classifier
    network: nn.Module
    head: nn.Linear

    @classmethod
    def make(cls, classifier: Classifier, images: Images) -> _TrainedCopy:
        """Copy a network, and find its last layer."""
        if len(images) < FEWEST_IMAGES:
            raise ImagesError(
                f"removal: expected at least {FEWEST_IMAGES} labelled clean images, "
                f"got {len(images)}"
            )
        name = find_head(classifier, images[:2])
        network = copy_trainable(classifier).to(classifier.device)
        head = dict(network.named_modules())[name]
        if not isinstance(head, nn.Linear):
            raise ClassifierError(
                f"removal: expected a linear last layer, and {name} of {classifier.spec} is a "
                f"{type(head).__name__}"
            )
        return cls(classifier, network, head)

    @property
    def output(self) -> Network:
        """What the numbers of the copy mean: those of the classifier without its temperature."""
        return self.classifier.network.without_temperature()

    def compute_logits(self, images: Images) -> Logits:
        raw = self.network(self.classifier.normalise(images))
        return self.output.read_logits(raw, len(images))

    def measure_accuracy(self, images: Images, labels: Targets) -> float:
        return float((self.compute_logits(images).argmax(1) == labels).float().mean())

    def measure_activations(self, images: Images) -> Tensor:
        """Return the mean absolute input of the last layer, one number per channel."""
        inputs: list[Tensor] = []
        with attach_hook(self.head, lambda _module, given, _output: inputs.append(given[0])):
            self.compute_logits(images)
        return inputs[0].flatten(0, -2).abs().mean(0)

    def fit(
        self, batches: Iterable[tuple[Images, Targets]], rate: float, kept: Tensor | None = None
    ) -> None:
        """Train on batches; channels of the last layer that are not kept stay cut off."""
        optimiser = torch.optim.SGD(self.network.parameters(), rate, momentum=MOMENTUM)
        for images, labels in batches:
            loss = self.classifier.decision.target_cross_entropy(
                self.compute_logits(images), labels
            ).mean()
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            if kept is not None:
                with torch.no_grad():
                    self.head.weight.mul_(kept)

    def finish(self) -> Classifier:
        """Return the copy as a classifier."""
        opened = self.output
        digest = digest_module(self.network, opened.source, opened.options)
        return Classifier(replace(opened, forward=self.network, digest=digest, guard=None))


def _draw_batches(
    images: Images,
    labels: Targets,
    settings: FinePruning | Unlearning,
    change: Callable[[int, Images], Images] = lambda _number, batch: batch,
) -> Iterable[tuple[Images, Targets]]:
    """Draw the batches of a training; each is mirrored, or not."""
    generator = Generator().manual_seed(settings.seed)
    for number in range(settings.steps):
        rows = torch.randint(len(images), (settings.batch,), generator=generator)
        mirrored = bool(torch.rand((), generator=generator) < 0.5)
        batch = images[rows.to(images.device)]
        yield change(number, batch.flip(3) if mirrored else batch), labels[rows.to(labels.device)]
