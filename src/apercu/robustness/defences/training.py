"""The training of a classifier with a defence: its steps, and its run folder with a card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from apercu import render
from apercu.classifiers import Classifier, save_classifier
from apercu.classifiers.decisions import DecidedLogits
from apercu.classifiers.network import Network
from apercu.classifiers.reinitialise import copy_trainable
from apercu.devices import enable_gradients
from apercu.errors import ConfigError, ImagesError
from apercu.robustness.backdoors.poisoning import PoisonedImages
from apercu.robustness.defences.base import Defence, DefenceBatch
from apercu.robustness.defences.purifier import PurifierDefence, train_purifier
from apercu.robustness.defences.settings import DefenceSettings
from apercu.training.data import LabelTarget, TrainingImages, split_held_out
from apercu.training.module import DegenerateSolution, TrainingModule
from apercu.training.trainer import Trainer
from apercu.types import Images, Logits
from apercu.weights import digest_module

GOOD = 0.9
"""Fraction of predicted targets that needs no training to be better."""
FEW_CLASSES = 0.35
"""Fraction of the classes of a batch below which a network predicts too few of them."""


def _describe_few_classes(means: Mapping[str, float]) -> str | None:
    """Describe a network that predicts few of the classes, whatever the image is."""
    if means["classes"] < FEW_CLASSES:
        return (
            f"the network predicts few of the classes ({means['classes']:.2f} of those there are); "
            "lower the rate, or the budget of the attack"
        )
    return None


DEGENERATE = DegenerateSolution(("classes",), ("classes",), _describe_few_classes)
"""A classifier that predicts few of the classes."""


@final
class DefenceTraining(TrainingModule):
    """The training of a network with a defence, towards labels or the classifier's probabilities.

    Args:
        network: the network that is trained; it has the classifier's own structure.
        classifier: the undefended classifier. A filter in front of it stays there while the network
            learns, unless the defence has filters of its own. Its temperature does not: targets
            have it, and the logits of the network that is trained have none.
        settings: the defence and the schedule.
        seed: seed of all draws.
    """

    degenerate: ClassVar[DegenerateSolution] = DEGENERATE
    trained_buffers: ClassVar[str] = ""

    def __init__(
        self, network: nn.Module, classifier: Classifier, settings: DefenceSettings, seed: int
    ) -> None:
        super().__init__(network, classifier, settings, seed)
        self.settings: DefenceSettings
        self.output = classifier.network.without_temperature()
        self.defence = cast(Defence, settings.defence)
        preparing = classifier.without_filter() if self.defence.has_filters else classifier
        self.normalise = preparing.normalise
        if settings.wanted == "labels":
            self.target_of = LabelTarget(classifier.names)

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        generator = self.step_generator()
        images, labels = (batch, None) if self.target_of is None else batch
        images = self.settings.views(images, generator)
        seed = int(torch.randint(2**31, (), generator=generator))
        if not self.settings.scratch:
            freeze_batchnorm(self.network)
        defence_batch = self.make_batch(images, labels, seed)
        terms = self.defence.compute_losses(defence_batch)
        with torch.no_grad():
            logits = self.compute_inference_logits(images)
            correct = defence_batch.measure_agreement(logits).mean()
        classes = _compare_class_counts(defence_batch, logits)
        self.log_terms(terms, {"right": correct, "classes": classes})
        return torch.stack(list(terms.values())).sum(0).mean()

    def make_batch(self, images: Images, labels: Tensor | None, seed: int) -> DefenceBatch:
        """Make a batch for the defence.

        Args:
            images: clean images in [0, 1], `batch × channels × height × width`.
            labels: class indices; None to take the probabilities of the undefended classifier.
            seed: seed of every draw of the batch.

        Returns:
            The images with the probabilities that the network should give them.
        """
        if labels is None:
            with torch.no_grad():
                targets = self.classifier.predict_probabilities(images)
        else:
            targets = F.one_hot(labels, len(self.classifier.classes)).to(images)
        decision = self.classifier.decision
        return DefenceBatch(
            training_logits=DecidedLogits(self.compute_logits, decision),
            inference_logits=DecidedLogits(self.compute_inference_logits, decision),
            images=images,
            target_probabilities=targets,
            seed=seed,
            decision=decision,
        )

    def compute_logits(self, images: Images) -> Logits:
        """Compute the logits of the network in its present mode, `batch × classes`."""
        raw = self.network(self.normalise(images))
        return self.output.read_logits(raw, len(images))

    def compute_inference_logits(self, images: Images) -> Logits:
        """Compute the logits of the network in inference mode, `batch × classes`."""
        with _inference_mode(self.network):
            return self.compute_logits(images)

    @torch.no_grad()
    def sample_tiles(self, images: Images) -> list[render.Tile]:
        batch = self.make_batch(images, None, self.seed)
        tiles = []
        for inputs in (images, self.defence.make_hard_images(batch)):
            logits = self.compute_inference_logits(inputs)
            probability, top = self.classifier.decision.probabilities(logits)[0].max(0)
            title = self.classifier.names.short_names[int(top)]
            picture = render.to_image(inputs[0].cpu())
            tiles.append(render.Tile(picture, f"{title} {probability:.2f}"))
        return tiles


def _compare_class_counts(batch: DefenceBatch, logits: Logits) -> Tensor:
    """Return the number of classes that logits predict in a batch, relative to its targets."""
    decision = batch.decision
    targets = decision.restore_logits(batch.target_probabilities)
    predicted, expected = (
        decision.find_predicted(values).any(0).sum() for values in (logits, targets)
    )
    return torch.where(expected > 0, predicted / expected.clamp_min(1), 1.0)


def freeze_batchnorm(network: nn.Module) -> None:
    """Put batch norms in inference mode, so that their statistics do not change."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


@contextmanager
def _inference_mode(network: nn.Module) -> Iterator[None]:
    """Put a network in inference mode, and restore the mode of each of its modules afterwards."""
    in_training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in in_training:
            module.training = True


@dataclass(frozen=True)
class DefendedClassifier:
    """A classifier that was trained with a defence, and what was measured.

    Attributes:
        folder: the run folder.
        classifier: the defended classifier, with the filter of the defence in front of its network
            if that is one alone.
        test_filters: names of the filters behind which the network is used, one at a time.
        facts: seconds and steps of the training, and how often targets of images that were held
            out are predicted, as fractions: `honest` on clean images and `hard` on those that the
            defence is for, each also with `_before`; `measured_images` says on how many.
    """

    folder: Path
    classifier: Classifier
    test_filters: tuple[str, ...]
    facts: dict[str, float]


@enable_gradients()
def fit_defence(
    settings: DefenceSettings, trainer: Trainer, *, resume: bool = True
) -> DefendedClassifier:
    """Train a copy of the trainer's classifier with a defence, and save it in the run folder.

    Of a purifier the network of the filter is trained instead, and the classifier stays as it is.
    A temperature calibrates the weights that it was set for, so the new network is trained without
    that of the card, and its card has none.

    Args:
        settings: the defence and the schedule.
        trainer: the classifier, the images and the run folder; of `PoisonedImages` the folder
            also keeps which were poisoned.
        resume: whether to continue a training that was begun in the folder.

    Returns:
        The defended classifier, and what was measured before and after the training.

    Raises:
        ClassifierError: the classifier cannot be trained further.
        ConfigError: the settings need labels, and each class is decided by itself.
        ImagesError: the settings need labels, and there are none.
        RunError: the folder holds a training with other settings.
    """
    trainer.classifier.require_classes()
    if settings.wanted == "labels" and trainer.classifier.decision.is_multiple:
        raise ConfigError(
            f"wanted: labels name one class of an image, and {trainer.classifier.spec} may predict "
            "several at once; set wanted: answers"
        )
    if isinstance(settings.defence, PurifierDefence):
        if isinstance(trainer.source, PoisonedImages):
            raise ConfigError(
                f"poison: {settings.defence.form} learns no classes and no trigger; leave it out"
            )
        defended, facts = train_purifier(
            settings, settings.defence, settings.views, trainer, resume=resume
        )
        return DefendedClassifier(trainer.run, defended, settings.defence.test_filters, facts)
    network = copy_trainable(trainer.classifier, reinitialise=settings.scratch, seed=trainer.seed)
    if settings.wanted == "labels" and not trainer.source.labelled:
        raise ImagesError(f"{trainer.source.name}: has no labels; set wanted: answers")
    with trainer.make_record(settings).begin(resume=resume):
        training = DefenceTraining(network, trainer.classifier, settings, trainer.seed)
        before = _measure_agreement(training, trainer, "before")
        facts = {f"{name}_before": before[name] for name in ("honest", "hard")}
        facts |= trainer.fit(training) | _measure_agreement(training, trainer, "after")
        trainer.note_quality(facts, find_doubts)
        undefended, defence = trainer.classifier.network, settings.defence
        digest = digest_module(network, undefended.source, undefended.options)
        filter = defence.own_filter if defence.has_filters else undefended.filter
        defended = Classifier(
            replace(training.output, forward=network, digest=digest, filter=filter, guard=None)
        )
        _say_what_the_card_loses(undefended, trainer)
        if trainer.is_main_process:
            save_classifier(defended, trainer.run)
            if isinstance(trainer.source, PoisonedImages):
                trainer.source.record.save(trainer.run)
            trainer.save_facts(facts)
    return DefendedClassifier(trainer.run, defended, defence.test_filters, facts)


def _say_what_the_card_loses(undefended: Network, trainer: Trainer) -> None:
    """Say which settings of the card belonged to the weights before, and what to do."""
    if undefended.temperature is not None:
        trainer.say(
            "the temperature on the card calibrates the classifier as it was; the new card has "
            "none, and apercu guard fit calibrates the confidence with labels"
        )
    if undefended.guard is not None:
        trainer.say("the guard on the card belongs to the classifier as it was; fit a new one")


def find_doubts(facts: Mapping[str, float]) -> list[str]:
    """Return why a defended classifier does not look trained, from images held out.

    Args:
        facts: what was measured, by name, before and after the training.

    Returns:
        One phrase for each reason.
    """
    doubts = []
    if facts["hard"] <= facts["hard_before"] and facts["hard"] < GOOD:
        doubts.append(
            "images that the defence is for are predicted no better than before "
            f"({facts['hard_before']:.0%}, now {facts['hard']:.0%})"
        )
    if facts["honest"] < facts["honest_before"] / 2:
        doubts.append(
            f"clean images are predicted much worse ({facts['honest_before']:.0%}, now "
            f"{facts['honest']:.0%})"
        )
    return doubts


@torch.no_grad()
def _measure_agreement(training: DefenceTraining, trainer: Trainer, name: str) -> dict[str, float]:
    """Measure on images that were held out how often the network predicts the targets.

    The keys are `honest` for clean images, `hard` for those that the defence is for, and
    `measured_images` for how many there are of each.
    """
    held_out = split_held_out(len(trainer.source), trainer.seed).held_out
    images = TrainingImages(
        trainer.source, trainer.classifier, held_out, target_of=training.target_of
    )
    correct: dict[str, list[float]] = {"honest": [], "hard": []}
    defence, device = training.defence, trainer.classifier.device
    training.network.to(device)
    for loaded in DataLoader(images, training.settings.schedule.batch):
        clean, labels = (loaded, None) if training.target_of is None else loaded
        clean = clean.to(device)
        labels = None if labels is None else labels.to(device)
        batch = training.make_batch(clean, labels, trainer.seed)
        for key, inputs in (
            ("honest", defence.prepare_clean(clean)),
            ("hard", defence.make_hard_images(batch)),
        ):
            logits = training.compute_inference_logits(inputs)
            correct[key] += batch.measure_agreement(logits).tolist()
        trainer.report(f"measuring {name}", len(correct["hard"]), len(images))
    means = {name: sum(values) / len(values) for name, values in correct.items()}
    return means | {"measured_images": float(len(images))}
