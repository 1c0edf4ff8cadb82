"""One training step of a classifier against attacks, as Lightning runs it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, final

import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from apercu import render
from apercu.classifiers import Classifier, save_classifier
from apercu.classifiers.fingerprint import digest_module
from apercu.classifiers.network import convert_to_logits
from apercu.classifiers.preprocessing import normalise
from apercu.classifiers.reinitialise import copy_trainable
from apercu.errors import ImagesError, RunError
from apercu.io import write_file
from apercu.robustness.defences.base import DefenceBatch
from apercu.robustness.defences.settings import DefenceSettings
from apercu.training.data import LabelTarget, TrainingImages, split_held_out
from apercu.training.degeneracy import CLASSIFIERS, DegenerateSolution
from apercu.training.module import TrainingModule
from apercu.training.trainer import Trainer
from apercu.types import Images, Logits


@final
class DefenceTraining(TrainingModule):
    """A network learns a defence; what it should answer, labels or the classifier say.

    Args:
        network: what is trained, of the classifier's own structure.
        classifier: the undefended one.
        settings: defence and schedule.
        seed: of all draws.
    """

    degenerate: ClassVar[DegenerateSolution] = CLASSIFIERS
    trained_buffers: ClassVar[str] = ""

    def __init__(
        self, network: nn.Module, classifier: Classifier, settings: DefenceSettings, seed: int
    ) -> None:
        super().__init__(network, classifier, settings, seed)
        self.settings: DefenceSettings
        if settings.wanted == "labels":
            self.target_of = LabelTarget(classifier)

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        generator = self.step_generator()
        images, labels = (batch, None) if self.target_of is None else batch
        images = self.settings.views(images, generator)
        seed = int(torch.randint(2**31, (), generator=generator))
        if not self.settings.scratch:
            freeze_batchnorm(self.network)
        lesson = self.make_batch(images, labels, seed)
        terms = self.settings.defence.compute_losses(lesson)
        with torch.no_grad():
            seen = self.compute_inference_logits(images).argmax(1)
        classes = len(set(seen.tolist())) / len(set(lesson.labels.tolist()))
        right = (seen == lesson.labels).float().mean()
        self.log_terms(terms, {"right": right, "classes": torch.tensor(classes)})
        return torch.stack(list(terms.values())).sum(0).mean()

    def make_batch(self, images: Images, labels: Tensor | None, seed: int) -> DefenceBatch:
        """What a batch teaches."""
        if labels is None:
            with torch.no_grad():
                wanted = self.classifier.predict_probabilities(images)
        else:
            wanted = F.one_hot(labels, len(self.classifier.classes)).to(images)
        return DefenceBatch(
            self.compute_logits, self.compute_inference_logits, images, wanted, seed
        )

    def compute_logits(self, images: Images) -> Logits:
        """The network in the mode that it is in."""
        known = self.classifier.network
        shown = normalise(images, known.input).contiguous(memory_format=torch.channels_last)
        return convert_to_logits(self.network(shown), known.output, count=len(images))

    def compute_inference_logits(self, images: Images) -> Logits:
        """The network as it will be used."""
        with _inference_mode(self.network):
            return self.compute_logits(images)

    @torch.no_grad()
    def sample_tiles(self, images: Images) -> list[render.Tile]:
        lesson = self.make_batch(images, None, self.seed)
        tiles = []
        for shown in (images, self.settings.defence.make_hard_images(lesson)):
            sure, top = self.compute_inference_logits(shown).softmax(1)[0].max(0)
            title = self.classifier.classes[int(top)].partition(",")[0]
            picture = render.to_image(shown[0].cpu())
            tiles.append(render.Tile(picture, f"{title} {sure:.2f}"))
        return tiles


def freeze_batchnorm(network: nn.Module) -> None:
    """Batch norms keep their statistics."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


@contextmanager
def _inference_mode(network: nn.Module) -> Iterator[None]:
    """The network in inference, its modules as they were afterwards."""
    learning = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in learning:
            module.training = True


CONFIG, FACTS = "config.json", "facts.json"


def train_defence(
    settings: DefenceSettings, trainer: Trainer
) -> tuple[Classifier, dict[str, float]]:
    """Trains a copy of the fit's classifier and leaves it in the run folder.

    Args:
        settings: what is trained.
        fit: of which classifier, on which images, where.

    Returns:
        The defended classifier; what was measured on images held out, before and after: how often
        honest images, and those that the defence is for, are answered as wanted.

    Raises:
        ClassifierError: the classifier cannot be trained further.
        ImagesError: labels are wanted, and there are none.
        RunError: the folder holds a training of other settings.
    """
    network = copy_trainable(trainer.classifier, reinitialise=settings.scratch, seed=trainer.seed)
    if settings.wanted == "labels" and not trainer.source.labelled:
        raise ImagesError(f"{trainer.source.name}: has no labels; set wanted: answers")
    _claim(trainer.run / CONFIG, settings)
    training = DefenceTraining(network, trainer.classifier, settings, trainer.seed)
    facts = {
        f"{name}_before": value for name, value in _measure_agreement(training, trainer).items()
    }
    facts |= trainer(training) | _measure_agreement(training, trainer)
    known = trainer.classifier.network
    digest = digest_module(network, known.source, known.options)
    defended = Classifier(replace(known, forward=network, digest=digest))
    if trainer.is_main_process:
        save_classifier(defended, trainer.run)
        write_file(trainer.run / FACTS, json.dumps(facts, indent=1) + "\n")
    return defended, facts


@torch.no_grad()
def _measure_agreement(training: DefenceTraining, trainer: Trainer) -> dict[str, float]:
    """On images held out: how often the network answers as wanted."""
    held_out = split_held_out(len(trainer.source), trainer.seed)[1]
    images = TrainingImages(
        trainer.source, trainer.classifier, held_out, target_of=training.target_of
    )
    right: dict[str, list[bool]] = {"honest": [], "hard": []}
    device = trainer.classifier.device
    training.network.to(device)
    for batch in DataLoader(images, training.settings.schedule.batch):
        pictures, labels = (batch, None) if training.target_of is None else batch
        pictures = pictures.to(device)
        labels = None if labels is None else labels.to(device)
        lesson, defence = (
            training.make_batch(pictures, labels, trainer.seed),
            training.settings.defence,
        )
        for name, shown in (
            ("honest", defence.prepare_clean(pictures)),
            ("hard", defence.make_hard_images(lesson)),
        ):
            right[name] += (
                training.compute_inference_logits(shown).argmax(1) == lesson.labels
            ).tolist()
    return {name: sum(found) / len(found) for name, found in right.items()}


def _claim(path: Path, settings: DefenceSettings) -> None:
    """Writes down what is trained here, or checks that it is what was begun."""
    if not path.is_file():
        write_file(path, settings.model_dump_json(indent=1))
        return
    try:
        begun = DefenceSettings.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise RunError(f"{path}: cannot be read; choose another --out") from error
    if begun != settings:
        raise RunError(f"{path}: the training begun here had other settings; use those")
